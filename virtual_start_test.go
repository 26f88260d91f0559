//go:build synctests

package kstage_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// WithStartTimeout is for brokers that do not answer: one that says for long that a topic
// is missing has answered.
func TestTheStartTimeoutIsNoLimitForMissingTopics(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		w.topic("g-dlq", 1)
		m := w.start(handleNothing, kstage.WithTopics("orders"), kstage.WithStartTimeout(5*time.Second))
		after(20 * time.Second)
		require.True(t, m.is(kstage.HealthTopicMissing))
		require.False(t, m.is(kstage.HealthDisconnected))
		w.topic("orders", 1)
		w.eventually(func() bool { return m.Health().Ready })
		require.NoError(t, m.stop())
	})
	virtual(t, func(w *world) {
		w.topic("g-dlq", 1)
		m := w.start(handleNothing, kstage.WithTopics("orders"), kstage.WithStartTimeout(5*time.Second))
		var missing *kstage.TopologyError
		require.ErrorAs(w.t, m.wait(), &missing)
	})
}
