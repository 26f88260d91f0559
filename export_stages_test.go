package kstage

import (
	"regexp"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

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

// Together makes one option of several.
func Together(opts ...ConsumerOption) ConsumerOption {
	return consumerOption(func(c *consumerConfig) {
		for _, o := range opts {
			o.applyConsumer(c)
		}
	})
}

// OwnTopic tells of a name whether a pattern of c must not match it: by what the
// client is told, and by what the look at the topics goes by.
func OwnTopic(name string, opts ...ConsumerOption) (client, look bool) {
	c := applyConsumerOptions(opts)
	for _, p := range c.ownTopicPatterns() {
		client = client || regexp.MustCompile(p).MatchString(name)
	}
	t := c.topology()
	return client, !t.matcher()(name)
}

// ReadCopy reads what a copy's headers tell of it, as a stage does whose group is g.
func ReadCopy(r *kgo.Record, number int, delay time.Duration, immediate int, now time.Time) (m Message, due, notBefore time.Time, foreign bool) {
	s := stageReader{stage: stage{number: number, delay: delay}, group: "g", immediate: immediate}
	f, more := s.factsOf(r, [16]byte{1}, now)
	f.retry = &more
	return Message{Record: r, facts: &f}, more.due, more.notBefore, more.foreign
}
