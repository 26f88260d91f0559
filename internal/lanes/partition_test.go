package lanes_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/kstage/kstage/internal/lanes"
)

func TestFenceOfAWalk(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, 1, func(r *rig) {
		release := r.block("b1")
		q := r.Partition(0)
		add(q, "a1 b1 a2 c1")
		add(q, "d1")
		r.rest()
		idle := q.Fence()
		assert.Equal(t, "a1", r.ends(), "what ended before the fence is told at once")
		add(q, "e1")
		r.pass(slow)
		assert.False(t, closed(idle))
		assert.Equal(t, []string{"b1"}, r.running(q))
		release()
		r.rest()
		assert.True(t, closed(idle))
		assert.Equal(t, "a1 b1", r.starts())
		assert.Equal(t, "a1 b1", r.ends())
		assert.Empty(t, r.running(q))
		assert.Equal(t, idle, q.Fence())
	})
}

func TestFenceOfSteps(t *testing.T) {
	t.Parallel()
	inBubble(t, 3, 1, func(r *rig) {
		q, releaseZ := byKey(r)
		release := r.block("a1", "b1")
		add(q, "a1 a2 b1 z1 c1 -1")
		r.rest()
		idle := q.Fence()
		release()
		r.rest()
		assert.False(t, closed(idle), "z0 runs")
		releaseZ()
		r.rest()
		assert.True(t, closed(idle))
		assert.Equal(t, "a1 b1", r.starts())
		assert.Equal(t, "a1 b1 z0", r.ends())
	})
}

func TestFenceForgetsParkedRecords(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, 1, func(r *rig) {
		r.park("a1", time.Second, 1)
		q := r.Partition(0)
		b := add(q, "a1 a2 b1")
		r.rest()
		r.fence(q)
		assert.False(t, q.Drop(b, 0))
		r.pass(2 * time.Second)
		assert.Equal(t, "a1 b1", r.starts())
	})
}

// A record that asks to wait when its partition was fenced meanwhile has not ended.
func TestWaitAfterTheFence(t *testing.T) {
	t.Parallel()
	for _, answer := range []time.Duration{time.Second, lanes.Never} {
		inBubble(t, 2, 1, func(r *rig) {
			q, releaseZ := byKey(r)
			p := r.Partition(0)
			gate := make(chan struct{})
			for _, name := range []string{"a1", "b1"} {
				r.on(name, func() time.Duration { <-gate; return answer })
			}
			add(q, "a1 a2")
			r.rest()
			idle := q.Fence()
			releaseZ()
			r.rest()
			add(p, "b1 b2")
			r.rest()
			walked := p.Fence()
			close(gate)
			r.pass(2 * time.Second)
			assert.True(t, closed(idle) && closed(walked))
			assert.Equal(t, "a1 b1", r.starts())
			assert.Equal(t, "z0", r.ends())
		})
	}
}

func TestFenceOfAnIdlePartition(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, 1, func(r *rig) {
		p, q, empty := r.Partition(0), r.Partition(0), r.Partition(0)
		release := r.block("a1")
		add(p, "a1")
		r.rest()
		add(q, "b1") // queued: the only worker is busy
		r.fence(q, empty)
		release()
		r.rest()
		assert.Equal(t, "a1", r.starts())
		r.fence(p)
	})
}

func TestDrop(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, 1, func(r *rig) {
		q, release := byKey(r)
		r.park("a1", time.Second, 5)
		r.park("b1", time.Second, 5)
		r.park("-1", time.Second, 5)
		b := add(q, "a1 a2 z1 b1 c1 -1")
		r.rest()
		assert.Equal(t, "a1 b1 c1 -1", r.starts())
		assert.False(t, q.Drop(b, 1), "it waits behind its key")
		assert.False(t, q.Drop(b, 2), "its key runs")
		assert.False(t, q.Drop(b, 4), "it has ended")
		assert.False(t, q.Drop(&row{b.names}, 0), "another batch")
		assert.True(t, q.Drop(b, 0))
		assert.False(t, q.Drop(b, 0), "dropped before")
		r.rest()
		assert.Equal(t, "a1 b1 c1 -1 a2", r.starts(), "its key goes on")
		assert.Equal(t, "-1 a1 a1 a2 b1 c1", r.ends())
		assert.True(t, q.Drop(b, 3))
		assert.True(t, q.Drop(b, 5))
		r.pass(2 * time.Second)
		assert.Equal(t, "a1 b1 c1 -1 a2", r.starts())
		release()
		r.rest()
		r.fence(q)
	})
}

// A timer of a wait that was dropped does not end a later wait of the lane early.
func TestDropThenParkAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, 1, func(r *rig) {
		r.park("a1", time.Second, 1)
		r.park("a2", time.Second, 1)
		q := r.Partition(0)
		b := add(q, "a1 a2 a3")
		r.pass(time.Second / 2)
		assert.True(t, q.Drop(b, 0))
		r.pass(3 * time.Second / 4)
		assert.Equal(t, "a1 a2", r.starts())
		r.pass(time.Second / 4)
		assert.Equal(t, "a1 a2 a2 a3", r.starts())
		r.fence(q)
	})
}

// Nor does one that had gone off already.
func TestLateTimer(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, 1, func(r *rig) {
		r.park("a1", time.Second, 1)
		r.park("a2", time.Second, 1)
		q := r.Partition(0)
		b := add(q, "a1 a2 a3")
		r.rest()
		late := q.Timer()
		assert.True(t, q.Drop(b, 0))
		r.rest()
		late()
		r.rest()
		assert.Equal(t, "a1 a2", r.starts())
		r.pass(time.Second)
		assert.Equal(t, "a1 a2 a2 a3", r.starts())
		late()
		r.fence(q)
		late()
		r.rest()
	})
}

func TestDropOfARunningRecord(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, 1, func(r *rig) {
		release := r.block("b1")
		q := r.Partition(0)
		b := add(q, "a1 b1 b2")
		for i := range 3 {
			assert.False(t, q.Drop(b, i))
		}
		r.rest()
		assert.False(t, q.Drop(b, 1), "it is walked")
		r.pass(slow)
		assert.False(t, q.Drop(b, 1), "it runs by key")
		release()
		r.rest()
		assert.False(t, q.Drop(b, 1), "it has ended")
		r.fence(q)
	})
}

func TestRunning(t *testing.T) {
	t.Parallel()
	inBubble(t, 4, 1, func(r *rig) {
		release := r.block("b1", "c1", "d2")
		r.park("a2", time.Second, 1)
		q := r.Partition(0)
		assert.Empty(t, r.running(q))
		add(q, "a1 b1 b2 c1 d1 a2 d2")
		assert.Empty(t, r.running(q), "no worker has begun")
		r.rest()
		assert.Equal(t, []string{"b1"}, r.running(q), "walked")
		r.pass(slow)
		assert.ElementsMatch(t, []string{"b1", "c1", "d2"}, r.running(q), "the cut walk's and the steps'")
		release()
		r.rest()
		assert.Empty(t, r.running(q), "a2 is parked")
		r.fence(q)
	})
}
