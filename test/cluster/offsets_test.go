//go:build cluster

package cluster_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// The retry group has forgotten its offsets: what waits in its topics is handled all the
// same, and what was handled is again.
func TestOffsetsOfTheRetryGroupAreGone(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("orders", 1)
	w.ladder(1, 1)
	later := kstage.WithRetryStages(5 * time.Second)
	failing := func(_ context.Context, msg kstage.Message) error {
		if msg.Stage() == 0 {
			return errors.New("not yet")
		}
		return nil
	}
	opts := append(w.onLadder(), later)
	m := w.start(failing, opts...)
	w.fill(topic, 0, 10)
	w.within(time.Minute, func() bool { return m.counts.Snapshot().Processed == 10 })
	w.fill(topic, 0, 10)
	w.within(time.Minute, func() bool { return m.counts.Snapshot().Retried == 20 })
	require.NoError(t, m.stop())
	deleted, err := w.adm.DeleteGroups(t.Context(), w.name("g-retry"))
	require.NoError(t, err)
	require.NoError(t, deleted.Error())
	again := w.start(failing, opts...)
	w.within(time.Minute, func() bool { return again.counts.Snapshot().Processed == 20 })
	require.NoError(t, again.stop())
	again.assertIdentity()
}
