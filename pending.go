package kstage

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// pending is one record on its way: the copy that the client gets, since it writes to it, and
// who is to be told. It is told of once, by the first of: the client's answer, the delivery
// timeout, Close. The client's answer comes in any case. Whoever claims it reads done and ctx.
//
// It is made for one record alone. Taking the copies from a pool was tried: 20 % dearer than
// new ones, since tens of thousands are on their way, and one that comes back is in
// another core's cache. What counts is how many lines of the cache there are of it: three.
type pending struct {
	record kgo.Record                 // the client's until its answer
	caller atomic.Pointer[kgo.Record] // the caller's record; nobody: its caller has left; nil: claimed
	done   func(*kgo.Record, error)   // nil: nobody asks
	ctx    context.Context            // the caller's, for log fields
}

// nobody is in the place of a caller that does not wait any more.
var nobody = &kgo.Record{} //nolint:gochecknoglobals // a mark, never written to

// claim gives the right to tell of the record, to one only: the others get nil. The
// caller's record may be written only where it is not nobody.
func (pd *pending) claim() (caller *kgo.Record) { return pd.caller.Swap(nil) }

func (pd *pending) claimed() bool { return pd.caller.Load() == nil }

// leave is the end of its caller's patience; false: it is being told.
func (pd *pending) leave(caller *kgo.Record) bool { return pd.caller.CompareAndSwap(caller, nobody) }

// A pending is the context of its record, where no code but the client's sees that
// (link.direct): so the client's answer, which brings the record, leads back to it, and
// no closure is made for it.
var _ context.Context = (*pending)(nil)

// Deadline implements context.Context: there is none.
func (pd *pending) Deadline() (end time.Time, ok bool) { return }

// Done implements context.Context: it never is.
func (pd *pending) Done() <-chan struct{} { return nil }

// Err implements context.Context.
func (pd *pending) Err() error { return nil }

// Value implements context.Context: nobody asks.
func (pd *pending) Value(any) any { return nil }

// pageSize is how many records stand on a page.
const pageSize = 64

// page is where the records of a term stand, in the order of their acceptance. An answer
// does not touch it, let alone lock the ledger: the page is swept later. Guarded by ledger.mu.
type page struct {
	records    [pageSize]*pending // nil: swept
	used       int
	prev, next *page // in its term
}

// sweep lets go of what was claimed, and says whether anything is left.
func (pg *page) sweep() (left bool) {
	for i, pd := range pg.records[:pg.used] {
		switch {
		case pd == nil:
		case pd.claimed():
			pg.records[i] = nil
		default:
			left = true
		}
	}
	return left
}

// open are the records on it that nobody has claimed.
func (pg *page) open() (pds []*pending) {
	for _, pd := range pg.records[:pg.used] {
		if pd != nil && !pd.claimed() {
			pds = append(pds, pd)
		}
	}
	return pds
}
