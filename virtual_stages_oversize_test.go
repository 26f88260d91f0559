//go:build synctests

package kstage_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap/zapcore"

	"github.com/kstage/kstage"
)

// smallStage has a first stage of a small limit, and large records among small ones
// whose handler fails at the main topic.
func smallStage(w *world, large ...int) (topic string, opts []kstage.ConsumerOption) {
	topic, opts = w.ladder(1)
	w.topic("g-retry-1", 1, "max.message.bytes", smallTopic)
	w.topic("g-retry-2", 1)
	w.fill(topic, 0, 20, 20)
	for _, n := range large {
		w.produce(&kgo.Record{Topic: topic, Key: []byte("large"), Value: noise(n), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte{0, 1, 255}}}})
	}
	w.fill(topic, 0, 20, 20)
	return topic, append(opts, kstage.WithRetryStages(time.Second, 5*time.Second), once())
}

// failsWith is failsAtMain with a text.
func failsWith(text string) kstage.HandlerFunc {
	return func(_ context.Context, msg kstage.Message) error {
		if msg.Stage() == 0 {
			return errors.New(text)
		}
		return nil
	}
}

// What fits into its stage without what can be missed goes without it, and its
// neighbours whole.
func TestStagesOversizeShedsOptionalHeaders(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := smallStage(w, 18_500)
		m := w.start(failsWith(hex.EncodeToString(noise(1000))), opts...)
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 41 && w.committed(topic, 0) == 41 })
		require.Empty(t, m.Health().Reasons)
		require.NoError(t, m.stop())
		m.assertIdentity()
		rs := w.read("g-retry-1")[0]
		require.Len(t, rs, 41)
		for _, r := range rs {
			fs := facts(r)
			require.Equal(t, string(r.Key) == "large", fs["error"] == "", "offset %s", fs["origin-offset"])
			require.Equal(t, string(r.Key) == "large", fs["error-type"] == "")
			require.NotEmpty(t, fs["id"]+fs["copy-id"]+fs["due"])
		}
	})
}

// A copy that is too large for its stage, whatever it sheds, is dead: its small
// neighbours go through the stage, whole.
func TestStagesOversizeIsDead(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := smallStage(w, 30_000, 19_999)
		m := w.start(failsWith("never"), opts...)
		w.eventually(func() bool { s := m.counts.Snapshot(); return s.Processed == 40 && s.SentToDLQ == 2 })
		w.eventually(func() bool { return w.committed(topic, 0) == 42 })
		require.Empty(t, m.Health().Reasons)
		require.NoError(t, m.stop())
		m.assertIdentity()
		for _, r := range w.read("g-retry-1")[0] {
			require.Equal(t, "never", facts(r)["error"])
		}
		ds := w.deadLetters()
		require.Len(t, ds, 2)
		for i, n := range []int{30_000, 19_999} {
			d := ds[i]
			require.Equal(t, noise(n), d.Record.Value)
			require.Equal(t, "h", d.Record.Headers[0].Key)
			require.Equal(t, kstage.ReasonOversize, d.Reason)
			require.Equal(t, "never", d.Error, "nothing is shed where there is room")
			require.Equal(t, 1, d.Attempt)
			require.Zero(t, d.Stage, "it came no further than the main topic")
			require.EqualValues(t, 20+i, d.Origin.Offset)
			require.EqualValues(t, -1, d.ValueOmitted)
			fs := facts(d.Record)
			require.NotContains(t, fs, "due")
			require.NotContains(t, fs, "not-before")
			require.Contains(t, fs["copy-id"], ">g-dlq")
		}
		require.Len(t, w.logs.FilterMessageSnippet("too large for its retry topic: to the dead-letter topic").All(), 2)
	})
}

// From a stage, too; and a dead letter that is too large for its topic is
// DLQOversize's.
func TestStagesOversizeOfADeadLetter(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 1)
		w.topic("g-dlq", 1, "max.message.bytes", smallTopic)
		w.topic("g-retry-1", 1)
		w.topic("g-retry-2", 1, "max.message.bytes", smallTopic)
		w.produce(&kgo.Record{Topic: topic, Key: []byte("large"), Value: noise(30_000)})
		m := w.start(alwaysFails(&journal{}), kstage.WithTopics(topic), kstage.WithRetryStages(time.Second, 5*time.Second), once(),
			kstage.WithDLQ(kstage.DLQOversize(kstage.OversizeReference)))
		w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 1 })
		require.NoError(t, m.stop())
		m.assertIdentity()
		d := w.deadLetters()[0]
		require.Equal(t, kstage.ReasonOversize, d.Reason)
		require.Equal(t, 1, d.Stage, "the last one it was handled in")
		require.Equal(t, 2, d.Attempt)
		require.EqualValues(t, 30_000, d.ValueOmitted)
		require.Nil(t, d.Record.Value)
		require.Equal(t, "not yet", d.Error)
	})
}

func TestStagesOversizeWithoutDLQDrops(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := smallStage(w, 30_000)
		m := w.start(failsWith("never"), append(opts, kstage.WithoutDLQ(kstage.Drop))...)
		w.eventually(func() bool { s := m.counts.Snapshot(); return s.Processed == 40 && s.Dropped == 1 })
		w.eventually(func() bool { return w.committed(topic, 0) == 41 })
		require.Empty(t, m.Health().Reasons)
		require.NoError(t, m.stop())
		m.assertIdentity()
		require.EqualValues(t, 41, m.counts.Snapshot().Failed)
		lines := w.logs.FilterMessageSnippet("dropped: WithoutDLQ(Drop)").All()
		require.Len(t, lines, 1)
		require.Equal(t, zapcore.ErrorLevel, lines[0].Level)
		require.EqualValues(t, 20, lines[0].ContextMap()["offset"])
		require.Equal(t, "oversize", lines[0].ContextMap()["reason"])
	})
}

func TestStagesOversizeWithoutDLQBlocks(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := smallStage(w, 30_000, 31_000)
		m := w.start(failsWith("never"), append(opts, kstage.WithoutDLQ(kstage.Block))...)
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 40 })
		after(4 * time.Minute)
		require.EqualValues(t, 20, w.committed(topic, 0))
		var blocked []string
		for _, r := range m.Health().Reasons {
			require.ErrorIs(t, r.Err, kerr.MessageTooLarge)
			blocked = append(blocked, fmt.Sprint(r.Kind, " ", kstage.Coordinates{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}))
		}
		require.Equal(t, []string{"oversize orders/0@20", "oversize orders/0@21"}, blocked)
		require.False(t, m.Health().Ready)
		require.NoError(t, m.Skip(topic, 0, 21))
		require.Len(t, m.Health().Reasons, 1)

		limit := "40000"
		_, err := w.adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Name: "max.message.bytes", Value: &limit}}, "g-retry-1")
		require.NoError(t, err)
		after(61 * time.Second)
		w.within(10*time.Second, func() bool { return m.counts.Snapshot().Processed == 41 })
		after(2 * time.Second)
		require.EqualValues(t, 42, w.committed(topic, 0))
		require.Empty(t, m.Health().Reasons)
		require.NoError(t, m.stop())
		m.assertIdentity()
		for _, r := range w.read("g-retry-1")[0] {
			if string(r.Key) == "large" {
				require.Equal(t, "never", facts(r)["error"], "not the copy that was made smaller meanwhile")
			}
		}
	})
}

func TestStagesOversizeWithoutDLQStops(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := smallStage(w, 30_000)
		m := w.start(failsWith("never"), append(opts, kstage.WithoutDLQ(kstage.Stop))...)
		err := m.wait()
		var stopped *kstage.StoppedError
		require.ErrorAs(t, err, &stopped)
		require.Equal(t, kstage.Coordinates{Topic: topic, Offset: 20}, stopped.Coordinates)
		require.ErrorIs(t, err, kerr.MessageTooLarge)
		require.EqualValues(t, 20, w.committed(topic, 0))
		m.assertIdentity()
		require.False(t, m.Health().Live)
	})
}

// A record that goes on from its stage to the dead-letter topic, or is dropped, is
// at no moment one that a drain could take for arrived.
func TestStagesOversizeIsWaitedForByADrain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		policy kstage.ConsumerOption
		want   func(kstage.CounterSnapshot) uint64
	}{
		"dead letter": {kstage.WithDLQ(), func(s kstage.CounterSnapshot) uint64 { return s.SentToDLQ }},
		"dropped":     {kstage.WithoutDLQ(kstage.Drop), func(s kstage.CounterSnapshot) uint64 { return s.Dropped }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				topic, opts := w.ladder(1)
				w.topic("g-retry-1", 1, "max.message.bytes", smallTopic)
				w.produce(record(topic, 0, "large", string(noise(30_000))))
				id, hold, seen := w.topicID("g-retry-1"), make(chan struct{}), 0
				w.fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
					w.fake.KeepControl()
					if produces(req, "g-retry-1", id) {
						if seen++; seen == 2 { // without what can be missed: its last chance
							w.fake.SleepControl(func() { <-hold })
						}
					}
					return nil, nil, false
				})
				m := w.start(failsWith("never"), append(opts, kstage.WithRetryStages(time.Second), once(), c.policy)...)
				w.eventually(func() bool { return m.counts.Snapshot().Failed == 1 })
				after(time.Second)
				time.AfterFunc(3*time.Second, func() { close(hold) })
				require.NoError(t, m.stop(), "it ends within the drain")
				m.assertIdentity()
				require.EqualValues(t, 1, c.want(m.counts.Snapshot()))
				require.EqualValues(t, 1, w.committed(topic, 0))
			})
		})
	}
}
