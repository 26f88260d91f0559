package kstage

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kstage/kstage/internal/siphash"
)

// Ids whose hashes have much in common, as those of real ids never have: homes in one
// corner of the table and at its end, all bits but one the same.
func drawID(t *rapid.T) siphash.Sum {
	home := rapid.SampledFrom([]uint64{0, 1, 2, 13, 14, 15, 31, 1<<32 - 1}).Draw(t, "home")
	return siphash.Sum{Lo: home<<32 | rapid.Uint64Range(0, 1).Draw(t, "lo"), Hi: rapid.Uint64Range(0, 1).Draw(t, "hi")}
}

// tableModel is an idTable beside a plain map.
type tableModel struct {
	table   idTable
	until   map[siphash.Sum]time.Duration
	queue   map[siphash.Sum]uint32
	now     time.Duration
	evicted uint64
}

func TestIDTableIsAsItsModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 40).Draw(t, "limit")
		m := &tableModel{table: newIDTable(limit), until: map[siphash.Sum]time.Duration{}, queue: map[siphash.Sum]uint32{}}
		t.Repeat(map[string]func(*rapid.T){
			"put":  m.put,
			"drop": m.drop,
			"time": func(t *rapid.T) { m.now += time.Duration(rapid.IntRange(0, 10).Draw(t, "passes")) },
			"":     m.check,
		})
	})
}

func (m *tableModel) put(t *rapid.T) {
	id := drawID(t)
	queue := rapid.SampledFrom([]uint32{claimed, done}).Draw(t, "queue")
	until := m.now + time.Duration(rapid.IntRange(1, 20).Draw(t, "for"))
	i := m.table.find(id)
	if i != 0 {
		m.table.unqueue(i)
	} else {
		m.makeRoom()
		i = m.table.add(id, m.now)
		require.Equal(t, len(m.until) < m.table.limit, i != 0, "%d ids of %d", len(m.until), m.table.limit)
		if i == 0 {
			return
		}
	}
	m.table.enqueue(queue, i, until)
	m.until[id], m.queue[id] = until, queue
}

// makeRoom forgets what the table should: of the first of each queue that is over,
// one; then, if it is full, the oldest that is done. Of equals it takes the table's.
func (m *tableModel) makeRoom() {
	if m.table.free != 0 {
		return
	}
	for _, q := range []uint32{done, claimed} {
		if first, ok := m.first(q); ok && m.until[first] <= m.now {
			m.forget(first)
			return
		}
	}
	if first, ok := m.first(done); ok && len(m.until) == m.table.limit {
		m.forget(first)
		m.evicted++
	}
}

// first is the table's first of a queue, if no other ends earlier.
func (m *tableModel) first(q uint32) (siphash.Sum, bool) {
	first := m.table.slots[q].next
	if first == q {
		return siphash.Sum{}, false
	}
	id := m.table.slots[first].id
	for other, queue := range m.queue {
		if queue == q && m.until[other] < m.until[id] {
			return siphash.Sum{}, false
		}
	}
	return id, true
}

func (m *tableModel) forget(id siphash.Sum) {
	delete(m.until, id)
	delete(m.queue, id)
}

func (m *tableModel) drop(t *rapid.T) {
	id := drawID(t)
	if i := m.table.find(id); i != 0 {
		m.table.drop(i)
		m.forget(id)
	}
}

func (m *tableModel) check(t *rapid.T) {
	n, err := m.table.check()
	require.NoError(t, err)
	require.Len(t, m.until, n)
	require.Equal(t, m.evicted, m.table.evicted)
	for id, until := range m.until {
		i := m.table.find(id)
		require.NotZero(t, i)
		require.Equal(t, until, m.table.slots[i].until)
		require.Equal(t, m.queue[id], m.table.slots[i].queue)
		other := siphash.Sum{Lo: id.Lo ^ 2, Hi: id.Hi} // 126 bits are the same
		require.Zero(t, m.table.find(other))
	}
}
