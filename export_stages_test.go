package kstage

// RetryLoads tells what each window of the retry topics holds, in any order.
func (c *Consumer) RetryLoads() (ls []Load) {
	in := c.retry
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, w := range in.all() {
		ls = append(ls, Load{w.topic, w.partition, w.count.Load(), w.bytes.Load(), w.span(), w.paused})
	}
	return ls
}
