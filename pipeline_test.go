package kstage_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// The verdicts once in real time, and on a real broker where there is one: each
// record ends in its place, and its key goes on.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(1)
	values := []string{"ok", "flaky", "skip", "error", "permanent", "panic", "goexit", "ok"}
	for _, v := range values {
		w.produce(record(topic, 0, "k", v))
	}
	var j journal
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		d := j.note(msg)
		err := errors.New("it failed")
		switch string(msg.Value()) {
		case "flaky":
			if d.Attempt == 1 {
				return err
			}
		case "skip":
			return kstage.Skip(err)
		case "error":
			return err
		case "permanent":
			return kstage.Permanent(err)
		case "panic":
			panic("boom")
		case "goexit":
			runtime.Goexit()
		}
		return nil
	}, append(opts, kstage.WithImmediateRetries(1, kstage.Backoff{Min: time.Millisecond, Max: time.Millisecond}))...)
	w.eventually(func() bool { s := m.counts.Snapshot(); return s.Processed == 3 && s.SentToDLQ == 4 })
	require.NoError(t, m.stop())
	require.EqualValues(t, len(values), w.committed(topic, 0))
	require.Equal(t, map[int64]int{0: 1, 1: 2, 2: 1, 3: 2, 4: 1, 5: 2, 6: 2, 7: 1}, j.times(0))
	last := int64(0)
	for _, d := range j.all() {
		require.GreaterOrEqual(t, d.Offset, last)
		last = d.Offset
	}
	reasons := map[int64]kstage.Reason{}
	for _, d := range w.deadLetters() {
		reasons[d.Origin.Offset] = d.Reason
	}
	require.Equal(t, map[int64]kstage.Reason{
		3: kstage.ReasonExhausted, 4: kstage.ReasonPermanent, 5: kstage.ReasonPanic, 6: kstage.ReasonPanic,
	}, reasons)
	m.assertIdentity()
}
