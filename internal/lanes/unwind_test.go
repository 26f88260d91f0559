package lanes_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// deaths are the ways in which Run does not return.
func deaths() map[string]func() time.Duration {
	return map[string]func() time.Duration{
		"panic":     func() time.Duration { panic("x") },
		"panic nil": func() time.Duration { panic(nil) }, //nolint:govet // nilness: on purpose
		"Goexit":    func() time.Duration { runtime.Goexit(); return 0 },
		"Goexit, then a panic in a deferred function": func() time.Duration {
			defer panic("x")
			runtime.Goexit()
			return 0
		},
	}
}

func TestDeadRecordGoesOn(t *testing.T) {
	t.Parallel()
	for name, die := range deaths() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("walk", func(t *testing.T) { t.Parallel(); walkOverDead(t, die) })
			t.Run("walk, waits", func(t *testing.T) { t.Parallel(); walkIntoWait(t, die) })
			t.Run("walk, cut meanwhile", func(t *testing.T) { t.Parallel(); cutOverDead(t, die) })
			t.Run("by key", func(t *testing.T) { t.Parallel(); keyOverDead(t, die) })
			t.Run("given up", func(t *testing.T) { t.Parallel(); giveUpDead(t, die) })
			t.Run("workers survive", func(t *testing.T) { t.Parallel(); workersSurvive(t, die) })
		})
	}
}

func walkOverDead(t *testing.T, die func() time.Duration) {
	t.Helper()
	inBubble(t, 1, 1, func(r *rig) {
		r.on("a1", die)
		r.on("b2", die)
		q := r.Partition(0)
		add(q, "a1 a2 b1 b2")
		add(q, "a3 b3")
		r.rest()
		assert.Equal(t, "a1 a2 b1 b2 a3 b3", r.starts())
		assert.Equal(t, "a1 a2 a3 b1 b2 b3", r.ends())
		assert.Equal(t, "a1 b2", r.list(&r.unwound))
		r.fence(q)
	})
}

func walkIntoWait(t *testing.T, die func() time.Duration) {
	t.Helper()
	inBubble(t, 1, 1, func(r *rig) {
		r.on("a2", die)
		waits := []time.Duration{0, time.Second}
		r.answers["a2"] = func(any) time.Duration {
			n := len(waits) - 1
			defer func() { waits = waits[:n] }()
			return waits[n]
		}
		q := r.Partition(0)
		add(q, "a1 a2 a3 b1")
		r.rest()
		assert.Equal(t, "a1 a2 b1", r.starts())
		r.pass(time.Second)
		assert.Equal(t, "a1 a2 b1 a2 a3", r.starts())
		assert.Equal(t, "a1 a2 a2 a3 b1", r.ends())
		r.fence(q)
	})
}

func cutOverDead(t *testing.T, die func() time.Duration) {
	t.Helper()
	inBubble(t, 2, 1, func(r *rig) {
		r.on("a1", func() time.Duration { <-time.After(slow); return die() })
		q := r.Partition(0)
		add(q, "a1 a2 b1")
		r.rest()
		assert.Equal(t, "a1", r.starts())
		r.pass(slow)
		assert.Equal(t, "a1 b1 a2", r.starts())
		assert.Equal(t, "a1 a2 b1", r.ends())
		r.fence(q)
	})
}

func keyOverDead(t *testing.T, die func() time.Duration) {
	t.Helper()
	inBubble(t, 2, 1, func(r *rig) {
		release := r.block("z1")
		defer release()
		r.on("a1", die)
		r.on("b2", die)
		q := r.Partition(0)
		add(q, "z1 a1 a2 b1 b2 b3")
		r.pass(slow)
		assert.Equal(t, "z1 a1 a2 b1 b2 b3", r.starts())
		assert.Equal(t, "a1 a2 b1 b2 b3", r.ends())
		assert.Equal(t, "a1 b2", r.list(&r.unwound))
		release()
		r.rest()
		r.fence(q)
	})
}

func giveUpDead(t *testing.T, die func() time.Duration) {
	t.Helper()
	inBubble(t, 1, 1, func(r *rig) {
		for _, name := range []string{"a1", "b1"} {
			r.on(name, die)
			r.answers[name] = func(any) time.Duration { return -1 }
		}
		q := r.Partition(0)
		add(q, "a1 a2 b1 b2 c1")
		r.rest()
		assert.Equal(t, "a1 b1 c1", r.starts())
		assert.Equal(t, "c1", r.ends())
		r.fence(q)
	})
}

func workersSurvive(t *testing.T, die func() time.Duration) {
	t.Helper()
	inBubble(t, 2, 1, func(r *rig) {
		release := r.block("x1", "y1")
		for _, name := range []string{"a1", "b1", "c1", "d1", "e1"} {
			r.on(name, die)
		}
		p, q := r.Partition(0), r.Partition(0)
		add(p, "a1 b1 x1")
		add(q, "c1 d1 e1 y1")
		r.rest()
		assert.ElementsMatch(t, []string{"x1", "y1"}, r.running(p, q))
		release()
		r.rest()
		r.fence(p, q)
	})
}

// An Unwound that does not return either gives the record up.
func TestUnwoundMayEndItsGoroutine(t *testing.T) {
	t.Parallel()
	for name, die := range deaths() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, 1, 1, func(r *rig) {
				r.on("a1", die)
				r.answers["a1"] = func(any) time.Duration { runtime.Goexit(); return 0 }
				q := r.Partition(0)
				add(q, "a1 a2 b1")
				r.rest()
				assert.Equal(t, "a1 b1", r.starts())
				assert.Equal(t, "b1", r.ends())
				r.fence(q)
			})
		})
	}
}

func TestUnwoundIsTold(t *testing.T) {
	t.Parallel()
	want := map[string]func(v any){
		"panic":     func(v any) { assert.Equal(t, "x", v) },
		"panic nil": func(v any) { assert.IsType(t, &runtime.PanicNilError{}, v) },
		"Goexit":    func(v any) { assert.Nil(t, v) },
		"Goexit, then a panic in a deferred function": func(v any) { assert.Equal(t, "x", v) },
	}
	inBubble(t, 1, 1, func(r *rig) {
		q := r.Partition(0)
		for name, die := range deaths() {
			r.on("a1", die)
			r.answers["a1"] = func(v any) time.Duration { want[name](v); return 0 }
			add(q, "a1")
			r.rest()
		}
		r.fence(q)
	})
}
