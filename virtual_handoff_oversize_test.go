//go:build synctests

package kstage_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

const smallTopic = "20000" // max.message.bytes of a dead-letter topic

// noise is bytes that no codec makes smaller.
func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// buryWith is a handler that fails for good with a text.
func buryWith(text string) kstage.HandlerFunc {
	return func(context.Context, kstage.Message) error { return kstage.Permanent(errors.New(text)) }
}

// oversizeWorld has a dead-letter topic with a small limit, and records of a few
// bytes in each partition with large ones among them, in partition 0.
func oversizeWorld(w *world, partitions, dlqPartitions int32, small int, large ...int) (topic string) {
	topic = w.topic("orders", partitions)
	w.topic("g-dlq", dlqPartitions, "max.message.bytes", smallTopic)
	for p := range partitions {
		w.fill(topic, p, small, small)
	}
	for _, n := range large {
		w.produce(&kgo.Record{Topic: topic, Key: []byte("large"), Value: noise(n), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte{0, 1, 255}}}})
	}
	for p := range partitions {
		w.fill(topic, p, small, small)
	}
	return topic
}

// requireWhole checks that all records but those with the key "large" are there
// once, with value and error text, and returns the large ones.
func requireWhole(t *testing.T, w *world, partitions int32, small int) (large []kstage.DeadLetter) {
	t.Helper()
	seen := map[kstage.Coordinates]int{}
	for _, d := range w.deadLetters() {
		if string(d.Record.Key) == "large" {
			large = append(large, d)
			continue
		}
		seen[kstage.Coordinates{Partition: d.Origin.Partition, Offset: d.Origin.Offset}]++
		require.EqualValues(t, -1, d.ValueOmitted)
		require.NotEmpty(t, d.Record.Value)
		require.NotEmpty(t, d.Error)
	}
	require.Len(t, seen, int(partitions)*2*small)
	for co, n := range seen {
		require.Equal(t, 1, n, "%v", co)
	}
	return large
}

// A record that is too large among small ones: these arrive whole, at once. It
// blocks, shows in Health, and is tried again each minute, until the topic takes it.
func TestOversizeBlocksUntilTheTopicTakesIt(t *testing.T) {
	t.Parallel()
	for name, provisioning := range map[string]kstage.Provisioning{"limit known": kstage.VerifyTopics, "limit not known": kstage.TrustTopics} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				topic := oversizeWorld(w, 1, 1, 25, 30_000)
				m := w.start(buryWith("never"), kstage.WithTopics(topic), kstage.WithTopicProvisioning(provisioning))
				w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 50 })
				after(2 * time.Second)
				require.Empty(t, requireWhole(t, w, 1, 25))
				require.EqualValues(t, 25, w.committed(topic, 0))

				r, ok := m.reason(kstage.HealthOversize)
				require.True(t, ok)
				require.Equal(t, kstage.Coordinates{Topic: topic, Partition: 0, Offset: 25}, kstage.Coordinates{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset})
				require.Error(t, r.Err)
				require.False(t, m.Health().Ready)
				require.Len(t, m.Health().Reasons, 1) // the topic itself does not fail

				limit := "40000"
				_, err := w.adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "max.message.bytes", Value: &limit}}, "g-dlq")
				require.NoError(t, err)
				after(61 * time.Second)
				require.Empty(t, m.Health().Reasons)
				require.EqualValues(t, 51, w.committed(topic, 0))
				require.NoError(t, m.stop())
				m.assertIdentity()
				large := requireWhole(t, w, 1, 25)
				require.Len(t, large, 1)
				require.Equal(t, noise(30_000), large[0].Record.Value)
				require.Equal(t, "never", large[0].Error) // not the copy that was made smaller meanwhile
			})
		})
	}
}

func TestOversizeIsTriedEachMinuteAndSkipped(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := oversizeWorld(w, 1, 1, 5, 30_000, 31_000)
		events := &copyEvents{}
		m := w.start(buryWith("never"), kstage.WithTopics(topic), kstage.WithMetrics(events))
		after(30 * time.Second)
		acked, _, first := events.answers()
		require.Equal(t, 10, acked)
		require.LessOrEqual(t, first, 2*3+10)
		after(5 * time.Minute)
		_, _, failed := events.answers()
		require.Equal(t, 5*2*2, failed-first) // each: whole, and with less headers

		require.EqualValues(t, 5, w.committed(topic, 0))
		require.ErrorIs(t, m.Skip(topic, 0, 4), kstage.ErrNotParked)
		require.NoError(t, m.Skip(topic, 0, 5))
		require.ErrorIs(t, m.Skip(topic, 0, 5), kstage.ErrNotParked)
		after(2 * time.Second)
		require.EqualValues(t, 6, w.committed(topic, 0))
		require.False(t, m.Health().Ready)
		require.NoError(t, m.Skip(topic, 0, 6))
		after(2 * time.Second)
		require.EqualValues(t, 12, w.committed(topic, 0))
		require.Empty(t, m.Health().Reasons)
		_, _, failed = events.answers()
		after(5 * time.Minute)
		_, _, later := events.answers()
		require.Equal(t, failed, later)
		require.NoError(t, m.stop())
		require.Empty(t, requireWhole(t, w, 1, 5))
	})
}

// What fits without the error's text goes without it.
func TestOversizeShedsOptionalHeaders(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := oversizeWorld(w, 1, 1, 10, 18_500)
		m := w.start(buryWith(hex.EncodeToString(noise(1000))), kstage.WithTopics(topic))
		w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 21 })
		require.NoError(t, m.stop())
		large := requireWhole(t, w, 1, 10)
		require.Len(t, large, 1)
		require.Equal(t, noise(18_500), large[0].Record.Value)
		require.Empty(t, large[0].Error)
		require.Empty(t, large[0].ErrorType)
		require.Equal(t, kstage.ReasonPermanent, large[0].Reason)
		require.EqualValues(t, -1, large[0].ValueOmitted)
	})
}

// However many small records die at once, no batch of them is too large.
func TestOversizeIsNotForTheNumberOfRecords(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 2)
		w.topic("g-dlq", 1, "max.message.bytes", smallTopic)
		for i := range 200 {
			w.produce(&kgo.Record{Topic: topic, Partition: int32(i % 2), Value: noise(300 + i)})
		}
		events := &copyEvents{}
		m := w.start(buryAll, kstage.WithTopics(topic), kstage.WithMetrics(events))
		w.eventually(func() bool { acked, _, _ := events.answers(); return acked == 200 })
		_, _, failed := events.answers()
		require.Zero(t, failed)
		require.NoError(t, m.stop())
	})
}

// With OversizeReference the value stays behind, and nothing else does. Copies
// of other partitions that share the dead-letter partition are not taken for it.
func TestOversizeReference(t *testing.T) {
	t.Parallel()
	for name, provisioning := range map[string]kstage.Provisioning{"limit known": kstage.VerifyTopics, "limit not known": kstage.TrustTopics} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				topic := oversizeWorld(w, 4, 2, 50, 30_000, 25_000, 40_000)
				m := w.start(buryWith("never"), kstage.WithTopics(topic), kstage.WithTopicProvisioning(provisioning),
					kstage.WithDLQ(kstage.DLQOversize(kstage.OversizeReference)))
				w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 403 })
				require.Empty(t, m.Health().Reasons)
				require.NoError(t, m.stop())
				m.assertIdentity()
				var omitted []int64
				for _, d := range requireWhole(t, w, 4, 50) {
					require.Nil(t, d.Record.Value)
					require.Equal(t, []byte{0, 1, 255}, d.Record.Headers[0].Value)
					require.Equal(t, "h", d.Record.Headers[0].Key)
					require.Equal(t, "never", d.Error)
					omitted = append(omitted, d.ValueOmitted)
				}
				require.ElementsMatch(t, []int64{25_000, 30_000, 40_000}, omitted)
			})
		})
	}
}

// A record whose headers alone are too large blocks under OversizeReference, too.
func TestOversizeReferenceThatIsTooLarge(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 1)
		w.topic("g-dlq", 1, "max.message.bytes", smallTopic)
		r := record(topic, 0, "large", "v")
		r.Headers = []kgo.RecordHeader{{Key: "h", Value: noise(25_000)}}
		w.produce(r, record(topic, 0, "k", "v"))
		m := w.start(buryWith("never"), kstage.WithTopics(topic), kstage.WithDLQ(kstage.DLQOversize(kstage.OversizeReference)))
		w.eventually(func() bool { _, ok := m.reason(kstage.HealthOversize); return ok && m.counts.Snapshot().SentToDLQ == 1 })
		after(3 * time.Minute)
		require.EqualValues(t, -1, w.committed(topic, 0))
		require.Len(t, w.deadLetters(), 1)
		err := m.stop()
		var drain *kstage.DrainError
		require.ErrorAs(t, err, &drain)
		require.Equal(t, []kstage.Coordinates{{Topic: topic}}, drain.Abandoned)
	})
}

// Large values go where the topic takes them, alone or in a row.
func TestHandOffLargeValues(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 1, "max.message.bytes", "10000000")
		w.topic("g-dlq", 1, "max.message.bytes", "10100000")
		cl := w.client(kgo.ProducerBatchMaxBytes(10_000_000))
		sizes := []int{1 << 20, 1 << 20, 1_000_012, 10, 9_900_000, 10}
		for _, n := range sizes {
			require.NoError(t, cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: noise(n)}).FirstErr())
		}
		m := w.start(buryWith("never"), kstage.WithTopics(topic))
		w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == uint64(len(sizes)) })
		require.NoError(t, m.stop())
		ds := w.deadLetters()
		require.Len(t, ds, len(sizes))
		for _, d := range ds {
			require.Equal(t, noise(sizes[d.Origin.Offset]), d.Record.Value, fmt.Sprint(d.Origin))
			require.Nil(t, d.Record.Key)
			require.NotEmpty(t, d.Error)
		}
	})
}
