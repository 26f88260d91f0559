package offsets_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kstage/kstage/internal/offsets"
)

// model is a Tracker beside the plain list of its records.
type model struct {
	tr      offsets.Tracker
	batches []*batch
	records []*record
}

type batch struct {
	*offsets.Batch
	records []*record
}

type record struct {
	offset      int64
	epoch       int32
	ended, open bool
	apart       bool
}

func (r *record) finished() bool { return r.ended && !r.open }

// next is the offset after the last one, and a gap.
func (m *model) next(gap int64) int64 {
	if len(m.records) == 0 {
		return gap
	}
	return m.records[len(m.records)-1].offset + 1 + gap
}

func (m *model) add(epoch int32, gaps []int64, dense bool) {
	b := &batch{}
	var at []int64
	for i, gap := range gaps {
		if dense && i > 0 {
			gap = 0
		}
		r := &record{offset: m.next(gap), epoch: epoch}
		b.records, m.records, at = append(b.records, r), append(m.records, r), append(at, r.offset)
	}
	if b.Batch = offsets.NewBatch(at, epoch); dense {
		b.Batch = offsets.NewDense(at[0], len(at), epoch)
	}
	m.tr.Add(b.Batch)
	m.batches = append(m.batches, b)
}

func (m *model) end(t require.TestingT, b *batch, from, end int) {
	before, fresh := b.allEnded(), 0
	for _, r := range b.records[from:end] {
		if !r.ended && !r.apart {
			fresh++
		}
		r.ended = true
	}
	n, drained := b.End(from, end)
	require.Equal(t, fresh, n, "ended")
	require.Equal(t, !before && b.allEnded(), drained, "drained")
}

func (m *model) setApart(b *batch, i int) {
	b.records[i].apart = true
	b.SetApart(i)
}

func (b *batch) allEnded() bool {
	for _, r := range b.records {
		if !r.ended {
			return false
		}
	}
	return true
}

// hold opens a record; one that is finished it must not.
func (m *model) hold(b *batch, i int) {
	if r := b.records[i]; !r.ended {
		r.open = true
		m.tr.Hold(b.Batch, i)
	}
}

func (m *model) resolve(b *batch, i int) {
	if r := b.records[i]; r.open {
		r.open = false
		m.tr.Resolve(b.Batch, i)
	}
}

// head is the index of the oldest unfinished record.
func (m *model) head() int {
	for i, r := range m.records {
		if !r.finished() {
			return i
		}
	}
	return len(m.records)
}

func (m *model) check(t require.TestingT) {
	head := m.head()
	var mark offsets.Mark
	if head > 0 {
		last := m.records[head-1]
		mark = offsets.Mark{Offset: last.offset + 1, Epoch: last.epoch}
	}
	got, ok := m.tr.Mark()
	require.Equal(t, head > 0, ok)
	require.Equal(t, mark, got)

	offset, ok := m.tr.Head()
	require.Equal(t, head < len(m.records), ok)
	if ok {
		require.Equal(t, m.records[head].offset, offset)
	}
	unfinished, highest := 0, int64(-1)
	for _, r := range m.records {
		if !r.finished() {
			unfinished++
		} else {
			highest = r.offset
		}
	}
	require.Equal(t, unfinished, m.tr.Unfinished())
	offset, ok = m.tr.Highest()
	require.Equal(t, highest >= 0, ok)
	require.Equal(t, highest, offset)
	m.checkExcept(t, unfinished)
	span := len(m.records) - head
	require.GreaterOrEqual(t, m.tr.Span(), span)
	require.Less(t, m.tr.Span(), span+64)
}

// checkExcept leaves out every third record, and one of them twice.
func (m *model) checkExcept(t require.TestingT, unfinished int) {
	var some []offsets.Position
	for _, b := range m.batches {
		for i := 0; i < len(b.records); i += 3 {
			some = append(some, offsets.Position{Batch: b.Batch, I: i})
			if !b.records[i].finished() {
				unfinished--
			}
		}
	}
	if len(some) > 0 {
		some = append(some, some[len(some)-1])
	}
	require.Equal(t, unfinished, m.tr.Unfinished(some...))
}

// A Tracker says what a look at all records says.
func testModel(t *rapid.T) {
	var m model
	at := func(t *rapid.T) (*batch, int) {
		if len(m.batches) == 0 {
			t.Skip("no batch")
		}
		b := m.batches[len(m.batches)-1-rapid.IntRange(0, len(m.batches)-1).Draw(t, "batch, from the newest")]
		return b, rapid.IntRange(0, len(b.records)-1).Draw(t, "record")
	}
	t.Repeat(map[string]func(*rapid.T){
		"add": func(t *rapid.T) {
			n := rapid.SampledFrom([]int{1, 2, 63, 64, 65, 128, 130, 200}).Draw(t, "records")
			gaps := rapid.SliceOfN(rapid.Int64Range(0, 3), n, n).Draw(t, "gaps")
			m.add(rapid.Int32Range(0, 3).Draw(t, "epoch"), gaps, rapid.Bool().Draw(t, "dense"))
		},
		"end": func(t *rapid.T) {
			b, from := at(t)
			m.end(t, b, from, rapid.IntRange(from, len(b.records)).Draw(t, "end"))
		},
		"end the head": func(t *rapid.T) {
			for _, b := range m.batches {
				if !b.allEnded() {
					m.end(t, b, 0, rapid.IntRange(0, len(b.records)).Draw(t, "end"))
					return
				}
			}
		},
		"hold":      func(t *rapid.T) { m.hold(at(t)) },
		"resolve":   func(t *rapid.T) { m.resolve(at(t)) },
		"set apart": func(t *rapid.T) { m.setApart(at(t)) },
		"resolve all": func(*rapid.T) {
			for _, b := range m.batches {
				for i := range b.records {
					m.resolve(b, i)
				}
			}
		},
		"": func(t *rapid.T) { m.check(t) },
	})
}

func TestTrackerIsAsItsModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, testModel)
}

func FuzzTracker(f *testing.F) { f.Fuzz(rapid.MakeFuzz(testModel)) }
