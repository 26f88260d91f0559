//go:build synctests

package kstage_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// WithStartTimeout is for brokers that do not answer: one that says for long that a topic
// is missing has answered.
func TestTheStartTimeoutIsNoLimitForMissingTopics(t *testing.T) {
	t.Parallel()
	slow := func(w *world) { // every answer takes a moment
		w.fake.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
			w.fake.KeepControl()
			w.fake.SleepControl(func() { after(10 * time.Millisecond) })
			return nil, nil, false
		})
	}
	virtual(t, func(w *world) {
		t := w.t
		w.topic("g-dlq", 1)
		slow(w)
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
		slow(w)
		m := w.start(handleNothing, kstage.WithTopics("orders"), kstage.WithStartTimeout(5*time.Second))
		var missing *kstage.TopologyError
		require.ErrorAs(w.t, m.wait(), &missing)
	})
}
