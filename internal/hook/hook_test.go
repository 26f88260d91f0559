package hook_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage/internal/hook"
)

func TestEachPointHasAName(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for p := range hook.NumberOfPoints {
		require.NotEmpty(t, p.String())
		require.False(t, names[p.String()], p)
		names[p.String()] = true
	}
}

// Without the build tag a point is nothing, and Now is the time; with it they do what
// they were told.
func TestHooks(t *testing.T) { //nolint:paralleltest // points are the process'
	var clock hook.Clock
	clock.Set(time.Hour)
	ahead := time.Until(hook.Now(hook.WithClock(t.Context(), &clock)))
	require.Less(t, time.Since(hook.Now(t.Context())).Abs(), time.Minute, "a context without a clock")
	reached := 0
	hook.OnStretch(func(p hook.Point) {
		require.Equal(t, hook.BeforeCommit, p)
		reached++
	})
	hook.Stretch(hook.BeforeCommit)
	hook.OnStretch(nil)
	hook.Stretch(hook.AfterCommit)
	if hook.On {
		require.InDelta(t, time.Hour, ahead, float64(time.Minute))
		require.Equal(t, 1, reached)
		return
	}
	require.InDelta(t, 0, ahead, float64(time.Minute))
	require.Zero(t, reached)
}
