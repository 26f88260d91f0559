package lanes_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/kstage/kstage/internal/lanes"
)

// One intake can take all workers but one, which the other is guaranteed.
func TestEachIntakeHasAWorker(t *testing.T) {
	t.Parallel()
	for _, workers := range []int{2, 3, 5} {
		for greedy := range 2 {
			t.Run(fmt.Sprint(workers, greedy), func(t *testing.T) {
				t.Parallel()
				inBubble(t, workers, 2, func(r *rig) { guarantee(r, workers, greedy) })
			})
		}
	}
}

func guarantee(r *rig, workers, greedy int) {
	q, other := r.Partition(greedy), r.Partition(1-greedy)
	release := r.block("a1", "b1", "c1", "d1", "e1", "f1")
	add(q, "a1 b1 c1 d1 e1 f1")
	r.pass(slow)
	assert.Len(r.t, r.running(q), workers-1)
	r.park("x2", time.Second, 1)
	add(other, "x1 x2 x3 y1")
	r.rest()
	r.pass(time.Second)
	assert.Equal(r.t, "x1 x2 y1 x2 x3", r.starts()[3*(workers-1):])
	assert.Len(r.t, r.running(q), workers-1, "the guaranteed worker went to the other intake")
	release()
	r.rest()
	assert.Len(r.t, r.started, 6+5)
	r.fence(q, other)
}

func TestIntakesShareTheOnlyWorker(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, 2, func(r *rig) {
		p, q := r.Partition(0), r.Partition(1)
		release := r.block("a1")
		add(p, "a1 a2")
		r.rest()
		add(q, "b1 b2")
		r.pass(slow)
		assert.Equal(t, "a1", r.starts())
		release()
		r.rest()
		assert.ElementsMatch(t, []string{"a1", "a2", "b1", "b2"}, r.started)
		r.fence(p, q)
	})
}

func TestOneIntakeHasAllWorkers(t *testing.T) {
	t.Parallel()
	inBubble(t, 3, 1, func(r *rig) {
		q := r.Partition(0)
		release := r.block("a1", "b1", "c1")
		add(q, "a1 b1 c1")
		r.pass(slow)
		assert.Len(t, r.running(q), 3)
		release()
		r.rest()
		r.fence(q)
	})
}

// A partition that always has something quick to do leaves a worker to the others.
func TestPartitionsTakeTurns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ workers, intakes, first, second int }{
		{1, 1, 0, 0},
		{1, 2, 0, 1},
		{1, 2, 1, 0},
		{2, 2, 0, 0}, // one worker is all that an intake may have
		{2, 2, 1, 1},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			t.Parallel()
			inBubble(t, c.workers, c.intakes, func(r *rig) {
				p, q := r.Partition(c.first), r.Partition(c.second)
				r.on("s1", func() time.Duration { // lets both be queued before either runs on
					add(q, "b1")
					endless(r, p, "a1", "b1")
					return 0
				})
				add(p, "s1")
				r.rest()
				assert.Less(t, len(r.started), 10, "a1 had all turns")
				r.fence(p, q)
			})
		})
	}
}

// endless keeps q busy with quick records, until another record has started.
func endless(r *rig, q *lanes.Partition[*row], name, other string) {
	limit := 1000
	r.on(name, func() time.Duration {
		if limit--; limit > 0 && !r.has(other) {
			add(q, name)
		}
		return 0
	})
	add(q, name)
}

func (r *rig) has(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.started, name)
}

// A walk that left its worker to others goes on when they had their turn.
func TestWalkGoesOnAfterItsTurn(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, 1, func(r *rig) {
		p, q := r.Partition(0), r.Partition(0)
		r.on("s1", func() time.Duration {
			add(p, "a1 a2")
			add(p, "a3")
			add(q, "b1")
			add(q, "b2")
			return 0
		})
		add(p, "s1")
		r.rest()
		assert.Equal(t, "s1 b1 a1 a2 b2 a3", r.starts())
		r.fence(p, q)
	})
}

// By key, partitions take turns record by record.
func TestPartitionsTakeTurnsByKey(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, 2, func(r *rig) {
		qs := []*lanes.Partition[*row]{r.Partition(0), r.Partition(0), r.Partition(1)}
		for n, q := range qs {
			r.on(fmt.Sprint("w", n), func() time.Duration { return time.Hour })
			add(q, fmt.Sprint("w", n)) // a wait makes it go by key
		}
		r.rest()
		release := r.block("s0")
		add(qs[0], "s0")
		r.rest()
		r.started = nil
		add(qs[0], "a a a a")
		add(qs[1], "b b b b")
		add(qs[2], "c c c c c c c c")
		release()
		r.rest()
		assert.Equal(t, "c a c b c a c b c a c b c a c b", r.starts())
		r.fence(qs...)
	})
}

func TestDone(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, 1, func(r *rig) {
		assert.True(t, closed(r.Done()), "no worker was ever there")
	})
	inBubble(t, 2, 1, func(r *rig) {
		release := r.block("a1", "b1")
		p, q := r.Partition(0), r.Partition(0)
		add(p, "a1")
		add(q, "b1")
		r.rest()
		p.Fence()
		q.Fence()
		done := r.Done()
		r.pass(time.Second)
		assert.False(t, closed(done))
		release()
		r.rest()
		assert.True(t, closed(done))
		assert.Equal(t, done, r.Done())
	})
}
