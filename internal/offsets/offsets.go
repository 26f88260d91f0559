// Package offsets knows which offset of one assignment of one partition may be
// committed: the end of the longest row of finished records from the start.
//
// It works with positions in received batches and never with arithmetic on
// offsets, since compaction and transaction markers leave gaps. It knows no
// keys, no workers and no Kafka.
package offsets

import (
	"math/bits"
	"sync/atomic"
)

// Mark is what may be committed: the offset after the last finished record, and
// that record's leader epoch.
type Mark struct {
	Offset int64
	Epoch  int32
}

// Batch is a row of records received together, of one leader epoch.
//
// A record is finished when it has ended and is not open. Ended means that
// nothing needs the batch's copy of it any more; open, that it has left or waits
// elsewhere, with a copy of its own, and something is still to come.
type Batch struct {
	n       int
	first   int64
	offsets []int64 // nil: first, first+1, ...
	epoch   int32

	ended   []atomic.Uint64                 // bit i: record i has ended. Set once, by anybody, without a lock
	missing atomic.Int32                    // words of ended that are not full
	open    []uint64                        // bit i: record i is open. Guarded as the Tracker is; nil until the first Hold
	apart   atomic.Pointer[[]atomic.Uint64] // bit i: End does not count record i; nil until the first SetApart
}

// NewBatch makes a batch of records at these offsets, ascending and at least one.
// It keeps the slice.
func NewBatch(offsets []int64, epoch int32) *Batch {
	b := newBatch(offsets[0], len(offsets), epoch)
	b.offsets = offsets
	return b
}

// NewDense makes a batch of n records, at least one, without a gap.
func NewDense(first int64, n int, epoch int32) *Batch { return newBatch(first, n, epoch) }

func newBatch(first int64, n int, epoch int32) *Batch {
	words := (n + 63) / 64
	b := &Batch{n: n, first: first, epoch: epoch, ended: make([]atomic.Uint64, words)}
	b.missing.Store(int32(words))
	if tail := n % 64; tail != 0 {
		b.ended[words-1].Store(^uint64(0) << tail) // no records there
	}
	return b
}

// Len counts the records.
func (b *Batch) Len() int { return b.n }

// Offset returns the offset of record i.
func (b *Batch) Offset(i int) int64 {
	if b.offsets == nil {
		return b.first + int64(i)
	}
	return b.offsets[i]
}

// SetApart lets End not count record i. It must come before the record ends, and
// may be called by anybody, without a lock.
func (b *Batch) SetApart(i int) {
	if b.apart.Load() == nil {
		bits := make([]atomic.Uint64, len(b.ended))
		b.apart.CompareAndSwap(nil, &bits)
	}
	(*b.apart.Load())[i/64].Or(1 << (i % 64))
}

// End says that records from..end-1 have ended. It may be repeated and called by
// anybody, without a lock. It returns how many of them had not ended before and
// are not set apart, and true, exactly once, when the batch is drained: these were
// the last.
func (b *Batch) End(from, end int) (n int, drained bool) {
	apart := b.apart.Load()
	for from < end {
		width := min(end-from, 64-from%64)
		mask := ^uint64(0) >> (64 - width) << (from % 64)
		old := b.ended[from/64].Or(mask)
		fresh := mask &^ old
		if apart != nil {
			fresh &^= (*apart)[from/64].Load()
		}
		n += bits.OnesCount64(fresh)
		if old != ^uint64(0) && old|mask == ^uint64(0) {
			drained = b.missing.Add(-1) == 0
		}
		from += width
	}
	return n, drained
}

// finished returns the finished bits of a word. The tracker's guard is held.
func (b *Batch) finished(word int) uint64 {
	w := b.ended[word].Load()
	if b.open != nil {
		w &^= b.open[word]
	}
	return w
}

// Tracker holds the batches of one assignment, oldest first. Its zero value is
// ready. Its methods are not safe for concurrent use; Batch.End is, beside them.
type Tracker struct {
	batches  []*Batch
	word     int // words of batches[0] that are known to be finished
	mark     Mark
	moved    bool
	received int // records of batches
}

// Add puts a batch behind all earlier ones.
func (t *Tracker) Add(b *Batch) {
	t.batches = append(t.batches, b)
	t.received += b.n
}

// Hold opens record i of b: whether or not it has ended, it is not finished until
// Resolve. It must come before whatever makes the record end.
func (t *Tracker) Hold(b *Batch, i int) {
	if b.open == nil {
		b.open = make([]uint64, len(b.ended))
	}
	b.open[i/64] |= 1 << (i % 64)
}

// Open says whether a record is held.
func (t *Tracker) Open(b *Batch, i int) bool {
	return b.open != nil && b.open[i/64]&(1<<(i%64)) != 0
}

// Resolve closes a record that was held.
func (t *Tracker) Resolve(b *Batch, i int) { b.open[i/64] &^= 1 << (i % 64) }

// Mark returns what may be committed; false while nothing is finished. All calls
// together look at each word of a batch about once.
func (t *Tracker) Mark() (Mark, bool) {
	for len(t.batches) > 0 {
		b := t.batches[0]
		n := t.prefix(b)
		if n > 0 {
			t.mark, t.moved = Mark{b.Offset(n-1) + 1, b.epoch}, true
		}
		if n < b.n {
			break
		}
		t.batches[0] = nil
		t.batches, t.word = t.batches[1:], 0
		t.received -= b.n
	}
	return t.mark, t.moved
}

// prefix counts the finished records at the start of b, the oldest batch.
func (t *Tracker) prefix(b *Batch) int {
	for ; t.word < len(b.ended); t.word++ {
		if f := b.finished(t.word); f != ^uint64(0) {
			return t.word*64 + bits.TrailingZeros64(^f)
		}
	}
	return b.n
}

// Head returns the offset of the oldest unfinished record; false when there is none.
func (t *Tracker) Head() (offset int64, ok bool) {
	t.Mark()
	if len(t.batches) == 0 {
		return 0, false
	}
	b := t.batches[0]
	return b.Offset(t.prefix(b)), true
}

// Span counts the received records from the oldest unfinished one's word of 64 to the newest.
func (t *Tracker) Span() int {
	t.Mark()
	return t.received - t.word*64
}

// Unfinished counts the records that are not finished, but none of some, whether or
// not they end meanwhile. It looks at all batches.
func (t *Tracker) Unfinished(except ...Position) (n int) {
	masks := map[*Batch][]uint64{}
	for _, p := range except {
		if masks[p.Batch] == nil {
			masks[p.Batch] = make([]uint64, len(p.Batch.ended))
		}
		masks[p.Batch][p.I/64] |= 1 << (p.I % 64)
	}
	for _, b := range t.batches {
		mask := masks[b]
		for w := range b.ended {
			left := ^b.finished(w)
			if mask != nil {
				left &^= mask[w]
			}
			n += bits.OnesCount64(left)
		}
	}
	return n
}

// Position is one record of a batch.
type Position struct {
	Batch *Batch
	I     int
}

// Highest returns the highest finished offset, of the batches that are not wholly
// finished, else the last of those that were; false while nothing is finished.
// It looks at all batches.
func (t *Tracker) Highest() (offset int64, ok bool) {
	m, ok := t.Mark()
	for i := len(t.batches) - 1; i >= 0; i-- {
		if o, found := t.batches[i].highest(); found {
			return o, true
		}
	}
	return m.Offset - 1, ok
}

func (b *Batch) highest() (offset int64, ok bool) {
	for w := len(b.ended) - 1; w >= 0; w-- {
		f := b.finished(w)
		if tail := b.n - w*64; tail < 64 {
			f &= 1<<tail - 1 // the bits beyond the last record
		}
		if f != 0 {
			return b.Offset(w*64 + 63 - bits.LeadingZeros64(f)), true
		}
	}
	return 0, false
}
