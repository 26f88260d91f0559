package kstage

import (
	"context"
	"fmt"
	"slices"
	"sync"
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

	mu                sync.Mutex // guards all below, and what says so; never held over a call of the client or user code
	closed, isDrained bool
	link              *link // the client of now; nil while refusal is set, and when Close has taken it
	refusal           error // why no record is accepted: the brokers refuse the credentials, or a producer's id
	refused           *link // to be closed, by whoever takes it
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

func newLedger(c *producerConfig, first *link, newTerm func() *term) *ledger {
	l := &ledger{
		full: c.bufferFull, timeout: c.deliveryTimeout,
		closing: make(chan struct{}), drained: make(chan struct{}), busy: make(chan struct{}, 1),
		room:    room{mostRecords: c.bufferRecords, mostBytes: c.bufferBytes},
		newTerm: newTerm, link: first,
	}
	l.later = l.admit
	l.term = newTerm()
	l.term.link = first
	return l
}

// accept takes a record in, as soon as there is room for it.
func (l *ledger) accept(ctx context.Context, pd *pending) (*term, error) {
	size := recordSize(&pd.record)
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.refuses()
	if err == nil && !l.room.take(size) {
		err = l.waitForRoom(ctx, size)
	}
	if err != nil {
		return nil, err
	}
	l.enter(pd)
	return l.term, nil
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

// enter writes a record down that has got room. mu is held.
func (l *ledger) enter(pd *pending) {
	l.term.enter(pd)
	if !l.turning {
		l.turning = true
		poke(l.busy)
	}
}

// finish is the client's answer to a record of so many bytes: its room is free.
func (l *ledger) finish(size int64) {
	if !l.room.give(size) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noticeRoom()
}

// release gives back the room of a record that was let in and is not accepted. mu is held.
func (l *ledger) release(size int64) {
	if l.room.give(size) {
		l.noticeRoom()
	}
}

// noticeRoom is what follows when room has come free. mu is held.
func (l *ledger) noticeRoom() {
	l.room.notice(l.later)
	if l.closed {
		l.tellWatchers()
	}
}

// told ends a record: everybody who was to be told of it was. Who ends a term, and who
// accepts nothing more into it, looks at the other's count after setting its own.
func (l *ledger) told(t *term) {
	if t.told.Add(1) != t.most.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tellWatchers()
}

// flushed is closed when all records accepted until now are told of.
func (l *ledger) flushed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := &flusher{upTo: l.term.n, done: make(chan struct{})}
	l.rotate() // what comes later is not waited for
	l.flushers = append(l.flushers, f)
	l.tellWatchers()
	return f.done
}

// tellWatchers lets those go whose records are told of; the first came first. mu is held.
func (l *ledger) tellWatchers() {
	if len(l.flushers) == 0 && !l.closed {
		return
	}
	oldest := l.oldest()
	for len(l.flushers) > 0 && l.flushers[0].upTo < oldest {
		close(l.flushers[0].done)
		l.flushers = l.flushers[1:]
	}
	if l.closed && !l.isDrained && l.room.used() == 0 && oldest == l.term.n && l.term.empty() {
		l.isDrained = true
		close(l.drained)
	}
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

// present is the link that new records go to, or why none may.
func (l *ledger) present() (*link, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.link, l.refuses()
}

// now is the link that records go to; nil: none.
func (l *ledger) now() *link {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.link
}

// refuse takes the link away; false: it was not the present one.
func (l *ledger) refuse(was *link, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.link != was {
		return false
	}
	was.refusal, l.refusal, l.refused, l.link = err, err, was, nil
	return true
}

// takeRefused is the link to be closed; nil: there is none.
func (l *ledger) takeRefused() *link {
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
func (l *ledger) install(fresh *link) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.link, l.refusal = fresh, nil
	l.rotate()
	return true
}

// takeLinks are all that are to be closed.
func (l *ledger) takeLinks() (all []*link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, was := range []*link{l.link, l.refused} {
		if was != nil {
			all = append(all, was)
		}
	}
	l.link, l.refused = nil, nil
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
	l.rotate() // the last term says when it is over
	l.room.always = true
	l.room.admit()
	l.tellWatchers()
	return true
}

// open are the records that nobody was told of yet.
func (l *ledger) open() (open []openTerm) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range append(slices.Clone(l.terms), l.term) {
		open = append(open, t.open())
	}
	return open
}
