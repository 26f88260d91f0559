package lanes_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestQuickPartitionIsWalked(t *testing.T) {
	t.Parallel()
	inBubble(t, 8, 1, func(r *rig) {
		q := r.Partition(0)
		add(q, "a1 b1 -1 a2")
		add(q, "-2 b2")
		r.rest()
		assert.Equal(t, "a1 b1 -1 a2 -2 b2", r.starts())
		assert.False(t, q.ByKey())
		r.fence(q)
	})
}

// The records behind one that takes its time go on by key.
func TestSlowWalkIsCut(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, 1, func(r *rig) {
		release := r.block("a1")
		q := r.Partition(0)
		add(q, "c1 a1 a2 b1")
		add(q, "a3 c2")
		r.rest()
		assert.Equal(t, "c1 a1", r.starts(), "a walk is one record at a time")
		r.pass(slow)
		assert.Equal(t, "c1 a1 b1 c2", r.starts())
		assert.Equal(t, "b1 c1 c2", r.ends())
		release()
		r.rest()
		assert.Equal(t, "c1 a1 b1 c2 a2 a3", r.starts())
		r.fence(q)
	})
}

// A walk is left alone while nothing waits behind its record, and cut when something comes.
func TestWalkWithNothingBehindIsNotCut(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, 1, func(r *rig) {
		release := r.block("a1")
		q := r.Partition(0)
		add(q, "b1 a1")
		r.pass(slow)
		assert.False(t, q.ByKey())
		add(q, "a2 b2")
		r.pass(slow)
		assert.True(t, q.ByKey())
		assert.Equal(t, "b1 a1 b2", r.starts())
		release()
		r.rest()
		assert.Equal(t, "b1 a1 b2 a2", r.starts())
		r.fence(q)
	})
}

// What a walk has done is told while its last record takes its time.
func TestWalkTellsWithinTwoTicks(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, 1, func(r *rig) {
		release := r.block("a3")
		q := r.Partition(0)
		add(q, "a1 b1")
		add(q, "a2 b2 a3")
		r.rest()
		assert.Equal(t, "a1 b1", r.ends())
		r.pass(2 * time.Millisecond)
		assert.Equal(t, "a1 a2 b1 b2", r.ends())
		release()
		r.rest()
		assert.Equal(t, "a1 a2 a3 b1 b2", r.ends())
		r.fence(q)
	})
}

// A record that has to wait ends the walk, and its key alone waits.
func TestWaitEndsTheWalk(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, 1, func(r *rig) {
		r.park("a1", time.Second, 1)
		q := r.Partition(0)
		add(q, "b1 a1 a2 b2 a3")
		add(q, "c1 a4")
		r.rest()
		assert.Equal(t, "b1 a1 b2 c1", r.starts())
		assert.Equal(t, "a1 b1 b2 c1", r.ends(), "a parked record's batch is not needed")
		r.pass(time.Second)
		assert.Equal(t, "b1 a1 b2 c1 a1 a2 a3 a4", r.starts())
		assert.Equal(t, "a1 a1 a2 a3 a4 b1 b2 c1", r.ends())
		r.fence(q)
	})
}

func TestWalkEndsWithAWaitOfItsLastRecord(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, 1, func(r *rig) {
		r.park("a1", time.Second, 1)
		q := r.Partition(0)
		add(q, "b1 a1")
		r.rest()
		add(q, "b2 a2")
		r.rest()
		assert.Equal(t, "b1 a1 b2", r.starts())
		r.pass(time.Second)
		assert.Equal(t, "b1 a1 b2 a1 a2", r.starts())
		r.fence(q)
	})
}

// A partition that was slow and is quick again is walked again.
func TestWalkedAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, 1, func(r *rig) {
		q := r.Partition(0)
		for n := range 4 {
			stuck, behind := fmt.Sprint("a", n), fmt.Sprint("b", n)
			release := r.block(stuck)
			add(q, stuck+" "+behind)
			r.pass(slow)
			assert.True(t, q.ByKey(), "slow, so by key")
			release()
			r.rest()
			for range 2 { // the first sample holds the slow record
				for range 8 {
					add(q, "c d e f g h i j")
				}
				r.rest()
			}
			assert.False(t, q.ByKey(), "quick, so walked")
		}
		assert.Len(t, r.started, 4*(2+2*64))
		r.fence(q)
	})
}

// A live lane keeps the partition by key, however quick the others are.
func TestNoWalkPastAParkedRecord(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, 1, func(r *rig) {
		r.park("a1", time.Second, 1)
		q := r.Partition(0)
		add(q, "a1")
		for range 40 {
			add(q, "b c d e f g h i")
			r.rest()
		}
		assert.True(t, q.ByKey())
		add(q, "a2")
		r.rest()
		assert.False(t, r.has("a2"), "its key is parked")
		r.pass(time.Second)
		assert.True(t, r.has("a2"))
		r.fence(q)
	})
}

// An old worker that is still inside keeps the partition by key: it may be that
// of the last walk, and knows nothing of a new one.
func TestNoWalkWhileAWorkerIsInside(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, 1, func(r *rig) {
		r.park("a1", time.Second, 1)
		q := r.Partition(0)
		add(q, "a1")
		r.pass(time.Second)
		leave := q.Linger()
		quick := func() {
			for range 16 {
				add(q, "b c d e f g h i")
			}
			r.rest()
		}
		quick()
		quick()
		assert.True(t, q.ByKey())
		leave()
		quick()
		assert.False(t, q.ByKey())
		r.fence(q)
	})
}
