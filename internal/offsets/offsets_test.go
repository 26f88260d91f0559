package offsets_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage/internal/offsets"
)

func TestNothingIsFinishedAtFirst(t *testing.T) {
	t.Parallel()
	var tr offsets.Tracker
	for range 2 {
		_, ok := tr.Mark()
		assert.False(t, ok)
		_, ok = tr.Highest()
		assert.False(t, ok)
		tr.Add(offsets.NewDense(10, 3, 1))
	}
}

func TestMarkFollowsTheHead(t *testing.T) {
	t.Parallel()
	var tr offsets.Tracker
	dense, gaps := offsets.NewDense(100, 3, 7), offsets.NewBatch([]int64{103, 110, 111, 200}, 8)
	tr.Add(dense)
	tr.Add(gaps)

	dense.End(1, 3)
	gaps.End(0, 2)
	at(t, &tr, offsets.Mark{}, 100)
	dense.End(0, 1)
	at(t, &tr, offsets.Mark{Offset: 111, Epoch: 8}, 111)
	gaps.End(3, 4)
	at(t, &tr, offsets.Mark{Offset: 111, Epoch: 8}, 111)
	gaps.End(2, 3)
	at(t, &tr, offsets.Mark{Offset: 201, Epoch: 8}, -1)

	tr.Add(offsets.NewDense(500, 1, 9))
	at(t, &tr, offsets.Mark{Offset: 201, Epoch: 8}, 500)
}

// at expects a mark, none where it is zero, and a head, none where it is negative.
func at(t *testing.T, tr *offsets.Tracker, mark offsets.Mark, head int64) {
	t.Helper()
	m, ok := tr.Mark()
	assert.Equal(t, mark != offsets.Mark{}, ok)
	assert.Equal(t, mark, m)
	h, ok := tr.Head()
	assert.Equal(t, head >= 0, ok)
	assert.Equal(t, max(head, 0), h)
}

// A mark carries the leader epoch of the last finished record, not of the next one.
func TestMarkHasTheEpochOfItsRecord(t *testing.T) {
	t.Parallel()
	var tr offsets.Tracker
	first, second := offsets.NewDense(0, 2, 3), offsets.NewDense(2, 2, 4)
	tr.Add(first)
	tr.Add(second)
	first.End(0, 2)
	at(t, &tr, offsets.Mark{Offset: 2, Epoch: 3}, 2)
	second.End(0, 1)
	at(t, &tr, offsets.Mark{Offset: 3, Epoch: 4}, 3)
}

func TestHeldRecordIsNotFinished(t *testing.T) {
	t.Parallel()
	var tr offsets.Tracker
	b := offsets.NewDense(0, 130, 1)
	tr.Add(b)
	assert.False(t, tr.Open(b, 64))
	tr.Hold(b, 64)
	tr.Hold(b, 129)
	tr.Hold(b, 129)
	assert.True(t, tr.Open(b, 64))
	assert.True(t, tr.Open(b, 129))
	assert.False(t, tr.Open(b, 128))
	assert.True(t, drains(b, 0, 130), "nothing needs the batch any more")
	at(t, &tr, offsets.Mark{Offset: 64, Epoch: 1}, 64)
	assert.Equal(t, 2, tr.Unfinished())
	highest(t, &tr, 128)

	tr.Resolve(b, 129)
	at(t, &tr, offsets.Mark{Offset: 64, Epoch: 1}, 64)
	highest(t, &tr, 129)
	tr.Resolve(b, 64)
	assert.False(t, tr.Open(b, 64))
	at(t, &tr, offsets.Mark{Offset: 130, Epoch: 1}, -1)
	assert.Zero(t, tr.Unfinished())
	highest(t, &tr, 129)
}

func highest(t *testing.T, tr *offsets.Tracker, want int64) {
	t.Helper()
	o, ok := tr.Highest()
	assert.True(t, ok)
	assert.Equal(t, want, o)
}

// A record that was resolved before it ends is finished when it ends.
func TestResolveBeforeTheEnd(t *testing.T) {
	t.Parallel()
	var tr offsets.Tracker
	b := offsets.NewDense(0, 1, 1)
	tr.Add(b)
	tr.Hold(b, 0)
	tr.Resolve(b, 0)
	at(t, &tr, offsets.Mark{}, 0)
	b.End(0, 1)
	at(t, &tr, offsets.Mark{Offset: 1, Epoch: 1}, -1)
}

func TestSpanCountsReceivedRecords(t *testing.T) {
	t.Parallel()
	var tr offsets.Tracker
	assert.Zero(t, tr.Span())
	a, b := offsets.NewDense(0, 200, 1), offsets.NewBatch([]int64{1_000, 2_000_000}, 1)
	tr.Add(a)
	tr.Add(b)
	assert.Equal(t, 202, tr.Span(), "gaps do not count")
	a.End(0, 63)
	assert.Equal(t, 202, tr.Span())
	a.End(63, 130)
	assert.Equal(t, 202-128, tr.Span())
	b.End(0, 2)
	assert.Equal(t, 202-128, tr.Span())
	a.End(130, 200)
	assert.Zero(t, tr.Span())
}

func TestHighestMayBeFarAboveTheMark(t *testing.T) {
	t.Parallel()
	var tr offsets.Tracker
	bs := []*offsets.Batch{offsets.NewDense(0, 70, 1), offsets.NewBatch([]int64{80, 90, 95}, 1), offsets.NewDense(100, 64, 1)}
	for _, b := range bs {
		tr.Add(b)
	}
	bs[0].End(5, 6)
	highest(t, &tr, 5)
	bs[1].End(1, 2)
	highest(t, &tr, 90)
	bs[2].End(63, 64)
	highest(t, &tr, 163)
	_, ok := tr.Mark()
	assert.False(t, ok)
}

func TestOffset(t *testing.T) {
	t.Parallel()
	assert.Equal(t, int64(12), offsets.NewDense(10, 5, 0).Offset(2))
	assert.Equal(t, int64(30), offsets.NewBatch([]int64{10, 20, 30}, 0).Offset(2))
}

// Of all who end a batch's records, one is told that it is drained, and all are
// ended when it is told.
func TestDrainedOnce(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		n := 1 + int(seed)
		b := offsets.NewDense(0, n, 0)
		var tr offsets.Tracker
		tr.Add(b)
		var drained, ended atomic.Int32
		var wg sync.WaitGroup
		for half := range 4 {
			wg.Go(func() {
				endAtRandom(b, n, rand.New(rand.NewPCG(seed, uint64(half%2))), &drained, &ended)
			})
		}
		for range 10 {
			tr.Mark()
		}
		wg.Wait()
		require.Equal(t, int32(1), drained.Load(), "%d records", n)
		require.Equal(t, int32(n), ended.Load(), "each is counted by one")
		m, _ := tr.Mark()
		require.Equal(t, int64(n), m.Offset)
	}
}

// endAtRandom ends all records, in overlapping ranges.
func endAtRandom(b *offsets.Batch, n int, rng *rand.Rand, drained, ended *atomic.Int32) {
	for _, from := range rng.Perm(n) {
		end := min(n, from+1+rng.IntN(100))
		n, last := b.End(from, end)
		ended.Add(int32(n))
		if last {
			drained.Add(1)
		}
	}
}

func TestEndAgain(t *testing.T) {
	t.Parallel()
	b := offsets.NewDense(0, 130, 0)
	for range 3 {
		assert.False(t, drains(b, 0, 64))
		assert.False(t, drains(b, 129, 130))
	}
	assert.True(t, drains(b, 0, 130))
	assert.False(t, drains(b, 0, 130))
}

func TestEndOfNothing(t *testing.T) {
	t.Parallel()
	b := offsets.NewDense(0, 64, 0)
	assert.False(t, drains(b, 5, 5))
	assert.True(t, drains(b, 0, 64))
	assert.False(t, drains(b, 0, 64))
	assert.False(t, drains(b, 64, 64))
}
