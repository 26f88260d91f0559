package kstage

import (
	"cmp"
	"slices"
	"time"
)

// outbox is the way to one partition of a target. Copies go in flights: all that
// waits, up to a size, and the next when the last copy of the one before is
// answered. So what comes later does not overtake what failed: that goes back to
// its place, and all wait for one back-off. (The client fails all it has of a
// partition together, whatever it comes from: a back-off of each record's own
// would shuffle them.) Within a flight the client's order holds, unless its first
// copies fail while it is still being given the last. Guarded by handOff.mu.
type outbox struct {
	target  topicPartition // partition -1: all of the target's, see handOff.box
	waiting []*copying     // for the next flights, in order
	flight  []*copying     // the present one
	asked   int            // copies of the flight that are not answered
	back    []*copying     // of the flight: failed, to go again
	refused []*copying     // too large by themselves: blocked

	down     bool        // a copy of the flight could not be written
	full     bool        // the client had no room for one
	failures int         // flights in a row that failed
	failing  bool        // and it was said so
	timer    *time.Timer // of the back-off; nil: none
	again    *time.Timer // of the refused
}

// copying is one record on its way.
type copying struct {
	*held
	departure
	suspect      bool  // it, or one that went with it, is too large: it goes alone
	shed         bool  // without the headers that can be missed
	valueOmitted int64 // bytes of the value that is left out; -1: it is there
	skipped      bool  // by Consumer.Skip, while it was in flight
	flying       bool  // counted by its window: a drain waits for it
}

// add puts a record behind the others.
func (b *outbox) add(c *copying) {
	b.waiting = append(b.waiting, c)
	c.setFlying(!b.resting())
}

// resting says that a back-off runs.
func (b *outbox) resting() bool { return b.timer != nil }

// mayGo says that a flight may start.
func (b *outbox) mayGo() bool { return len(b.waiting) > 0 && b.asked == 0 && !b.resting() }

// next takes the flight to send now: at least one copy and at most so many bytes.
// A suspect goes alone, and so does the first to a target that has failed: were
// it to work again from the second one on, that one would overtake it.
func (b *outbox) next(bytes int64) []*copying {
	if !b.mayGo() {
		return nil
	}
	for len(b.waiting) > 0 && b.boards(b.waiting[0], bytes) {
		c := b.waiting[0]
		b.waiting[0] = nil
		b.waiting = b.waiting[1:]
		if c.b.w.gone.Load() {
			c.setFlying(false)
			continue
		}
		bytes -= c.weight()
		b.flight = append(b.flight, c)
	}
	b.asked = len(b.flight)
	return b.flight
}

// mostAboard bounds what a flight of small copies takes of memory. More would hardly
// make one cheaper.
const mostAboard = 500

// boards says that c belongs to the flight.
func (b *outbox) boards(c *copying, bytes int64) bool {
	if len(b.flight) == 0 {
		return true
	}
	return len(b.flight) < mostAboard && !b.flight[0].suspect && !c.suspect && b.failures == 0 && c.weight() <= bytes
}

// weight is about the most that the copy can take of a batch.
func (c *copying) weight() int64 {
	return c.size + plainFacts + int64(min(len(c.errorText)+len(c.errorType)+len(c.stack), headerBudget))
}

// wasAlone says that nothing else was on its way to the partition that the
// present flight's copy has been refused by.
func (b *outbox) wasAlone(partition int32) bool {
	return len(b.flight) == 1 && (b.target.partition < 0 || b.target.partition == partition)
}

// takeBack collects a copy that failed.
func (b *outbox) takeBack(c *copying) { b.back = append(b.back, c) }

// land ends the flight. True: the next has to wait for a back-off.
func (b *outbox) land() (backOff bool) {
	backOff = (b.down || b.full) && len(b.back) > 0
	if b.down {
		b.failures++
	}
	b.insert(b.back)
	b.flight, b.back, b.down, b.full = nil, nil, false, false
	return backOff
}

// insert puts copies where they belong in the order of their sources.
func (b *outbox) insert(cs []*copying) {
	if len(cs) == 0 {
		return
	}
	b.waiting = append(slices.Clone(cs), b.waiting...)
	slices.SortStableFunc(b.waiting, func(x, y *copying) int {
		return cmp.Or(
			cmp.Compare(x.record.Topic, y.record.Topic),
			cmp.Compare(x.record.Partition, y.record.Partition),
			cmp.Compare(x.record.Offset, y.record.Offset),
		)
	})
}

// rest begins a back-off; a drain does not wait for it.
func (b *outbox) rest(d time.Duration, then func()) {
	b.timer = time.AfterFunc(d, then)
	b.setFlying(false)
}

// wake is the end of the back-off.
func (b *outbox) wake() {
	b.timer = nil
	b.setFlying(true)
}

func (b *outbox) setFlying(on bool) {
	for _, c := range b.waiting {
		c.setFlying(on)
	}
}

// shrink makes the copy smaller; false where nothing is left to shed. A value
// that is left out, of a dead letter only, makes room for what was shed before.
func (c *copying) shrink(policy Oversize) bool {
	c.suspect = true
	switch {
	case !c.shed:
		c.shed = true
	case c.reason != "" && policy == OversizeReference && c.valueOmitted < 0 && len(c.record.Value) > 0:
		c.valueOmitted, c.shed = int64(len(c.record.Value)), false
	default:
		return false
	}
	return true
}

// readmit lets the refused be tried again, whole.
func (b *outbox) readmit() {
	for _, c := range b.refused {
		c.shed, c.valueOmitted = false, -1
		c.setFlying(!b.resting())
	}
	b.insert(b.refused)
	b.refused = nil
}

// skip takes a record out that is refused, or on its way to a target that fails.
// One in flight cannot be called back: what its answer says does not count.
func (b *outbox) skip(h *held) bool {
	is := func(c *copying) bool { return c.held == h }
	if take(&b.refused, is) {
		return true
	}
	if !b.failing && !b.resting() {
		return false
	}
	if take(&b.waiting, is) || take(&b.back, is) {
		return true
	}
	i := slices.IndexFunc(b.flight, is)
	if i < 0 {
		return false
	}
	b.flight[i].skipped = true
	b.flight[i].setFlying(false)
	return true
}

// dropDead drops the copies of a partition's dead windows.
func (b *outbox) dropDead(tp topicPartition) {
	dead := func(c *copying) bool { return c.b.w.topicPartition == tp && c.b.w.gone.Load() }
	take(&b.waiting, dead)
	take(&b.back, dead)
	take(&b.refused, dead)
}

// take removes copies, which a drain need not wait for any more; false: there was none.
func take(cs *[]*copying, which func(*copying) bool) (found bool) {
	*cs = slices.DeleteFunc(*cs, func(c *copying) bool {
		if !which(c) {
			return false
		}
		c.setFlying(false)
		found = true
		return true
	})
	return found
}

// hasLive says that somebody still waits for a copy.
func (b *outbox) hasLive() bool {
	return len(b.waiting)+len(b.back)+len(b.refused) > 0 ||
		slices.ContainsFunc(b.flight, func(c *copying) bool { return c.flying && !c.b.w.gone.Load() })
}

func (b *outbox) empty() bool { return len(b.waiting)+len(b.refused)+b.asked == 0 }

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
