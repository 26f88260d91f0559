package lanes_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/kstage/kstage/internal/lanes"
)

// byKey makes a partition that goes by key: one of its records, z0, blocks until release.
func byKey(r *rig) (q *lanes.Partition[*row], release func()) {
	r.t.Helper()
	release = r.block("z0")
	q = r.Partition(0)
	add(q, "z0 y0")
	r.pass(slow)
	assert.Equal(r.t, "z0 y0", r.starts())
	r.started, r.told = nil, nil
	return q, release
}

func TestStuckKeyStopsNoOther(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, 1, func(r *rig) {
		q, release := byKey(r)
		names := strings.Fields(strings.Repeat("z a b z c - ", 100))
		add(q, strings.Join(names, " "))
		r.rest()
		assert.Len(t, r.started, 400, "all but those of z")
		release()
		r.rest()
		assert.Len(t, r.started, 600)
		r.fence(q)
	})
}

func TestKeysRunAtOnceAndRecordsOfAKeyDoNot(t *testing.T) {
	t.Parallel()
	inBubble(t, 10, 1, func(r *rig) {
		q, release := byKey(r)
		releaseAll := r.block("a1", "a2", "b1", "-1", "-2")
		add(q, "a1 a2 b1 -1 -2")
		r.rest()
		assert.ElementsMatch(t, []string{"z0", "a1", "b1", "-1", "-2"}, r.running(q))
		release()
		releaseAll()
		r.rest()
		assert.Equal(t, "- - a a b z", initials(r.ends()))
		r.fence(q)
	})
}

func initials(names string) string {
	var b []string
	for name := range strings.FieldsSeq(names) {
		b = append(b, name[:1])
	}
	return strings.Join(b, " ")
}

func TestWorkersAreBounded(t *testing.T) {
	t.Parallel()
	inBubble(t, 3, 1, func(r *rig) {
		q, release := byKey(r)
		releaseAll := r.block("a1", "b1", "c1", "d1")
		add(q, "a1 b1 c1 d1")
		r.rest()
		assert.ElementsMatch(t, []string{"z0", "a1", "b1"}, r.running(q))
		release()
		r.rest()
		assert.ElementsMatch(t, []string{"a1", "b1", "c1"}, r.running(q))
		releaseAll()
		r.rest()
		r.fence(q)
	})
}

// A parked key needs no worker, keeps its later records, and comes back when its time has passed.
func TestParkedKey(t *testing.T) {
	t.Parallel()
	inBubble(t, 1, 1, func(r *rig) {
		r.park("a1", time.Second, 3)
		r.park("-1", 3*time.Second/2, 1)
		q := r.Partition(0)
		add(q, "a1 a2 -1 b1 -2")
		r.rest()
		assert.Equal(t, "a1 -1 b1 -2", r.starts())
		r.pass(time.Second - 1)
		assert.Equal(t, "a1 -1 b1 -2", r.starts(), "early")
		r.pass(1)
		assert.Equal(t, "a1 -1 b1 -2 a1", r.starts())
		add(q, "a3 b2")
		r.pass(2 * time.Second)
		assert.Equal(t, "a1 -1 b1 -2 a1 b2 -1 a1 a1 a2 a3", r.starts())
		assert.Equal(t, "-1 -1 -2 a1 a1 a1 a1 a2 a3 b1 b2", r.ends())
		r.fence(q)
	})
}

// A key whose record was given up does not go on; others do.
func TestGivenUpKeyStops(t *testing.T) {
	t.Parallel()
	inBubble(t, 2, 1, func(r *rig) {
		for _, name := range []string{"a1", "b2", "-1"} {
			r.on(name, func() time.Duration { return lanes.Never })
		}
		q := r.Partition(0)
		add(q, "a1 a2 b1 b2 b3 -1 c1 -2")
		r.rest()
		assert.ElementsMatch(t, strings.Fields("a1 b1 b2 -1 c1 -2"), r.started)
		assert.Equal(t, "-2 b1 c1", r.ends())
		assert.Empty(t, r.running(q))
		r.fence(q)
	})
}

// Lanes that ended are used again, and remember nothing.
func TestKeysComeAndGo(t *testing.T) {
	t.Parallel()
	inBubble(t, 4, 1, func(r *rig) {
		q, release := byKey(r)
		for range 50 {
			add(q, "a b c a b c d e f a -")
			r.pass(time.Millisecond)
		}
		assert.Len(t, r.started, 50*11)
		assert.Equal(t, []string{"z0"}, r.running(q))
		release()
		r.rest()
		r.fence(q)
	})
}
