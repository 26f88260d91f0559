package lanes

import "time"

const (
	slow   = 4 * time.Microsecond // a record: with more, keys are worth looking at
	sample = 64                   // a partition that took less than slow for each of so many records by key is walked again
)

// Partition is one assignment of one partition: dead once fenced, never revived.
type Partition[B comparable] struct {
	pool   *Pool[B]
	intake int

	claim claim // of the walk; taken from by its worker without a lock, stopped under pool.mu

	queue  fifo[span[B]] // not started, oldest first; during a walk its front is being walked
	active int           // workers inside a turn
	queued bool          // in pool.ready
	byKey  bool
	idle   chan struct{} // non-nil: fenced; closed when no worker is inside

	// walking
	walker bool     // a worker walks
	walkAt int      // index in pool.walks
	first  int32    // where the walk of the queue's front began
	held   *lane[B] // of the record that was in progress when the walk was cut
	count  int      // records started in this walk before the queue's front
	seen   int      // records started, at the last tick
	looked bool     // walked at the last tick, too

	// by key
	lanes  map[uint64]*lane[B]   // keys with a record in progress, parked or ready
	ready  fifo[*lane[B]]        // lanes whose head may start
	parked map[*lane[B]]struct{} // lanes whose head waits for its timer
	steps  []*lane[B]            // lanes whose head is in progress, the cut walk's not included
	live   int                   // lanes in all, those without a key included
	free   *lane[B]              // to be used again
	since  time.Time             // when the sample began
	keyed  int                   // records started by key since
}

// span is a part of a batch that has not started.
type span[B comparable] struct {
	b         B
	next, end int32
}

// Partition makes an empty partition of intake 0 or 1.
func (p *Pool[B]) Partition(intake int) *Partition[B] {
	return &Partition[B]{pool: p, intake: intake, lanes: map[uint64]*lane[B]{}, parked: map[*lane[B]]struct{}{}}
}

// Add puts records from..end-1 of b behind all earlier ones. On a fenced
// partition it does nothing.
func (q *Partition[B]) Add(b B, from, end int) {
	p := q.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if q.idle != nil || from == end {
		return
	}
	q.queue.push(span[B]{b, int32(from), int32(end)})
	if q.byKey || !q.walker {
		p.push(q)
	}
}

// Fence lets nothing more start and forgets what has not started, parked records
// included. The channel is closed when the last running record has ended. It may
// be called again.
func (q *Partition[B]) Fence() <-chan struct{} {
	q.pool.mu.Lock()
	defer q.pool.mu.Unlock()
	if q.idle != nil {
		return q.idle
	}
	q.idle = make(chan struct{})
	if q.walker && !q.byKey {
		q.cut()
	}
	for l := range q.parked {
		l.timer.Stop()
	}
	q.queue, q.ready = fifo[span[B]]{}, fifo[*lane[B]]{}
	q.lanes, q.parked, q.free = nil, nil, nil
	q.rest()
	return q.idle
}

// Drop ends a parked record without running it again: its key goes on. False
// where it is not parked.
func (q *Partition[B]) Drop(b B, i int) bool {
	q.pool.mu.Lock()
	defer q.pool.mu.Unlock()
	for l := range q.parked {
		if l.head == (item[B]{b, int32(i)}) {
			l.timer.Stop()
			delete(q.parked, l)
			q.end(l, 0)
			return true
		}
	}
	return false
}

// Running calls f for each record that is in progress. f must be quick: the
// pool's lock is held.
func (q *Partition[B]) Running(f func(b B, i int)) {
	q.pool.mu.Lock()
	defer q.pool.mu.Unlock()
	for _, l := range q.steps {
		f(l.head.b, int(l.head.i))
	}
	switch {
	case q.held != nil:
		f(q.held.head.b, int(q.held.head.i))
	case q.walker && !q.byKey:
		if next := q.claim.next(); next > q.first && next <= q.queue.front().end {
			f(q.queue.front().b, int(next-1))
		}
	}
}

// rest notices that a fenced partition is idle, and that keys are not worth it
// any more. pool.mu is held.
func (q *Partition[B]) rest() {
	if q.active > 0 {
		return
	}
	if q.idle != nil {
		select {
		case <-q.idle:
		default:
			close(q.idle)
		}
		return
	}
	if q.byKey && q.live == 0 && q.keyed >= sample {
		now := time.Now()
		q.byKey = now.Sub(q.since) > time.Duration(q.keyed)*slow
		q.since, q.keyed = now, 0
	}
}

func (q *Partition[B]) startable() bool { return q.ready.len() > 0 || q.queue.len() > 0 }
