package kstage

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// pending is one record on its way: the copy that the client gets, since it writes to
// it, and who is to be told. It is told of once, by the first of: the client's answer,
// the delivery timeout, Close. The client's answer comes in any case, and ends it.
type pending struct {
	record kgo.Record // the client's until its answer
	caller *kgo.Record
	done   func(*kgo.Record, error) // nil: nobody asks
	ctx    context.Context          // the caller's, for log fields
	size   int64                    // of keys, values and headers
	term   *term                    // set when it is accepted
	state  atomic.Int32             // asked, left or told

	finished   bool // the client has answered; guarded by ledger.mu, and so are these
	prev, next *pending
}

const (
	asked int32 = iota // somebody waits to be told
	left               // nobody does: the caller's context has ended
	told
)

// claim gives the right to tell of the record, to one only. The caller's record may be
// written only where it still waits.
func (pd *pending) claim() (mine, waits bool) {
	if pd.state.CompareAndSwap(asked, told) {
		return true, true
	}
	return pd.state.CompareAndSwap(left, told), false
}

// leave is the end of the caller's patience; false: it is being told.
func (pd *pending) leave() bool { return pd.state.CompareAndSwap(asked, left) }

// setHeaders gives the copy headers of its own, and a message id where there is none.
func (pd *pending) setHeaders(r *kgo.Record, newID func([]byte, time.Time) []byte, now time.Time) {
	_, set := Message{Record: r}.Header(headerMessageID)
	if set || newID == nil {
		pd.record.Headers = slices.Clone(r.Headers)
		return
	}
	mine := &idHeader{}
	own := mine.header[:0]
	if len(r.Headers) > 0 {
		own = append(make([]kgo.RecordHeader, 0, len(r.Headers)+1), r.Headers...)
	}
	if id := newID(mine.text[:0], now); len(id) > 0 {
		own = append(own, kgo.RecordHeader{Key: headerMessageID, Value: id})
	}
	pd.record.Headers = own
}

// id is the record's message id; nil: none.
func (pd *pending) id() []byte {
	id, _ := Message{Record: &pd.record}.Header(headerMessageID)
	return id
}

// pendingList is in order of acceptance. Guarded by ledger.mu.
type pendingList struct{ head, tail *pending }

func (l *pendingList) push(pd *pending) {
	if pd.prev = l.tail; l.tail == nil {
		l.head = pd
	} else {
		l.tail.next = pd
	}
	l.tail = pd
}

func (l *pendingList) remove(pd *pending) {
	if pd.prev == nil {
		l.head = pd.next
	} else {
		pd.prev.next = pd.next
	}
	if pd.next == nil {
		l.tail = pd.prev
	} else {
		pd.next.prev = pd.prev
	}
	pd.prev, pd.next = nil, nil
}

// all are those in it.
func (l *pendingList) all() (pds []*pending) {
	for pd := l.head; pd != nil; pd = pd.next {
		pds = append(pds, pd)
	}
	return pds
}
