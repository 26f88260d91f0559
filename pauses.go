package kstage

import (
	"context"
	"slices"
)

// pauseSet is why a partition is not fetched: the client's switch is on while
// there is any reason. The client has one switch and no memory of who used it.
type pauseSet uint8

const (
	pausedFull   pauseSet = 1 << iota // the window: dies with the assignment
	pausedBudget                      // the intake's memory: dies with the assignment
	pausedUser                        // Pause: outlives assignments
	pausedDelay                       // a retry partition holds all that is due soon: dies with the assignment

	backpressure = pausedFull | pausedBudget
)

func (s pauseSet) names() []string {
	var names []string
	if s&backpressure != 0 {
		names = append(names, "backpressure")
	}
	if s&pausedUser != 0 {
		names = append(names, "user")
	}
	if s&pausedDelay != 0 {
		names = append(names, "delay")
	}
	return names
}

// apply sets the client's switch from the window's reasons. in.mu is held.
func (in *intake) apply(w *window) {
	w.reasons &^= pausedUser
	if in.allPaused || in.topicsPaused[w.topic] {
		w.reasons |= pausedUser
	}
	tp := map[string][]int32{w.topic: {w.partition}}
	switch want := w.reasons != 0; {
	case want && !w.paused:
		in.client.PauseFetchPartitions(tp)
	case !want && w.paused:
		in.client.ResumeFetchPartitions(tp)
	}
	w.paused = w.reasons != 0
	poke(in.turned)
}

// pauseFull pauses what has reached its bounds, and, while the intake's budget
// is spent, all that holds anything.
func (in *intake) pauseFull() {
	in.mu.Lock()
	defer in.mu.Unlock()
	spent := in.held() >= in.cfg.memoryBudget
	for _, w := range in.windows {
		reasons := w.reasons
		if w.full(in.cfg.window) {
			reasons |= pausedFull
		}
		if spent && w.bytes.Load() > 0 {
			reasons |= pausedBudget
		}
		in.press(w, reasons)
	}
	in.nudge() // a window may have been drained before it was marked
}

// resumeRoomy resumes what is half empty again. While the budget is spent, who
// holds nothing may take one fetch.
func (in *intake) resumeRoomy() {
	in.mu.Lock()
	defer in.mu.Unlock()
	free := in.held() <= in.cfg.memoryBudget/2
	for _, w := range in.windows {
		reasons := w.reasons
		if reasons&pausedFull != 0 && w.roomy(in.cfg.window) {
			reasons &^= pausedFull
		}
		if free || w.bytes.Load() == 0 {
			reasons &^= pausedBudget
		}
		in.press(w, reasons)
	}
}

// delay stops fetching a retry partition while what it holds is not due for long.
func (in *intake) delay(w *window) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.windows[w.topicPartition] != w {
		return
	}
	reasons := w.reasons &^ pausedDelay
	if w.far() {
		reasons |= pausedDelay
	}
	if reasons != w.reasons {
		w.reasons = reasons
		in.apply(w)
	}
}

// press changes a window's reasons of backpressure. in.mu is held.
func (in *intake) press(w *window, reasons pauseSet) {
	if reasons == w.reasons {
		return
	}
	in.full.Add(reasons.pressed() - w.reasons.pressed())
	w.reasons = reasons
	in.apply(w)
}

// pressed is 1 for a window that waits to be resumed by the pauser.
func (s pauseSet) pressed() int32 {
	if s&backpressure != 0 {
		return 1
	}
	return 0
}

// held sums the bytes of all windows. in.mu is held.
func (in *intake) held() (bytes int64) {
	for _, w := range in.windows {
		bytes += w.bytes.Load()
	}
	return bytes
}

// nothingToPoll says that all partitions are paused. Not polling keeps what the
// client has buffered: a poll would throw away what is paused.
func (in *intake) nothingToPoll() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, w := range in.windows {
		if !w.paused {
			return false
		}
	}
	return len(in.windows) > 0
}

// nudge asks for a look at the pauses. It never blocks and needs no lock.
func (in *intake) nudge() {
	if in.full.Load() > 0 {
		poke(in.nudged)
	}
}

// poke fills a one-slot channel; it never blocks.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// pauser resumes windows as they empty, until ctx is done.
func (in *intake) pauser(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-in.nudged:
			in.resumeRoomy()
		}
	}
}

// setPaused is Consumer.Pause and Resume: no topics means all.
func (in *intake) setPaused(paused bool, topics []string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(topics) == 0 {
		in.allPaused = paused
		if !paused {
			clear(in.topicsPaused)
		}
	}
	for _, t := range topics {
		if paused {
			in.topicsPaused[t] = true
		} else {
			delete(in.topicsPaused, t)
		}
	}
	for _, w := range in.windows {
		in.apply(w)
	}
}

// pausedByUser lists what Pause has paused: one reason without a topic for all.
func (in *intake) pausedByUser() (rs []HealthReason) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.allPaused {
		rs = append(rs, HealthReason{Kind: HealthPaused, Partition: -1})
	}
	for t := range in.topicsPaused {
		rs = append(rs, HealthReason{Kind: HealthPaused, Topic: t, Partition: -1})
	}
	return rs
}

// pausedNames says why a window is paused, in words.
func (in *intake) pausedNames(w *window) []string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Clip(w.reasons.names())
}
