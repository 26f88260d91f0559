package kstage

import (
	"fmt"
	"time"
	"unsafe"
)

// What the tests of the memory store see of it.

const (
	IDSlotSize      = unsafe.Sizeof(idSlot{})
	MemoryShardSize = unsafe.Sizeof(memoryShard{})
)

// IDSlot and IDCell are what a million ids are kept in.
type (
	IDSlot = idSlot
	IDCell = cell
)

// Limits are the bounds of all shards.
func (s *MemoryDedupeStore) Limits() (limits []int) {
	for i := range s.shards {
		limits = append(limits, s.shards[i].ids.limit)
	}
	return limits
}

// Check looks for what must not be, and returns how many ids there are.
func (s *MemoryDedupeStore) Check() (ids int, err error) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		n, e := sh.ids.check()
		sh.mu.Unlock()
		if e != nil {
			return 0, fmt.Errorf("shard %d: %w", i, e)
		}
		ids += n
	}
	return ids, nil
}

// check walks all of a table.
func (t *idTable) check() (int, error) {
	queued := 0
	for q := range firstSlot {
		last := time.Duration(-1 << 63)
		for prev, i := q, t.slots[q].next; i != q; prev, i = i, t.slots[i].next {
			s := t.slots[i]
			switch {
			case s.prev != prev, s.queue != q:
				return 0, fmt.Errorf("slot %d is not in line", i)
			case s.until < last:
				return 0, fmt.Errorf("slot %d ends before the one in front of it", i)
			case t.find(s.id) != i:
				return 0, fmt.Errorf("slot %d is not found", i)
			}
			queued, last = queued+1, s.until
		}
	}
	cells, free := 0, 0
	for _, c := range t.cells {
		if c != 0 {
			cells++
		}
	}
	for i := t.free; i != 0; i = t.slots[i].next {
		free++
	}
	slots := len(t.slots) - int(firstSlot)
	if queued != t.ids || cells != t.ids || slots != t.ids+free || t.ids > t.limit || 4*len(t.slots) > 3*len(t.cells) {
		return 0, fmt.Errorf("%d ids of %d, %d in line, %d cells of %d, %d slots, %d free", t.ids, t.limit, queued, cells, len(t.cells), slots, free)
	}
	return t.ids, nil
}
