package kstage_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/kstage/kstage"
)

func TestProducerPublishesARecordAndSaysWhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 3)
	p := w.producer(kstage.WithTopic(topic))
	stamp := time.Now().Add(-24 * time.Hour).Truncate(time.Millisecond)
	for i := range 3 {
		r := text(fmt.Sprint("k", i), "v")
		if i == 0 {
			r.Timestamp = stamp
		}
		require.NoError(t, p.Publish(t.Context(), r))
		got := w.read(topic)[r.Partition][r.Offset]
		require.Equal(t, r.Key, got.Key)
		require.True(t, r.Timestamp.Equal(got.Timestamp), "%v %v", r.Timestamp, got.Timestamp)
		require.True(t, i > 0 || r.Timestamp.Equal(stamp))
		require.Empty(t, r.Topic)
	}
	require.Empty(t, p.Health().Reasons)
	require.True(t, p.Health().Ready)
	require.NoError(t, p.HealthCheck(t.Context()))
	require.NoError(t, p.Close(t.Context()))
	p.requireCounts(3, 0)
}

// The caller's record is its own: nothing of it changes but where it is.
func TestProducerLeavesTheCallersRecordAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 1)
	p := w.producer()
	headers := make([]kgo.RecordHeader, 1, 8)
	headers[0] = kgo.RecordHeader{Key: "trace", Value: []byte("t-1")}
	r := &kgo.Record{Topic: topic, Key: []byte{}, Value: nil, Headers: headers, Attrs: kgo.RecordAttrs{}, ProducerID: 77, LeaderEpoch: 5}
	before := *r
	w.produce(record(topic, 0, "first", "")) // so that the offset is not zero
	require.NoError(t, p.Publish(t.Context(), r))
	require.EqualValues(t, 1, r.Offset)
	require.False(t, r.Timestamp.IsZero())
	after := *r
	after.Offset, after.Timestamp, after.Partition = before.Offset, before.Timestamp, before.Partition
	require.Equal(t, before, after)
	require.Len(t, r.Headers, 1)
	require.Equal(t, make([]kgo.RecordHeader, 7), r.Headers[1:8], "nothing was written behind the caller's headers")

	got := w.read(topic)[0][1]
	require.NotNil(t, got.Key)
	require.Nil(t, got.Value)
	require.Len(t, got.Headers, 2)
	require.Equal(t, headers[0], got.Headers[0])
}

// A record that failed is not changed at all.
func TestProducerLeavesAFailedRecordAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("small", 1, "max.message.bytes", "2000")
	p := w.producer(kstage.WithCompression(kgo.NoCompression()))
	r := &kgo.Record{Topic: topic, Partition: 9, Offset: 9, Value: make([]byte, 3000)}
	before := *r
	require.Error(t, p.Publish(t.Context(), r))
	require.Equal(t, before, *r)
}

func TestProducerAcks(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]kstage.ProducerOption{
		"leader":              {kstage.WithAcks(kstage.AcksLeader)},
		"none":                {kstage.WithAcks(kstage.AcksNone)},
		"all, no idempotence": {kstage.WithIdempotence(false)},
		"leader, said so":     {kstage.WithAcks(kstage.AcksLeader), kstage.WithIdempotence(false)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			topic := w.topic("orders", 1)
			p := w.producer(append(opts, kstage.WithTopic(topic))...)
			r := text("k", "v")
			w.produce(record(topic, 0, "first", ""))
			require.NoError(t, p.Publish(t.Context(), r))
			if name == "none" {
				require.EqualValues(t, -1, r.Offset)
			} else {
				require.EqualValues(t, 1, r.Offset)
			}
			w.eventually(func() bool { return len(w.all(topic)) == 2 })
			require.NoError(t, p.Close(t.Context()))
		})
	}
}

func TestProducerRecordsThatAreNotAccepted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 1)
	p := w.producer(kstage.WithBuffer(10, 1000))
	require.ErrorContains(t, p.Publish(t.Context(), nil), "nil")
	require.ErrorContains(t, p.Publish(t.Context(), text("k", "v")), "WithTopic")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	err := p.Publish(ended, record(topic, 0, "k", "v"))
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, unconfirmed(err))
	err = p.Publish(t.Context(), record(topic, 0, "k", strings.Repeat("x", 2000)))
	require.ErrorIs(t, err, kerr.MessageTooLarge)
	require.ErrorContains(t, err, "WithBuffer")
	require.NoError(t, p.Close(t.Context()))
	require.ErrorIs(t, p.Publish(t.Context(), record(topic, 0, "k", "v")), kstage.ErrClosed)
	require.ErrorIs(t, <-p.publishAsync(record(topic, 0, "k", "v")), kstage.ErrClosed)
	require.ErrorIs(t, p.HealthCheck(t.Context()), kstage.ErrClosed)
	require.False(t, p.Health().Ready)
	require.True(t, p.Health().Live)
	p.requireCounts(0, 6)
	require.Empty(t, w.all(topic))
}

func TestProducerBatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 2)
	p := w.producer(kstage.WithTopic(topic))
	require.NoError(t, p.PublishBatch(t.Context()))
	var rs []*kgo.Record
	for i := range 100 {
		rs = append(rs, text(fmt.Sprint("k", i%5), fmt.Sprint(i)))
	}
	require.NoError(t, p.PublishBatch(t.Context(), rs...))
	got := w.read(topic)
	for _, r := range rs {
		require.Equal(t, r.Value, got[r.Partition][r.Offset].Value)
	}
	p.requireCounts(100, 0)

	rs = []*kgo.Record{text("a", "1"), {Topic: "no-such-topic"}, text("a", "2"), nil, text("a", "3")}
	err := p.PublishBatch(t.Context(), rs...)
	var be *kstage.BatchError
	require.ErrorAs(t, err, &be)
	require.Len(t, be.Failed, 3)
	require.ErrorIs(t, be.Failed[1], kerr.UnknownTopicOrPartition)
	require.ErrorContains(t, be.Failed[3], "nil")
	require.ErrorContains(t, be.Failed[4], "not tried, since record 3")
	require.ErrorIs(t, err, kerr.UnknownTopicOrPartition)
	require.ErrorContains(t, err, "3 records of the batch failed:\n  [1] ")
	require.Len(t, w.all(topic), 102)
	p.requireCounts(102, 3)
}

// Who is told of a record may publish the next at once.
func TestProducerRoomIsFreeWhenItsRecordIsToldOf(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.producer(kstage.WithTopic(w.topic("orders", 1)), kstage.WithBuffer(1, 1000), kstage.WithBufferFull(kstage.FailWhenFull))
	telling, published := make(chan struct{}), make(chan struct{})
	p.PublishAsync(t.Context(), text("k", "1"), func(*kgo.Record, error) {
		close(telling)
		<-published
	})
	<-telling
	next := p.publishAsync(text("k", "2"))
	close(published)
	require.NoError(t, <-next)
}

func TestBatchErrorIsShort(t *testing.T) {
	t.Parallel()
	e := &kstage.BatchError{Failed: map[int]error{}}
	for i := range 30 {
		e.Failed[i] = fmt.Errorf("error %d", i)
	}
	require.Contains(t, e.Error(), "[9] error 9\n  and 20 more")
	require.NotContains(t, e.Error(), "[10]")
	require.Equal(t, e.Failed[7], e.Unwrap()[7])
}

// done hears of each record once, with the caller's own record, and Flush returns behind it.
func TestProducerAsyncAndFlush(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 3)
	p := w.producer(kstage.WithTopic(topic), kstage.WithLinger(30*time.Second), kstage.WithDeliveryTimeout(time.Minute))
	var mu sync.Mutex
	told := map[*kgo.Record]int{}
	var rs []*kgo.Record
	for i := range 1000 {
		r := text(fmt.Sprint(i%20), fmt.Sprint(i))
		rs = append(rs, r)
		p.PublishAsync(t.Context(), r, func(r *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				told[r]++
			}
		})
	}
	require.NoError(t, p.Flush(t.Context()))
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, told, 1000)
	last := map[string]int64{}
	for _, r := range rs {
		require.Equal(t, 1, told[r])
		if before, ok := last[string(r.Key)]; ok {
			require.Greater(t, r.Offset, before, "a key's records are in order")
		}
		last[string(r.Key)] = r.Offset
	}
}

func TestProducerLogs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("small", 1, "max.message.bytes", "2000")
	type key struct{}
	p := w.producer(kstage.WithTopic(topic), kstage.WithCompression(kgo.NoCompression()),
		kstage.WithKeyRedactor(func(k []byte) string { return "redacted" }),
		kstage.WithLogFields(func(ctx context.Context) []zap.Field { return []zap.Field{zap.Any("request_id", ctx.Value(key{}))} }))
	ctx := context.WithValue(t.Context(), key{}, "r-1")
	big := func() *kgo.Record { return text("secret", strings.Repeat("x", 3000)) }
	err := p.Publish(ctx, big())
	require.ErrorIs(t, err, kerr.MessageTooLarge)
	require.NotContains(t, err.Error(), "secret")
	require.ErrorContains(t, err, `key "redacted"`)
	require.ErrorContains(t, err, "message-id")
	p.PublishAsync(ctx, big(), func(*kgo.Record, error) {})
	require.NoError(t, p.Flush(t.Context()))
	require.Zero(t, w.logs.FilterMessage("record not published").Len(), "its caller is told")

	p.PublishAsync(ctx, big(), nil)
	require.NoError(t, p.Flush(t.Context()))
	lines := w.logs.FilterMessage("record not published").All()
	require.Len(t, lines, 1, "nobody else is told")
	fields := lines[0].ContextMap()
	require.Equal(t, "r-1", fields["request_id"])
	require.Equal(t, topic, fields["topic"])
	require.Equal(t, "redacted", fields["key"])
	require.Len(t, fields["message_id"], 36)
	for _, l := range w.logs.All() {
		require.NotContains(t, fmt.Sprint(l.Message, l.ContextMap()), "secret")
	}
}

func TestProducerCloseIsOneForAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.producer(kstage.WithTopic(w.topic("orders", 1)))
	require.NoError(t, p.Publish(t.Context(), text("k", "v")))
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() { require.NoError(t, p.Close(t.Context())) })
	}
	wg.Wait()
	require.NoError(t, p.Close(t.Context()))
}
