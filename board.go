package kstage

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	mostOfPartition = 10          // bounds how many records of one partition Health lists of one kind
	mostUntold      = 100_000     // bounds what waits for a listener that hangs
	tellLimit       = time.Second // the end of Run waits so long for a listener at most
)

// healthBoard holds what Health says. Everybody writes on it, under whatever
// lock; listener, a user's code, hears of each change on a goroutine of its own.
type healthBoard struct {
	listener func(StateEvent)
	count    atomic.Int32  // of reasons: lets those who come often see that there is nothing to clear
	news     chan struct{} // one slot: there is something to tell

	mu      sync.Mutex // guards all below; never held over listener
	reasons map[reasonKey]posted
	untold  []StateEvent
	failed  bool // Run has ended with an error
}

type reasonKey struct {
	kind      ReasonKind
	group     string
	topic     string
	partition int32
	offset    int64 // of kinds that name a record
}

type posted struct {
	HealthReason
	until time.Time // zero: until cleared
}

func newHealthBoard(listener func(StateEvent)) *healthBoard {
	return &healthBoard{listener: listener, news: make(chan struct{}, 1), reasons: map[reasonKey]posted{}}
}

// tell starts to tell the listener what changes, in order. The func it returns
// ends that, after what is left was told; a listener that hangs keeps nobody.
func (b *healthBoard) tell() (end func()) {
	stop, told := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(told)
		b.tellAll(stop)
	}()
	return func() {
		close(stop)
		limit := time.NewTimer(tellLimit)
		defer limit.Stop()
		select {
		case <-told:
		case <-limit.C:
		}
	}
}

// tellAll tells until stop is closed and nothing is left.
func (b *healthBoard) tellAll(stop <-chan struct{}) {
	for open := true; open; {
		select {
		case <-b.news:
		case <-stop:
			open = false
		}
		for es := b.takeUntold(); len(es) > 0; es = b.takeUntold() {
			for _, e := range es {
				b.listener(e)
			}
		}
	}
}

func (b *healthBoard) takeUntold() []StateEvent {
	b.mu.Lock()
	defer b.mu.Unlock()
	es := b.untold
	b.untold = nil
	return es
}

// note queues a change for the listener. mu is held.
func (b *healthBoard) note(e StateEvent) {
	b.count.Store(int32(len(b.reasons)))
	if len(b.untold) == mostUntold {
		return
	}
	b.untold = append(b.untold, e)
	poke(b.news)
}

func keyOf(r HealthReason) reasonKey {
	k := reasonKey{kind: r.Kind, group: r.Group, topic: r.Topic, partition: r.Partition}
	if r.Kind.ofRecord() {
		k.offset = r.Offset
	}
	return k
}

// raise posts a reason until it is cleared. One that is there keeps its Since, and
// its Err where no new one comes. True: it is new.
func (b *healthBoard) raise(r HealthReason) bool { return b.raiseFor(0, r) }

// raiseFor posts a reason that clears itself d after the last such call.
func (b *healthBoard) raiseFor(d time.Duration, r HealthReason) bool {
	now := time.Now()
	p := posted{HealthReason: r}
	if d > 0 {
		p.until = now.Add(d)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old, known := b.reasons[keyOf(r)]
	if p.Since = now; known {
		p.Since = old.Since
		if p.Err == nil {
			p.Err = old.Err
		}
	}
	b.reasons[keyOf(r)] = p
	if !known {
		b.note(StateEvent{Reason: p.HealthReason})
	}
	return !known
}

// quiet says that there is no reason at all.
func (b *healthBoard) quiet() bool { return b.count.Load() == 0 }

// clear takes a reason back that names no record; false where it was not there.
func (b *healthBoard) clear(k ReasonKind, topic string, partition int32) bool {
	return !b.quiet() && b.clearKey(reasonKey{kind: k, topic: topic, partition: partition})
}

// clearRecord takes back what names a record.
func (b *healthBoard) clearRecord(k ReasonKind, co Coordinates) bool {
	return !b.quiet() && b.clearKey(reasonKey{kind: k, topic: co.Topic, partition: co.Partition, offset: co.Offset})
}

// clearReason takes back what raise posted of the same things.
func (b *healthBoard) clearReason(r HealthReason) bool { return !b.quiet() && b.clearKey(keyOf(r)) }

func (b *healthBoard) clearKey(k reasonKey) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.reasons[k]
	if ok {
		delete(b.reasons, k)
		b.note(StateEvent{Reason: r.HealthReason, Cleared: true})
	}
	return ok
}

// clearPartition takes back all of some kinds of a partition.
func (b *healthBoard) clearPartition(topic string, partition int32, kinds ...ReasonKind) {
	if !b.quiet() {
		b.clearWhere(func(r posted) bool {
			return r.Topic == topic && r.Partition == partition && slices.Contains(kinds, r.Kind)
		})
	}
}

// replace makes rs all that is posted of a kind, and returns those that are new.
func (b *healthBoard) replace(k ReasonKind, rs []HealthReason) (fresh []HealthReason) {
	keys := map[reasonKey]bool{}
	for _, r := range rs {
		keys[keyOf(r)] = true
		if b.raise(r) {
			fresh = append(fresh, r)
		}
	}
	if !b.quiet() {
		b.clearWhere(func(r posted) bool { return r.Kind == k && !keys[keyOf(r.HealthReason)] })
	}
	return fresh
}

// sweep takes back what has run out.
func (b *healthBoard) sweep() {
	if b.quiet() {
		return
	}
	now := time.Now()
	b.clearWhere(func(r posted) bool { return !r.until.IsZero() && now.After(r.until) })
}

func (b *healthBoard) clearWhere(match func(posted) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, r := range b.reasons {
		if match(r) {
			delete(b.reasons, k)
			b.note(StateEvent{Reason: r.HealthReason, Cleared: true})
		}
	}
}

// end is the end of Run: not a member of the group any more, and not ready for good.
func (b *healthBoard) end(group string, err error) {
	b.clearWhere(func(r posted) bool {
		return r.Kind == HealthDraining || r.Kind == HealthDisconnected || r.Kind == HealthNotJoined && r.Group != group
	})
	b.raise(HealthReason{Kind: HealthNotJoined, Partition: -1, Group: group, Err: err})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed = err != nil
}

// health is the whole of it. turning is false where the poll loop hangs.
func (b *healthBoard) health(turning bool) Health {
	b.sweep()
	b.mu.Lock()
	defer b.mu.Unlock()
	h := Health{Live: turning && !b.failed, Ready: true}
	for _, r := range b.reasons {
		h.Ready = h.Ready && !r.Kind.hindersReady()
		h.Reasons = append(h.Reasons, r.HealthReason)
	}
	slices.SortFunc(h.Reasons, compareReasons)
	h.Reasons = fewOfEachPartition(h.Reasons)
	return h
}

func compareReasons(x, y HealthReason) int {
	return cmp.Or(
		cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Group, y.Group), cmp.Compare(x.Topic, y.Topic),
		cmp.Compare(x.Partition, y.Partition), cmp.Compare(x.Offset, y.Offset),
	)
}

// fewOfEachPartition keeps the first reasons of each kind and partition.
func fewOfEachPartition(sorted []HealthReason) (kept []HealthReason) {
	run := 0
	for i, r := range sorted {
		if run++; i == 0 || !samePartition(sorted[i-1], r) {
			run = 1
		}
		if run <= mostOfPartition {
			kept = append(kept, r)
		}
	}
	return kept
}

func samePartition(x, y HealthReason) bool {
	return x.Kind == y.Kind && x.Group == y.Group && x.Topic == y.Topic && x.Partition == y.Partition
}
