package kstage_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

func TestEndToEndDeadLettersAreByteForByte(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 2, "max.message.bytes", "4000000")
	w.topic("g-dlq", 2, "max.message.bytes", "4100000")
	big := make([]byte, 1_500_000)
	_, _ = rand.Read(big)
	sent := []*kgo.Record{
		{Key: nil, Value: nil},
		{Key: []byte{}, Value: []byte{}},
		{Key: []byte("k"), Value: nil, Headers: []kgo.RecordHeader{
			{Key: "a", Value: []byte{0, 255, 254}}, {Key: "b", Value: nil}, {Key: "a", Value: []byte("again")}, {Key: "", Value: []byte{}},
		}},
		{Key: []byte("forged"), Value: []byte("v"), Headers: []kgo.RecordHeader{
			{Key: "kstage-attempt", Value: []byte("99")},
			{Key: "kstage-reason", Value: []byte("x")},
			{Key: "kstage-stage", Value: []byte("-1")},
			{Key: "kstage-origin-topic", Value: []byte("elsewhere")},
			{Key: "kstage-redrive-count", Value: []byte("2")},
			{Key: "kstage-redrive-id", Value: []byte("r1")},
			{Key: "message-id", Value: []byte("m-1")},
		}},
		{Key: []byte("big"), Value: big},
	}
	for _, r := range sent {
		r.Topic, r.Partition = topic, 1
	}
	big2 := w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(3_900_000))
	require.NoError(t, big2.ProduceSync(t.Context(), sent...).FirstErr())
	m := w.start(func(context.Context, kstage.Message) error { return kstage.Permanent(errTest) }, kstage.WithTopics(topic))
	w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == uint64(len(sent)) })
	require.NoError(t, m.stop())
	m.assertIdentity()

	copies := w.read(w.name("g-dlq"))[1]
	require.Len(t, copies, len(sent))
	byOffset := map[int64]*kgo.Record{}
	for _, c := range copies {
		d, err := kstage.DecodeDeadLetter(c)
		require.NoError(t, err)
		require.Equal(t, kstage.Origin{Topic: topic, Partition: 1, Offset: d.Origin.Offset, Timestamp: d.Origin.Timestamp}, d.Origin)
		require.Equal(t, kstage.ReasonPermanent, d.Reason)
		require.Equal(t, 1, d.Attempt)
		require.Zero(t, d.Stage)
		require.Equal(t, "test error", d.Error)
		require.Equal(t, w.name("g"), d.Group)
		byOffset[d.Origin.Offset] = c
	}
	for i, want := range sent {
		got := byOffset[int64(i)]
		require.Equal(t, want.Key == nil, got.Key == nil, "key of %d", i)
		require.Equal(t, want.Value == nil, got.Value == nil, "value of %d", i)
		require.True(t, bytes.Equal(want.Key, got.Key) && bytes.Equal(want.Value, got.Value), "bytes of %d", i)
	}
	require.Equal(t, sent[2].Headers, byOffset[2].Headers[:4])
	d, err := kstage.DecodeDeadLetter(byOffset[3])
	require.NoError(t, err)
	require.Equal(t, "m-1", d.ID)
	require.Equal(t, 2, d.RedriveCount)
	require.Equal(t, "r1", d.RedriveID)
	seen := map[string]int{}
	for _, h := range byOffset[3].Headers {
		seen[h.Key]++
	}
	for k, n := range seen {
		require.Equal(t, 1, n, "header %s", k)
	}
}

func TestEndToEndOversizeDeadLetters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 1)
	w.topic("g-dlq", 1, "max.message.bytes", "20000")
	large := make([]byte, 30_000)
	_, _ = rand.Read(large)
	for i := range 20 {
		if i == 10 {
			w.produce(record(topic, 0, "large", string(large)))
			continue
		}
		w.produce(record(topic, 0, "small", "v"))
	}
	h := func(context.Context, kstage.Message) error { return kstage.Permanent(errTest) }
	m := w.start(h, kstage.WithTopics(topic))
	w.eventually(func() bool {
		_, ok := m.reason(kstage.HealthOversize)
		return ok && m.counts.Snapshot().SentToDLQ == 19
	})
	require.False(t, m.Health().Ready)
	require.Error(t, m.stop()) // the large one is unfinished
	require.EqualValues(t, 10, w.committed(topic, 0))

	m = w.start(h, kstage.WithTopics(topic), kstage.WithDLQ(kstage.DLQOversize(kstage.OversizeReference)))
	w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 10 })
	require.NoError(t, m.stop())
	m.assertIdentity()
	require.EqualValues(t, 20, w.committed(topic, 0))
	omitted := 0
	for _, d := range w.deadLetters() {
		if d.ValueOmitted >= 0 {
			omitted++
			require.EqualValues(t, len(large), d.ValueOmitted)
			require.Nil(t, d.Record.Value)
			require.Equal(t, "large", string(d.Record.Key))
		}
	}
	require.Equal(t, 1, omitted)
}

func TestEndToEndWithoutDLQ(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 1)
	w.fill(topic, 0, 10, 10)
	fail := func(_ context.Context, msg kstage.Message) error {
		if msg.Record.Offset == 4 {
			return errTest
		}
		return nil
	}
	quick := kstage.WithImmediateRetries(1, kstage.Backoff{Min: time.Millisecond, Max: time.Millisecond})

	m := w.start(fail, kstage.WithTopics(topic), quick, kstage.WithoutDLQ(kstage.Stop))
	stopped := (*kstage.StoppedError)(nil)
	require.ErrorAs(t, m.wait(), &stopped)
	require.Equal(t, kstage.Coordinates{Topic: topic, Offset: 4}, stopped.Coordinates)
	require.ErrorIs(t, stopped, errTest)
	require.LessOrEqual(t, w.committed(topic, 0), int64(4))

	m = w.start(fail, kstage.WithTopics(topic), quick, kstage.WithoutDLQ(kstage.Block))
	w.eventually(func() bool { r, ok := m.reason(kstage.HealthStuckRecord); return ok && r.Offset == 4 })
	require.ErrorIs(t, m.Skip(topic, 0, 5), kstage.ErrNotParked)
	w.eventually(func() bool { return m.Skip(topic, 0, 4) == nil })
	w.eventually(func() bool { return w.committed(topic, 0) == 10 })
	require.NoError(t, m.stop())
	m.assertIdentity()

	w.fill(topic, 0, 10, 10)
	m = w.start(func(_ context.Context, msg kstage.Message) error {
		if msg.Record.Offset == 14 {
			return errors.Join(errTest, errTest)
		}
		return nil
	}, kstage.WithTopics(topic), quick, kstage.WithoutDLQ(kstage.Drop))
	w.eventually(func() bool { s := m.counts.Snapshot(); return s.Processed == 9 && s.Dropped == 1 })
	require.NoError(t, m.stop())
	require.EqualValues(t, 20, w.committed(topic, 0))
	m.assertIdentity()
}

func TestEndToEndCreateTopics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 5, "max.message.bytes", "2000000")
	m := w.start(func(context.Context, kstage.Message) error { return kstage.Permanent(errTest) },
		kstage.WithTopics(topic), kstage.WithTopicProvisioning(kstage.CreateTopics))
	w.fill(topic, 3, 10, 2)
	w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 10 })
	require.NoError(t, m.stop())
	m.assertIdentity()
	require.Len(t, w.read(w.name("g-dlq"))[3], 10)
	ds, err := w.adm.ListTopics(t.Context(), w.name("g-dlq"))
	require.NoError(t, err)
	require.Len(t, ds[w.name("g-dlq")].Partitions, 5)
	rcs, err := w.adm.DescribeTopicConfigs(t.Context(), w.name("g-dlq"))
	require.NoError(t, err)
	rc, err := rcs.On(w.name("g-dlq"), nil)
	require.NoError(t, err)
	got := map[string]string{}
	for _, c := range rc.Configs {
		got[c.Key] = c.MaybeValue()
	}
	require.Equal(t, "delete", got["cleanup.policy"])
	require.Equal(t, "1209600000", got["retention.ms"])
	require.Equal(t, "2016384", got["max.message.bytes"])
}
