package kstage

import (
	"context"
	"slices"
	"time"
)

// term is the records that were accepted within a hundredth of the delivery timeout.
//
// The client has a timeout of its own for records. It is of no use: it counts from the
// record's timestamp, which is the caller's to choose (a record of yesterday would never be
// sent), and it is looked at only when a request has ended. So the ledger tells of what
// is late itself. And the client lets go of it because the records of a term share a
// context, which ends when the last of them is late: no record carries its caller's, since the
// client fails a whole partition with the first record's.
type term struct {
	n      int64 // they are counted
	link   *link // that its records go to
	ctx    context.Context
	cancel context.CancelFunc

	first, last *page     // that are not done, in order of acceptance; guarded by ledger.mu, and so is due
	due         time.Time // when all of them are late; zero until the next turn
}

// empty says that nothing is to be told of, and nothing is being told. ledger.mu is held.
func (t *term) empty() bool {
	for pg := t.first; pg != nil; pg = pg.next {
		if !pg.done() {
			return false
		}
	}
	return true
}

// place is the page that the next record enters. ledger.mu is held.
func (t *term) place() *page {
	if t.last != nil && t.last.used < pageSize {
		return t.last
	}
	pg := newPage(t)
	if pg.prev = t.last; t.last == nil {
		t.first = pg
	} else {
		t.last.next = pg
	}
	t.last = pg
	return pg
}

// remove takes a page off. ledger.mu is held.
func (t *term) remove(pg *page) {
	if pg.prev == nil {
		t.first = pg.next
	} else {
		pg.prev.next = pg.next
	}
	if pg.next == nil {
		t.last = pg.prev
	} else {
		pg.next.prev = pg.prev
	}
	pg.prev, pg.next = nil, nil
}

// open are the records that nobody has claimed. ledger.mu is held.
func (t *term) open() (pds []*pending) {
	for pg := t.first; pg != nil; pg = pg.next {
		pds = append(pds, pg.open()...)
	}
	return pds
}

const termsPerTimeout = 100

// keepTime tells late of each record that has run out of its delivery timeout, until
// stop is closed.
func (l *ledger) keepTime(stop <-chan struct{}, late func([]*pending)) {
	tick := time.NewTicker(l.timeout / termsPerTimeout)
	defer tick.Stop()
	for {
		tick.Stop() // as long as nothing is on its way
		select {
		case <-stop:
			return
		case <-l.busy:
		}
		tick.Reset(l.timeout / termsPerTimeout)
		for more := true; more; {
			select {
			case <-stop:
				return
			case now := <-tick.C:
				more = l.turn(now, late)
			}
		}
	}
}

// turn begins a new term and ends those that are due. False: there is nothing to wait for.
func (l *ledger) turn(now time.Time, late func([]*pending)) (more bool) {
	l.mu.Lock()
	if !l.term.empty() {
		l.rotate()
	}
	for _, t := range l.terms {
		if t.due.IsZero() {
			t.due = now.Add(l.timeout)
		}
	}
	var over []*term
	var pds []*pending
	for _, t := range l.terms {
		if t.empty() || !now.Before(t.due) {
			over = append(over, t)
			pds = append(pds, t.open()...)
		}
	}
	l.mu.Unlock()
	if len(pds) > 0 {
		late(pds)
	}
	return l.drop(over)
}

// rotate begins a new term. mu is held.
func (l *ledger) rotate() {
	was := l.term
	if was.last != nil && was.last.seal() {
		l.takeOff(was.last)
	}
	if !was.empty() {
		l.terms = append(l.terms, was)
	} else {
		was.cancel()
	}
	l.term = l.newTerm()
	l.term.n, l.term.link = was.n+1, l.link
}

// drop ends terms that are over: the client lets go of their records. One of which a
// record is just being told of stays for the next turn, so that Flush waits for it.
func (l *ledger) drop(over []*term) (more bool) {
	for _, t := range over {
		t.cancel()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.terms = slices.DeleteFunc(l.terms, func(t *term) bool { return t.empty() && slices.Contains(over, t) })
	l.turning = len(l.terms) > 0 || !l.term.empty()
	return l.turning
}
