package kstage

import (
	"slices"
	"time"
)

// roomPause is how long room that came free is collected before it is given to those
// who wait: were each record's room given at once, they would be sent one by one.
const roomPause = time.Millisecond

// room is what a Producer may still take. Guarded by ledger.mu.
type room struct {
	mostRecords, records int
	mostBytes, bytes     int64
	queue                []*roomWaiter // in order of arrival; who waits comes before who comes
	freed                int           // records that came free since somebody was let in
	pause                *time.Timer   // lets in what fits; nil until somebody has waited
}

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
	r.occupy(size)
	return true
}

func (r *room) fits(size int64) bool {
	return r.records < r.mostRecords && r.bytes+size <= r.mostBytes
}

func (r *room) occupy(size int64) {
	r.records++
	r.bytes += size
}

// give takes a record's room back. later is called where somebody is to be let in
// after the pause: it has to call admit.
func (r *room) give(size int64, later func()) {
	r.records--
	r.bytes -= size
	if len(r.queue) == 0 {
		return
	}
	switch r.freed++; {
	case r.freed > r.mostRecords/16 || r.records == 0:
		r.admit()
	case r.freed > 1: // the pause runs
	case r.pause == nil:
		r.pause = time.AfterFunc(roomPause, later)
	default:
		r.pause.Reset(roomPause)
	}
}

// wait joins the queue.
func (r *room) wait(size int64) *roomWaiter {
	w := &roomWaiter{size: size, in: make(chan struct{})}
	r.queue = append(r.queue, w)
	return w
}

// admit lets in those who fit, the first first.
func (r *room) admit() {
	r.freed = 0
	for len(r.queue) > 0 && r.fits(r.queue[0].size) {
		w := r.queue[0]
		r.queue[0] = nil
		r.queue = r.queue[1:]
		r.occupy(w.size)
		close(w.in)
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
