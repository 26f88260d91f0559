package kstage

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ledger knows each record that a Producer has accepted and not told of, what room is
// left, and the client that records go to.
type ledger struct {
	full    BufferPolicy
	timeout time.Duration // WithDeliveryTimeout
	closing chan struct{} // closed by close: nobody waits for room any more
	drained chan struct{} // closed when closed, everything is answered and everybody told
	busy    chan struct{} // one slot: a term has begun
	watched atomic.Bool   // somebody waits until records are told of; set under mu

	mu                sync.Mutex // guards all below, and what says so; never held over a call of the client or user code
	closed, isDrained bool
	line              *line // the client of now; nil while refusal is set, and when Close has taken it
	refusal           error // why no record is accepted: the brokers refuse the credentials, or a producer's id
	refused           *line // to be closed, by whoever takes it
	room              room
	term              *term   // of those accepted now
	terms             []*term // of those before, in order
	turning           bool    // somebody looks at the terms
	flushers          []*flusher
	newTerm           func() *term
	later             func() // admit, made once: it is needed for each record
}

// flusher waits until all records of the terms up to one are told of.
type flusher struct {
	upTo int64
	done chan struct{} // closed then, under ledger.mu
}

func newLedger(c *producerConfig, first *line, newTerm func() *term) *ledger {
	l := &ledger{
		full: c.bufferFull, timeout: c.deliveryTimeout,
		closing: make(chan struct{}), drained: make(chan struct{}), busy: make(chan struct{}, 1),
		room:    room{mostRecords: c.bufferRecords, mostBytes: c.bufferBytes},
		newTerm: newTerm, line: first,
	}
	l.later = l.admit
	l.term = newTerm()
	l.term.line = first
	return l
}

// accept takes a record in, as soon as there is room for it.
func (l *ledger) accept(ctx context.Context, pd *pending) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.refuses()
	if err == nil && !l.room.take(pd.size) {
		err = l.waitForRoom(ctx, pd.size)
	}
	if err == nil {
		l.enter(pd)
	}
	return err
}

// refuses says why no record is accepted now. mu is held.
func (l *ledger) refuses() error {
	if l.closed {
		return ErrClosed
	}
	return l.refusal
}

// waitForRoom returns nil with room taken. mu is held, but not while it waits.
func (l *ledger) waitForRoom(ctx context.Context, size int64) error {
	if size > l.room.mostBytes {
		return tooLargeForBuffer(size, l.room.mostBytes)
	}
	if l.full == FailWhenFull {
		return ErrBufferFull
	}
	w := l.room.wait(size)
	l.mu.Unlock()
	err := l.patience(ctx, w)
	l.mu.Lock()
	if err != nil {
		if l.room.leave(w) {
			l.release(size)
		}
		return err
	}
	if err := l.refuses(); err != nil { // since it began to wait
		l.release(size)
		return err
	}
	return nil
}

// patience waits for the room of w.
func (l *ledger) patience(ctx context.Context, w *roomWaiter) error {
	limit := time.NewTimer(l.timeout)
	defer limit.Stop()
	select {
	case <-w.in:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrBufferFull, ctx.Err())
	case <-limit.C:
		return fmt.Errorf("%w, for %v (WithDeliveryTimeout)", ErrBufferFull, l.timeout)
	case <-l.closing:
		return ErrClosed
	}
}

// admit is the end of the room's pause.
func (l *ledger) admit() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room.admit()
}

// enter puts a record that has got room on the list. mu is held.
func (l *ledger) enter(pd *pending) {
	pd.term = l.term
	pd.term.records.push(pd)
	if !l.turning {
		l.turning = true
		poke(l.busy)
	}
}

// settle takes records from the list that were told of.
func (l *ledger) settle(pds []*pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, pd := range pds {
		pd.term.records.remove(pd)
	}
	l.tellWatchers()
}

// finish is the client's answer to a record: its room is free. toTell: the caller is
// going to tell of it, and calls told then.
func (l *ledger) finish(pd *pending, toTell bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if pd.finished { // a hook that panics behind the answer
		return
	}
	pd.finished = true
	if toTell {
		pd.term.telling.Add(1)
		pd.term.records.remove(pd)
	}
	l.release(pd.size)
}

// told ends what finish began.
func (l *ledger) told(t *term) {
	if t.telling.Add(-1) > 0 || !l.watched.Load() { // who begins to watch looks at the terms after it said so
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tellWatchers()
}

// release gives a record's room back. mu is held.
func (l *ledger) release(size int64) {
	l.room.give(size, l.later)
	if l.closed {
		l.tellWatchers()
	}
}

// flushed is closed when all records accepted until now are told of.
func (l *ledger) flushed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := &flusher{upTo: l.term.n, done: make(chan struct{})}
	l.rotate() // what comes later is not waited for
	l.flushers = append(l.flushers, f)
	l.watched.Store(true)
	l.tellWatchers()
	return f.done
}

// tellWatchers lets those go whose records are told of; the first came first. mu is held.
func (l *ledger) tellWatchers() {
	oldest := l.oldest()
	for len(l.flushers) > 0 && l.flushers[0].upTo < oldest {
		close(l.flushers[0].done)
		l.flushers = l.flushers[1:]
	}
	if l.closed && !l.isDrained && l.room.records == 0 && oldest == l.term.n && l.term.empty() {
		l.isDrained = true
		close(l.drained)
	}
	l.watched.Store(len(l.flushers) > 0 || l.closed)
}

// oldest is the number of the oldest term that has a record to tell of, or of the
// present one. mu is held.
func (l *ledger) oldest() int64 {
	for _, t := range l.terms {
		if !t.empty() {
			return t.n
		}
	}
	return l.term.n
}

// present is the line that new records go to, or why none may.
func (l *ledger) present() (*line, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.line, l.refuses()
}

// now is the line that records go to; nil: none.
func (l *ledger) now() *line {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.line
}

// refuse takes the line away; false: it was not the present one.
func (l *ledger) refuse(was *line, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.line != was {
		return false
	}
	was.refusal, l.refusal, l.refused, l.line = err, err, was, nil
	return true
}

// takeRefused is the line to be closed; nil: there is none.
func (l *ledger) takeRefused() *line {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.refused
	l.refused = nil
	return was
}

// refuseStill changes why.
func (l *ledger) refuseStill(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusal = err
}

// install lets records in again; false: it is too late.
func (l *ledger) install(fresh *line) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.line, l.refusal = fresh, nil
	l.rotate()
	return true
}

// takeLines are all that are to be closed.
func (l *ledger) takeLines() (all []*line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, was := range []*line{l.line, l.refused} {
		if was != nil {
			all = append(all, was)
		}
	}
	l.line, l.refused = nil, nil
	return all
}

// close accepts nothing more; false: it was called before.
func (l *ledger) close() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.closed = true
	close(l.closing)
	l.watched.Store(true)
	l.tellWatchers()
	return true
}

// open are the records that nobody was told of yet.
func (l *ledger) open() (pds []*pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range append(slices.Clone(l.terms), l.term) {
		pds = append(pds, t.records.all()...)
	}
	return pds
}
