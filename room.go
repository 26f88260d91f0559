package kstage

import (
	"slices"
	"sync/atomic"
	"time"
)

// roomPause is how long room that came free is collected before it is given to those
// who wait: were each record's room given at once, they would be sent one by one.
const roomPause = time.Millisecond

// roomShare of the buffer that has come free is given before the pause is over.
const roomShare = 16

// space is a number of records and their bytes in one word: an answer gives both back by one
// atomic addition. What was taken and what was given back both grow for ever; they may
// overflow, since only their difference counts.
type space uint64

const (
	spaceShift  = 40
	mostBytes   = 1<<spaceShift - 1      // 1 TiB
	mostRecords = 1<<(64-spaceShift) - 1 // 16.7 million
	oneRecord   = space(1) << spaceShift
)

func spaceOf(size int64) space { return oneRecord + space(size) }
func (s space) records() int   { return int(s >> spaceShift) }
func (s space) bytes() int64   { return int64(s & mostBytes) }

// room is what a Producer may still take. Who accepts records and who answers them are on
// different cores: so there is a count of each, and who accepts looks at the other's
// only when there seems to be no room. All but answeredRoom is guarded by ledger.mu.
type room struct {
	mostRecords int
	mostBytes   int64
	taken       space
	known       space         // of what was given back, when it was last looked at
	queue       []*roomWaiter // in order of arrival; who waits comes before who comes
	pause       *time.Timer   // lets in what fits; nil until somebody has waited
	always      bool          // what comes free is to be noticed although nobody waits: it is closed

	answeredRoom
}

// answeredRoom is the answers' side of a room, on lines of the cache that nobody else writes.
type answeredRoom struct {
	_     [64]byte
	given atomic.Uint64 // a space
	_     [64]byte
	watch atomic.Int32  // roomUnwatched, roomArmed or roomPausing; written under ledger.mu, and so is since
	since atomic.Uint64 // given, when it was roomArmed
	_     [64]byte
}

const (
	roomUnwatched int32 = iota
	roomArmed           // somebody waits: what comes free next is to be noticed
	roomPausing         // it was: the pause runs
)

// roomWaiter is one record that waits for room.
type roomWaiter struct {
	size int64
	in   chan struct{} // closed when it has got it, under ledger.mu
}

// take takes room for a record of so many bytes; false: there is none.
func (r *room) take(size int64) bool {
	if len(r.queue) > 0 || !r.fits(size) {
		return false
	}
	r.taken += spaceOf(size)
	return true
}

func (r *room) fits(size int64) bool {
	if r.allows(size) {
		return true
	}
	r.known = space(r.given.Load())
	return r.allows(size)
}

func (r *room) allows(size int64) bool {
	used := r.taken - r.known
	return used.records() < r.mostRecords && used.bytes()+size <= r.mostBytes
}

// used is what is taken now.
func (r *room) used() space { return r.taken - space(r.given.Load()) }

// give takes a record's room back, without the lock. True: notice is to be called, with it.
func (r *room) give(size int64) bool {
	now := space(r.given.Add(uint64(spaceOf(size))))
	switch r.watch.Load() {
	case roomArmed:
		return true
	case roomPausing:
		return r.enough(now)
	}
	return false
}

// enough says that the pause need not last any longer.
func (r *room) enough(now space) bool {
	return (now - space(r.since.Load())).records() > r.mostRecords/roomShare
}

// notice lets in who waits, or begins the pause until then. later is called when that is
// over: it has to call admit.
func (r *room) notice(later func()) {
	now := space(r.given.Load())
	switch {
	case len(r.queue) == 0 || r.always: // nobody is let in any more
	case r.enough(now) || now == r.taken:
		r.admit()
	case r.watch.Load() == roomPausing:
	default:
		r.watch.Store(roomPausing)
		if r.pause == nil {
			r.pause = time.AfterFunc(roomPause, later)
		} else {
			r.pause.Reset(roomPause)
		}
	}
}

// wait joins the queue.
func (r *room) wait(size int64) *roomWaiter {
	w := &roomWaiter{size: size, in: make(chan struct{})}
	r.queue = append(r.queue, w)
	if r.watch.Load() != roomPausing {
		r.admit()
	}
	return w
}

// admit lets in those who fit, the first first. Who answers a record gives its room back and
// then looks at watch, so what comes free unseen is seen by the second look.
func (r *room) admit() {
	r.letIn()
	r.rearm()
	r.letIn()
	r.rearm()
}

func (r *room) letIn() {
	for len(r.queue) > 0 && r.fits(r.queue[0].size) {
		w := r.queue[0]
		r.queue[0] = nil
		r.queue = r.queue[1:]
		r.taken += spaceOf(w.size)
		close(w.in)
	}
}

// rearm watches for as long as somebody waits.
func (r *room) rearm() {
	r.since.Store(r.given.Load())
	if len(r.queue) > 0 || r.always {
		r.watch.Store(roomArmed)
	} else {
		r.watch.Store(roomUnwatched)
	}
}

// leave ends a wait; true: it had got its room already.
func (r *room) leave(w *roomWaiter) (got bool) {
	i := slices.Index(r.queue, w)
	if i < 0 {
		return true
	}
	r.queue = slices.Delete(r.queue, i, i+1)
	r.admit() // those behind may be smaller
	return false
}
