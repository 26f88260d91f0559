package kstage

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// pending is one record on its way: who is to be told of the copy that the client has. It
// is told of once, by the first of: the client's answer, the delivery timeout, Close. The
// client's answer comes in any case.
//
// Whoever claims it owns done, ctx and record, and lets go of them when it has told: what is
// beside it on its page may be on its way for much longer.
type pending struct {
	caller atomic.Pointer[kgo.Record] // the caller's record; nobody: its caller has left; nil: claimed
	done   func(*kgo.Record, error)   // nil: nobody asks
	ctx    context.Context            // the caller's, for log fields
	record *kgo.Record                // the copy: the client's until its answer
	size   int64                      // of keys, values and headers
	page   *page
}

// nobody is in the place of a caller that does not wait any more.
var nobody = &kgo.Record{} //nolint:gochecknoglobals // a mark, never written to

// claim gives the right to tell of the record, to one only: the others get nil. The
// caller's record may be written only where it is not nobody.
func (pd *pending) claim() (caller *kgo.Record) { return pd.caller.Swap(nil) }

// leave is the end of its caller's patience; false: it is being told.
func (pd *pending) leave(caller *kgo.Record) bool { return pd.caller.CompareAndSwap(caller, nobody) }

// forget lets go of what is not needed any more. Of whoever has claimed it.
func (pd *pending) forget() { pd.done, pd.ctx, pd.record = nil, nil, nil }

// A pending is the context of its record, where no code but the client's sees that
// (Producer.direct): so the client's answer, which brings the record, leads back to it. A
// closure for each record would cost 10 % of a publish.
var _ context.Context = (*pending)(nil)

// Deadline implements context.Context: there is none.
func (pd *pending) Deadline() (end time.Time, ok bool) { return }

// Done implements context.Context: it never is.
func (pd *pending) Done() <-chan struct{} { return nil }

// Err implements context.Context.
func (pd *pending) Err() error { return nil }

// Value implements context.Context: nobody asks.
func (pd *pending) Value(any) any { return nil }

// pageSize is how many records share a page. A record that is stuck keeps its page: 1 KiB.
const pageSize = 16

// page is some records of a term in the order of their acceptance. They are made at once,
// and are taken off the ledger when all are told of: a list of single records has to be
// locked for each answer, and cost 100 ns a record.
type page struct {
	term *term
	told atomic.Int32 // records that were told of
	full atomic.Int32 // how many it will have had

	used       int // guarded by ledger.mu, and so are these
	gone       bool
	prev, next *page // in its term

	records [pageSize]pending
}

func newPage(t *term) *page {
	pg := &page{term: t}
	pg.full.Store(pageSize)
	return pg
}

// enter takes the next place. ledger.mu is held.
func (pg *page) enter(s *sending) *pending {
	pd := &pg.records[pg.used]
	pg.used++
	pd.done, pd.ctx, pd.record, pd.size, pd.page = s.done, s.ctx, s.record, s.size, pg
	pd.caller.Store(s.caller)
	return pd
}

// seal lets nothing more in; true: all in it are told of. ledger.mu is held.
func (pg *page) seal() (done bool) {
	pg.full.Store(int32(pg.used))
	return pg.done()
}

// done says that all in it are told of. ledger.mu is held.
func (pg *page) done() bool { return int(pg.told.Load()) == pg.used }

// open are the records in it that nobody has claimed. ledger.mu is held.
func (pg *page) open() (pds []*pending) {
	for i := range pg.used {
		if pd := &pg.records[i]; pd.caller.Load() != nil {
			pds = append(pds, pd)
		}
	}
	return pds
}
