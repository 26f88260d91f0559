//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

var errNotYet = errors.New("not yet")

// alwaysFails notes each call and fails.
func alwaysFails(j *journal) kstage.HandlerFunc {
	return func(_ context.Context, m kstage.Message) error {
		j.note(m)
		return errNotYet
	}
}

// The whole ladder, once: each stage waits its delay, and not much more; the last
// failure is dead.
func TestLadderFromMainToTheDeadLetter(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		delays := []time.Duration{5 * time.Second, time.Minute, 10 * time.Minute}
		var j journal
		m := w.start(alwaysFails(&j), append(opts, w.stages(1, delays...), once())...)
		w.produce(record(topic, 0, "k", "v"))
		w.within(time.Hour, func() bool { return m.counts.Snapshot().SentToDLQ == 1 })
		calls := j.all()
		require.Len(t, calls, 4)
		for i, d := range delays {
			require.Equal(t, i+2, calls[i+1].Attempt)
			took := calls[i+1].At.Sub(calls[i].At)
			require.GreaterOrEqual(t, took, d)
			require.Less(t, took, d+100*time.Millisecond)
		}
		require.NoError(t, m.stop())
		m.assertIdentity()
		ds := w.deadLetters()
		require.Len(t, ds, 1)
		require.Equal(t, 4, ds[0].Attempt)
		require.Equal(t, 3, ds[0].Stage)
		require.Equal(t, topic, ds[0].Origin.Topic)
	})
}
