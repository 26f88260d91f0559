package kstage

import (
	"math"
	"time"

	"github.com/kstage/kstage/internal/siphash"
)

// idTable is the memory of one shard of a MemoryDedupeStore: slots that are found
// by id, and lined up in two queues by when they end. Its two arrays hold no
// pointers, so that the garbage collector has nothing to look at in a million ids.
// It has no lock and no clock of its own.
type idTable struct {
	slots   []idSlot // the first two are the ends of the queues, and stand for no id
	cells   []cell   // where ids are: linear probing. A power of two; a quarter at least is empty
	free    uint32   // slots of no id, chained by next; 0: none
	ids     int
	limit   int    // of ids
	evicted uint64 // done ids whose place was needed before their time was over
}

// idSlot is one id. 48 bytes.
type idSlot struct {
	id         siphash.Sum
	token      uint64
	until      time.Duration // since the store's start: free from then on
	prev, next uint32        // in its queue
	queue      uint32
}

// cell is 32 bits of an id, and the number of its slot; 0: empty. The bits save most
// looks at other ids' slots, each of which costs a cache miss; they decide nothing.
type cell uint64

func (c cell) slot() uint32 { return uint32(c) }
func (c cell) home() int    { return int(c >> 32) } // masked: where it would be, were it alone

// The queues, and the slots that are their ends. Both are in the order of until.
const (
	claimed uint32 = iota
	done
	firstSlot
)

func newIDTable(limit int) idTable {
	t := idTable{limit: limit, slots: make([]idSlot, firstSlot, firstSlot+8), cells: make([]cell, 16)}
	for q := range firstSlot {
		t.slots[q].prev, t.slots[q].next = q, q
	}
	return t
}

// find returns the slot of an id; 0: none.
func (t *idTable) find(id siphash.Sum) uint32 {
	want, mask := cellOf(id, 0), len(t.cells)-1
	for at := want.home() & mask; t.cells[at] != 0; at = (at + 1) & mask {
		if c := t.cells[at]; c>>32 == want>>32 && t.slots[c.slot()].id == id {
			return c.slot()
		}
	}
	return 0
}

func cellOf(id siphash.Sum, slot uint32) cell { return cell(id.Lo&^math.MaxUint32 | uint64(slot)) }

// add makes a slot for an id that has none; it is in no queue yet. 0: all slots are
// held by claims whose lease has not ended.
func (t *idTable) add(id siphash.Sum, now time.Duration) uint32 {
	i := t.vacant(now)
	if i != 0 {
		t.slots[i].id = id
		t.place(cellOf(id, i))
		t.ids++
	}
	return i
}

// vacant finds a slot, at the price that is lowest: one of no id, one whose time is
// over, a new one, the one that was done longest ago. Claims are never put out: a
// key that two hold is worse than one that nobody gets yet.
func (t *idTable) vacant(now time.Duration) uint32 {
	if t.free == 0 && !t.dropOver(done, now) && !t.dropOver(claimed, now) {
		if t.ids < t.limit {
			return t.grow()
		}
		if oldest := t.slots[done].next; oldest != done {
			t.drop(oldest)
			t.evicted++
		}
	}
	i := t.free
	if i != 0 {
		t.free = t.slots[i].next
	}
	return i
}

// dropOver drops the first of a queue where its time is over.
func (t *idTable) dropOver(queue uint32, now time.Duration) bool {
	first := t.slots[queue].next
	over := first != queue && t.slots[first].until <= now
	if over {
		t.drop(first)
	}
	return over
}

// grow adds a slot. Arrays are doubled, never given back: at most limit ids.
func (t *idTable) grow() uint32 {
	n := len(t.slots)
	if n == cap(t.slots) {
		t.slots = append(make([]idSlot, 0, min(2*n, t.limit+int(firstSlot))), t.slots...)
	}
	t.slots = t.slots[:n+1]
	if 4*len(t.slots) > 3*len(t.cells) {
		t.rehash()
	}
	return uint32(n)
}

func (t *idTable) rehash() {
	old := t.cells
	t.cells = make([]cell, 2*len(old))
	for _, c := range old {
		if c != 0 {
			t.place(c)
		}
	}
}

// place puts a cell into the first empty place from its home on.
func (t *idTable) place(c cell) {
	mask := len(t.cells) - 1
	at := c.home() & mask
	for t.cells[at] != 0 {
		at = (at + 1) & mask
	}
	t.cells[at] = c
}

// drop forgets an id.
func (t *idTable) drop(i uint32) {
	t.unqueue(i)
	t.vacate(cellOf(t.slots[i].id, i))
	t.slots[i].next, t.free = t.free, i
	t.ids--
}

// vacate empties a cell, and moves up what could not be found behind an empty one:
// whatever is not before its home then.
func (t *idTable) vacate(c cell) {
	mask := len(t.cells) - 1
	hole := c.home() & mask
	for t.cells[hole] != c {
		hole = (hole + 1) & mask
	}
	for at := (hole + 1) & mask; t.cells[at] != 0; at = (at + 1) & mask {
		if far := (at - t.cells[at].home()) & mask; far >= (at-hole)&mask {
			t.cells[hole] = t.cells[at]
			hole = at
		}
	}
	t.cells[hole] = 0
}

func (t *idTable) unqueue(i uint32) {
	s := &t.slots[i]
	t.slots[s.prev].next, t.slots[s.next].prev = s.next, s.prev
}

// enqueue lines a slot up by its end. What comes last nearly always ends last: only
// leases of different lengths make it look further.
func (t *idTable) enqueue(queue, i uint32, until time.Duration) {
	after := t.slots[queue].prev
	for after != queue && t.slots[after].until > until {
		after = t.slots[after].prev
	}
	s, a := &t.slots[i], &t.slots[after]
	s.queue, s.until, s.prev, s.next = queue, until, after, a.next
	t.slots[a.next].prev = i
	a.next = i
}
