// Package lanes runs the records of many partitions on a bounded number of
// goroutines, records of one key in order and one at a time.
//
// A partition is walked: one worker runs its records one after the other and
// looks at no key. When that is too slow, or a record has to wait, the walk is
// cut, and the partition goes on by key: each worker takes the next record whose
// key is free, and leaves the others behind their key. A partition whose records
// are quick again is walked again.
//
// The package knows no offsets, no Kafka and no handlers.
package lanes

import (
	"sync"
	"sync/atomic"
	"time"
)

// Never is the wait of a record that was given up: its key does not go on, and
// its partition is being fenced, or is about to be.
const Never = time.Duration(-1)

// Work is what a Pool does with record i of a batch. Run and Unwound are called
// by workers without a lock; Ended and Key with the pool's lock held, so they
// must be quick and call nothing of the pool.
type Work[B comparable] struct {
	// Run runs the record. Zero: it has ended, its key may go on. Positive: its
	// key waits that long, without a worker, and the record is run again. Never:
	// it was given up.
	Run func(b B, i int) time.Duration
	// Unwound is called instead of taking Run's answer when Run panicked with v,
	// or ended its goroutine (v is nil). It answers as Run does and must not panic;
	// should it end its goroutine, the record is given up.
	Unwound func(b B, i int, v any) time.Duration
	// Ended is told, in ranges and within two ticks, of which records nothing is
	// needed any more: they ended, or were parked (Run must have kept what it
	// needs to run them again). A record that was parked is told again when it ends.
	Ended func(b B, from, end int)
	// Key returns a hash of the record's key; false when it has none, and so no
	// order. It is not called for a record that Ended was told of.
	Key func(b B, i int) (uint64, bool)
}

// Pool runs the work of all partitions of one consumer.
type Pool[B comparable] struct {
	work   Work[B]
	max    int
	inside atomic.Int32 // workers in Run: the others look at ready before they end

	mu      sync.Mutex             // guards everything below, and of partitions all but claim; never held over Run or Unwound
	ready   [2]fifo[*Partition[B]] // partitions with something to start, by intake
	busy    [2]int                 // workers inside a turn, by intake
	share   int                    // at most so many of busy may belong to one intake
	last    int                    // intake of the last turn
	workers int                    // goroutines; each lives while it finds work
	walks   []*Partition[B]        // being walked: look watches them
	timer   *time.Timer            // calls look each tick while there are walks; nil until the first
	ticking bool
	done    chan struct{} // non-nil: closed once, when the last worker has ended
}

// New makes a pool of at most so many workers, for one intake or two. Of two,
// each is guaranteed a worker, unless there is only one in all.
func New[B comparable](workers, intakes int, work Work[B]) *Pool[B] {
	p := &Pool[B]{work: work, max: workers, share: workers}
	if intakes == 2 && workers > 1 {
		p.share = workers - 1
	}
	return p
}

// Done returns a channel that is closed when no worker lives. Call it once all
// partitions are fenced: what holds it open is work that does not return.
func (p *Pool[B]) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == nil {
		p.done = make(chan struct{})
		p.ended()
	}
	return p.done
}

// ended closes done when the last worker has left. p.mu is held.
func (p *Pool[B]) ended() {
	if p.workers > 0 || p.done == nil {
		return
	}
	select {
	case <-p.done:
	default:
		close(p.done)
	}
}

// push makes q known to the workers. p.mu is held.
func (p *Pool[B]) push(q *Partition[B]) {
	if !q.queued {
		q.queued = true
		p.ready[q.intake].push(q)
	}
	p.hire()
}

// hire starts a worker when there is something to start and all others are
// inside Run; that one hires the next. p.mu is held.
func (p *Pool[B]) hire() {
	if p.workers < p.max && int(p.inside.Load()) == p.workers && p.choose() >= 0 {
		p.workers++
		go p.worker()
	}
}

// choose returns an intake whose turn it is, or -1. p.mu is held.
func (p *Pool[B]) choose() int {
	for k := 1; k <= 2; k++ {
		if in := (p.last + k) % 2; p.ready[in].len() > 0 && p.busy[in] < p.share {
			return in
		}
	}
	return -1
}

// others says whether another partition waits for the worker of a turn of this
// intake. p.mu is held.
func (p *Pool[B]) others(intake int) bool {
	return p.ready[intake].len() > 0 && p.busy[intake] == p.share || p.workers == p.max && p.choose() >= 0
}

// worker lives while it finds work. Done's caller waits for it.
func (p *Pool[B]) worker() {
	p.mu.Lock()
	p.loop()
}

// loop takes turns until there is nothing to do. It is called with p.mu held and
// releases it.
func (p *Pool[B]) loop() {
	for p.turn() {
	}
	p.workers--
	p.ended()
	p.mu.Unlock()
}

// turn takes the next partition and works on it: a walk, or one record. p.mu is held.
func (p *Pool[B]) turn() bool {
	in := p.choose()
	if in < 0 {
		return false
	}
	q := p.ready[in].pop()
	q.queued = false
	p.last = in
	p.busy[in]++
	q.active++
	if q.byKey {
		q.step()
	} else {
		q.walk()
	}
	p.endTurn(q)
	return true
}

// endTurn is the end of a turn. p.mu is held.
func (p *Pool[B]) endTurn(q *Partition[B]) {
	q.active--
	p.busy[q.intake]--
	q.rest()
}

// enter goes into Run: from here on another worker may be needed. It releases p.mu.
func (p *Pool[B]) enter() {
	p.inside.Add(1)
	p.hire()
	p.mu.Unlock()
}

// exit comes back from Run. It takes p.mu.
func (p *Pool[B]) exit() {
	p.inside.Add(-1)
	p.mu.Lock()
}
