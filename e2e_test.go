package kstage_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

func TestEndToEnd(t *testing.T) {
	w := newWorld(t)
	topic, opts := w.ladder(3)
	for p := range int32(3) {
		w.fill(topic, p, 100, 10)
	}
	var j journal
	m := w.start(func(_ context.Context, msg *kstage.Message) error {
		d := j.note(msg)
		switch {
		case d.Offset == 7 && d.Attempt < 3:
			return errors.New("not yet")
		case d.Offset == 13:
			return kstage.Permanent(errors.New("never"))
		}
		return nil
	}, opts...)
	w.eventually(func() bool { s := m.counts.Snapshot(); return s.Processed == 297 && s.SentToDLQ == 3 })
	require.NoError(t, m.stop())
	for p := range int32(3) {
		require.EqualValues(t, 100, w.committed(topic, p))
		require.Equal(t, 3, j.times(p)[7])
		require.Equal(t, 1, j.times(p)[13])
	}
	require.Len(t, w.deadLetters(), 3)
	m.assertIdentity()
}
