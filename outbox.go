package kstage

import (
	"cmp"
	"slices"
	"time"
)

// outbox is the way from one source partition to a target. While the target
// fails, nothing new is produced: what was taken back and what comes is
// collected and sent again in the source's order, after one back-off for all.
// (The client fails all it has of a partition together: a back-off of each
// record's own would shuffle them.) Guarded by handOff.mu.
type outbox struct {
	route
	failedAt int32      // the target's partition that failed last
	waiting  []*copying // to be produced, in order
	refused  []*copying // too large by themselves: blocked
	asked    int        // produced, not answered
	pumping  bool       // somebody feeds the client

	recalling bool        // something was taken back: nothing is sent until all is answered
	backoff   bool        // and it has to wait
	tooLarge  int         // taken back because one of them is too large
	alone     int         // so many are sent one at a time
	failures  int         // flights in a row that failed
	failing   bool        // and it was said so
	timer     *time.Timer // of the back-off; nil: none
	again     *time.Timer // of the refused
}

// copying is one record on its way.
type copying struct {
	*held
	departure
	shed         bool  // without the headers that can be missed
	valueOmitted int64 // bytes of the value that is left out; -1: it is there
	flying       bool  // counted by its window: a drain waits for it
}

// add puts a record behind the others.
func (b *outbox) add(c *copying) {
	b.waiting = append(b.waiting, c)
	c.setFlying(!b.resting())
}

// resting says that nothing may go: answers are missing, or a back-off runs.
func (b *outbox) resting() bool { return b.recalling || b.timer != nil }

// hasNext says that a record may go now.
func (b *outbox) hasNext() bool {
	return len(b.waiting) > 0 && !b.resting() && (b.alone == 0 || b.asked == 0)
}

// next takes the record to produce now; nil when there is none.
func (b *outbox) next() *copying {
	for b.hasNext() {
		c := b.waiting[0]
		b.waiting[0] = nil
		b.waiting = b.waiting[1:]
		if !c.b.w.gone.Load() {
			return c
		}
		c.setFlying(false)
	}
	return nil
}

// takeBack collects a copy that failed.
func (b *outbox) takeBack(c *copying) {
	b.recalling = true
	b.waiting = append(b.waiting, c)
}

// sort restores the source's order.
func (b *outbox) sort() {
	slices.SortFunc(b.waiting, func(x, y *copying) int { return cmp.Compare(x.record.Offset, y.record.Offset) })
	for _, c := range b.waiting {
		c.setFlying(!b.backoff)
	}
}

// rest waits for the back-off; a drain does not wait for it.
func (b *outbox) rest(d time.Duration, then func()) { b.timer = time.AfterFunc(d, then) }

// wake is the end of the back-off.
func (b *outbox) wake() {
	b.timer = nil
	for _, c := range b.waiting {
		c.setFlying(true)
	}
}

// remove takes out a record that waits for a back-off or was refused.
func (b *outbox) remove(h *held) bool {
	is := func(c *copying) bool { return c.held == h }
	before := len(b.waiting) + len(b.refused)
	if b.resting() {
		b.waiting = slices.DeleteFunc(b.waiting, is)
	}
	b.refused = slices.DeleteFunc(b.refused, is)
	return len(b.waiting)+len(b.refused) < before
}

// dropDead drops the records of windows that are dead.
func (b *outbox) dropDead() {
	gone := func(c *copying) bool {
		dead := c.b.w.gone.Load()
		if dead {
			c.setFlying(false)
		}
		return dead
	}
	b.waiting = slices.DeleteFunc(b.waiting, gone)
	b.refused = slices.DeleteFunc(b.refused, gone)
}

func (b *outbox) empty() bool { return len(b.waiting)+len(b.refused)+b.asked == 0 && !b.pumping }

// stop ends the timers.
func (b *outbox) stop() {
	for _, t := range []*time.Timer{b.timer, b.again} {
		if t != nil {
			t.Stop()
		}
	}
}

// setFlying tells the window whether a drain is to wait for the record.
func (c *copying) setFlying(on bool) {
	if c.flying == on {
		return
	}
	c.flying = on
	if on {
		c.b.w.setFlying(1)
	} else {
		c.b.w.setFlying(-1)
	}
}
