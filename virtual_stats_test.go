//go:build synctests

package kstage_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// Stats tells where each partition stands; a stuck head shows by what is finished above it.
func TestVirtualStats(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		w.topic("g-dlq", 1)
		for _, topic := range []string{"b", "a"} {
			w.topic(topic, 2)
			w.fill(topic, 1, 20, 20)
		}
		release := make(chan struct{})
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			if msg.Record.Topic == "a" && msg.Record.Offset == 3 {
				<-release
			}
			return nil
		}, kstage.WithTopics("b", "a"))
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 39 })
		after(2 * time.Second)
		none := func(topic string) kstage.PartitionStats {
			return kstage.PartitionStats{Topic: topic, Committed: -1, Head: -1, HighestFinished: -1, LogEnd: -1, Lag: -1}
		}
		done := kstage.PartitionStats{Topic: "b", Partition: 1, Committed: 20, Head: -1, HighestFinished: 19, LogEnd: 20}
		stuck := kstage.PartitionStats{
			Topic: "a", Partition: 1, Committed: 3, Head: 3, HighestFinished: 19, LogEnd: 20, Lag: 17, InFlight: 1,
			Bytes: m.Stats().Partitions[1].Bytes,
		}
		require.Equal(t, []kstage.PartitionStats{none("a"), stuck, none("b"), done}, m.Stats().Partitions)
		require.Positive(t, stuck.Bytes, "the batch stays while a record of it runs")

		close(release)
		after(2 * time.Second)
		done.Topic = "a"
		require.Equal(t, done, m.Stats().Partitions[1])
	})
}

// A partition whose oldest record does not move shows in Health, and not longer than that.
func TestVirtualStuckRecord(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.fill(topic, 0, 20, 20)
		release := map[int64]chan struct{}{3: make(chan struct{}), 9: make(chan struct{})}
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			if c := release[msg.Record.Offset]; c != nil {
				<-c
			}
			return nil
		}, append(opts, kstage.WithStuckAfter(time.Minute))...)
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 18 })
		after(57 * time.Second)
		_, ok := m.reason(kstage.HealthStuckRecord)
		require.False(t, ok, "not yet")
		after(5 * time.Second)
		r, ok := m.reason(kstage.HealthStuckRecord)
		require.True(t, ok)
		require.Equal(t, kstage.Coordinates{Topic: topic, Offset: 3}, kstage.Coordinates{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset})
		require.True(t, m.Health().Ready && m.Health().Live)

		close(release[3])
		after(2 * time.Second)
		r, ok = m.reason(kstage.HealthStuckRecord)
		require.False(t, ok && r.Offset == 3, "it has moved")
		close(release[9])
		after(2 * time.Second)
		_, ok = m.reason(kstage.HealthStuckRecord)
		require.False(t, ok)
	})
}
