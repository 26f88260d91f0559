package kstage

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
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

	promise func(*kgo.Record, error) // the client's answer, where that leads back to its pending; see link.direct

	_    [64]byte     // who answers is on another core than who accepts: each writes lines of the cache of its own
	told atomic.Int64 // records that everybody was told of
	most atomic.Int64 // accepted, once nothing more is
	_    [64]byte

	accepted    int64     // guarded by ledger.mu, and so is the rest
	first, last *page     // with records that nobody has claimed, and others
	swept       *page     // the next to be swept
	due         time.Time // when all of them are late; zero until the next turn
}

// empty says that nothing is to be told of, and nothing is being told. ledger.mu is held.
func (t *term) empty() bool { return t.told.Load() == t.accepted }

// enter puts a record down. ledger.mu is held.
func (t *term) enter(pd *pending) {
	if t.last == nil || t.last.used == pageSize {
		t.turnPage()
	}
	t.last.records[t.last.used] = pd
	t.last.used++
	t.accepted++
}

// turnPage begins a new page. For each there are some swept, round and round: so there is
// little more on the pages than what is on its way. (Less is dear: it is what the collector
// has to mark. One page swept in the place of three cost 6 %.) ledger.mu is held.
func (t *term) turnPage() {
	const swept = 3
	for range swept {
		t.sweepNext()
	}
	pg := &page{prev: t.last}
	if t.last == nil {
		t.first = pg
	} else {
		t.last.next = pg
	}
	t.last = pg
}

// sweepNext sweeps a page and takes it out where nothing is left on it.
func (t *term) sweepNext() {
	if t.swept == nil {
		t.swept = t.first
	}
	if pg := t.swept; pg != nil {
		t.swept = pg.next
		if !pg.sweep() {
			t.remove(pg)
		}
	}
}

// sweep sweeps all pages. Nothing more is accepted, or all are told of. ledger.mu is held.
func (t *term) sweep() {
	t.swept = t.first
	for t.swept != nil {
		t.sweepNext()
	}
}

// remove takes a page out. ledger.mu is held.
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
}

// openTerm is the records of a term that nobody has claimed.
type openTerm struct {
	*term
	records []*pending
}

// open are the records that nobody has claimed. ledger.mu is held.
func (t *term) open() openTerm {
	o := openTerm{term: t}
	for pg := t.first; pg != nil; pg = pg.next {
		o.records = append(o.records, pg.open()...)
	}
	return o
}

const termsPerTimeout = 100

// keepTime tells late of each record that has run out of its delivery timeout, until
// stop is closed.
func (l *ledger) keepTime(stop <-chan struct{}, late func([]openTerm)) {
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
func (l *ledger) turn(now time.Time, late func([]openTerm)) (more bool) {
	l.mu.Lock()
	if !l.term.empty() {
		l.rotate()
	}
	l.term.sweep() // so that what is over is not kept while nothing comes
	for _, t := range l.terms {
		t.sweep()
		if t.due.IsZero() {
			t.due = now.Add(l.timeout)
		}
	}
	var over []*term
	var open []openTerm
	for _, t := range l.terms {
		if t.empty() || !now.Before(t.due) {
			over = append(over, t)
			open = append(open, t.open())
		}
	}
	l.mu.Unlock()
	late(open)
	return l.drop(over)
}

// rotate begins a new term. mu is held.
func (l *ledger) rotate() {
	was := l.term
	was.most.Store(was.accepted) // whoever ends the last of them says so
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
