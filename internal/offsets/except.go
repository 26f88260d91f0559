package offsets

import "math/bits"

// Position is one record of a batch.
type Position struct {
	Batch *Batch
	I     int
}

// UnfinishedExcept counts as Unfinished does, but none of some records, whether
// or not they end meanwhile.
func (t *Tracker) UnfinishedExcept(some []Position) (n int) {
	masks := map[*Batch][]uint64{}
	for _, p := range some {
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
