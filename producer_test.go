package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
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

// publisher is a Producer under test.
type publisher struct {
	*kstage.Producer
	w      *world
	counts *kstage.Counters
}

// producer makes a Producer that ends with the test.
func (w *world) producer(opts ...kstage.ProducerOption) *publisher {
	w.t.Helper()
	p := &publisher{w: w, counts: &kstage.Counters{}}
	all := append([]kstage.ProducerOption{
		kstage.WithBrokers(w.brokers...),
		kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return w.reach }),
		kstage.WithMetrics(p.counts),
		kstage.WithLogger(w.log),
	}, opts...)
	made, err := kstage.NewProducer(all...)
	require.NoError(w.t, err)
	p.Producer = made
	kstage.ReachOnly(made, opts...)
	w.t.Cleanup(func() { _ = p.end() })
	return p
}

// end closes without patience.
func (p *publisher) end() error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.w.t.Context()))
	cancel()
	return p.Close(ctx)
}

// reason returns the first reason of a kind in Health.
func (p *publisher) reason(k kstage.ReasonKind) (kstage.HealthReason, bool) {
	for _, r := range p.Health().Reasons {
		if r.Kind == k {
			return r, true
		}
	}
	return kstage.HealthReason{}, false
}

// publishAsync publishes and returns where the answer comes.
func (p *publisher) publishAsync(r *kgo.Record) <-chan error {
	answer := make(chan error, 1)
	p.PublishAsync(p.w.t.Context(), r, func(_ *kgo.Record, err error) { answer <- err })
	return answer
}

// requireCounts checks that each record was told of once.
func (p *publisher) requireCounts(published, failed int) {
	p.w.t.Helper()
	s := p.counts.Snapshot()
	require.EqualValues(p.w.t, published, s.Published, "published")
	require.EqualValues(p.w.t, failed, s.PublishFailed, "failed")
}

// text makes a record for the producer's own topic.
func text(key, value string) *kgo.Record {
	return &kgo.Record{Key: []byte(key), Value: []byte(value)}
}

func unconfirmed(err error) bool {
	var u *kstage.UnconfirmedError
	return errors.As(err, &u)
}

// all are the records of a topic, whatever their partition.
func (w *world) all(topic string) (rs []*kgo.Record) {
	w.t.Helper()
	for _, of := range w.read(topic) {
		rs = append(rs, of...)
	}
	return rs
}

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

func TestProducerMessageIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := func(p *publisher, r *kgo.Record) []string {
		w.t.Helper()
		require.NoError(t, p.Publish(t.Context(), r))
		var ids []string
		for _, h := range w.read(r.Topic)[0][r.Offset].Headers {
			if h.Key == "message-id" {
				ids = append(ids, string(h.Value))
			}
		}
		return ids
	}
	topic := w.topic("orders", 1)
	plain := func(hs ...kgo.RecordHeader) *kgo.Record {
		return &kgo.Record{Topic: topic, Value: []byte("v"), Headers: hs}
	}
	p := w.producer()
	first, second := id(p, plain()), id(p, plain(kgo.RecordHeader{Key: "other"}))
	require.Len(t, first, 1)
	require.Len(t, second, 1)
	require.Regexp(t, uuid7, first[0])
	require.Less(t, first[0], second[0], "they sort by time")
	require.Equal(t, []string{"mine"}, id(p, plain(kgo.RecordHeader{Key: "message-id", Value: []byte("mine")})))
	require.Equal(t, []string{""}, id(p, plain(kgo.RecordHeader{Key: "message-id"})), "set to nothing is set")
	require.Empty(t, id(w.producer(kstage.WithMessageIDs(nil)), plain()))
	require.Empty(t, id(w.producer(kstage.WithMessageIDs(func() string { return "" })), plain()))
	require.Equal(t, []string{"seven"}, id(w.producer(kstage.WithMessageIDs(func() string { return "seven" })), plain()))
}

var uuid7 = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func TestProducerUUIDs(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(0x0123456789ab).Add(999_999)
	text := func(at time.Time, random uint64) string { return string(kstage.AppendUUID(nil, at, random)) }
	require.Equal(t, "01234567-89ab-7f42-bfff-ffffffffffff", text(at, math.MaxUint64))
	require.Equal(t, "01234567-89ab-7f42-8000-000000000000", text(at, 0))
	require.Equal(t, "01234567-89ab-7f42-9234-56789abcdef0", text(at, 0x123456789abcdef0))
	for _, step := range []time.Duration{256, time.Microsecond, time.Millisecond, time.Hour, 10_000 * time.Hour} {
		require.Less(t, text(at, math.MaxUint64), text(at.Add(step), 0), "they sort by time: %v", step)
	}
	require.Equal(t, "id=01234567", string(kstage.AppendUUID([]byte("id="), at, 0))[:11])
}

func TestProducerMessageIDsAreAllDifferent(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string]bool{}
	newID, now := kstage.NewIDs(), time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				id := newID(nil, now)
				mu.Lock()
				seen[string(id)] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, seen, 8000)
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

func TestProducerUsersFunctionsThatPanic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 1)
	shows := func(p *publisher, what string) {
		t.Helper()
		r, ok := p.reason(kstage.HealthCallbackPanic)
		require.True(t, ok)
		require.ErrorContains(t, r.Err, what)
		require.ErrorContains(t, r.Err, "oh no")
	}

	p := w.producer(kstage.WithTopic(topic), kstage.WithMessageIDs(func() string { panic("oh no") }))
	require.ErrorContains(t, p.Publish(t.Context(), text("k", "v")), "WithMessageIDs panicked")
	shows(p, "WithMessageIDs")

	p = w.producer(kstage.WithTopic(topic))
	p.PublishAsync(t.Context(), text("k", "v"), func(*kgo.Record, error) { panic("oh no") })
	require.NoError(t, p.Flush(t.Context()))
	require.NoError(t, p.Publish(t.Context(), text("k", "v")), "it goes on")
	shows(p, "done")

	p = w.producer(kstage.WithTopic(topic), kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt {
		return append([]kgo.Opt{kgo.WithHooks(panicky{})}, w.reach...)
	}))
	require.ErrorContains(t, p.Publish(t.Context(), text("bad", "v")), "a hook of WithClientOptions panicked")
	require.NoError(t, p.Publish(t.Context(), text("k", "v")), "it goes on")
	shows(p, "hook")
	require.NoError(t, p.Close(t.Context()))
	p.requireCounts(1, 1)

	_, err := kstage.NewProducer(kstage.WithBrokers(w.brokers...), kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { panic("oh no") }))
	require.ErrorContains(t, err, "WithClientOptions")
	require.ErrorContains(t, err, "oh no")
}

// panicky is a hook that does not like some records.
type panicky struct{}

// OnProduceRecordBuffered implements kgo.HookProduceRecordBuffered.
func (panicky) OnProduceRecordBuffered(r *kgo.Record) {
	if string(r.Key) == "bad" {
		panic("oh no")
	}
}

type valueKey struct{}

// valuesHook notes what it finds in a record's context.
type valuesHook struct {
	mu     sync.Mutex
	values []any
	ends   bool
}

// OnProduceRecordBuffered implements kgo.HookProduceRecordBuffered.
func (h *valuesHook) OnProduceRecordBuffered(r *kgo.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.values = append(h.values, r.Context.Value(valueKey{}))
	h.ends = h.ends || r.Context.Done() != nil
}

// Hooks find the caller's values in the record's context, and no end; the record's own
// context comes first.
func TestProducerHooksSeeTheCallersValues(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := &valuesHook{}
	p := w.producer(kstage.WithTopic(w.topic("orders", 1)), kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt {
		return append([]kgo.Opt{kgo.WithHooks(h)}, w.reach...)
	}))
	r := text("k", "v")
	ctx := context.WithValue(t.Context(), valueKey{}, "of the call")
	require.NoError(t, p.Publish(ctx, r))
	require.Nil(t, r.Context)
	r.Context = context.WithValue(t.Context(), valueKey{}, "of the record")
	require.NoError(t, p.Publish(ctx, r))
	require.Equal(t, []any{"of the call", "of the record"}, h.values)
	require.False(t, h.ends)
}

// A partitioner is called under a lock of the client, for the first record of a topic on a
// goroutine of the client's.
func TestProducerPartitionerThatPanicsOrChoosesWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 3)
	p := w.producer(kstage.WithTopic(topic), kstage.WithPartitioner(kgo.BasicConsistentPartitioner(func(string) func(*kgo.Record, int) int {
		return func(r *kgo.Record, n int) int {
			switch string(r.Key) {
			case "panic":
				panic("oh no")
			case "beyond":
				return n
			}
			return 2
		}
	})))
	for _, key := range []string{"panic", "beyond"} {
		for range 2 {
			err := p.Publish(t.Context(), text(key, "v"))
			require.ErrorContains(t, err, "WithPartitioner has chosen partition")
			require.False(t, unconfirmed(err), "%v", err)
		}
	}
	r := text("good", "v")
	require.NoError(t, p.Publish(t.Context(), r))
	require.EqualValues(t, 2, r.Partition)
	reason, ok := p.reason(kstage.HealthCallbackPanic)
	require.True(t, ok)
	require.ErrorContains(t, reason.Err, "oh no")
}

// What a partitioner can do beside changes how the client treats it.
func TestProducerPartitionersKeepTheirKind(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]kgo.Partitioner{
		"basic":   kgo.ManualPartitioner(),
		"sticky":  kgo.StickyPartitioner(),
		"backup":  kgo.LeastBackupPartitioner(),
		"uniform": kgo.UniformBytesPartitioner(64<<10, true, true, nil),
		"robin":   kgo.RoundRobinPartitioner(),
	} {
		plain, guarded := p.ForTopic("t"), kstage.GuardedPartitioner(p).ForTopic("t")
		_, want := plain.(kgo.TopicBackupPartitioner)
		_, got := guarded.(kgo.TopicBackupPartitioner)
		require.Equal(t, want, got, name)
		_, want = plain.(kgo.TopicPartitionerOnNewBatch)
		_, got = guarded.(kgo.TopicPartitionerOnNewBatch)
		require.Equal(t, want, got, name)

		w := newWorld(t)
		topic := w.topic(name, 4)
		pub := w.producer(kstage.WithTopic(topic), kstage.WithPartitioner(p))
		r := text("k", "v")
		r.Partition = 3
		require.NoError(t, pub.Publish(t.Context(), r), name)
		require.True(t, name != "basic" || r.Partition == 3)
		require.Len(t, w.all(topic), 1)
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

// grabbingProducer keeps the client of a producer.
func grabbingProducer(w *world, more ...kgo.Opt) (*grabbed, kstage.ProducerOption) {
	g := &grabbed{clients: map[kstage.ClientRole]*kgo.Client{}}
	return g, kstage.WithClientOptions(func(role kstage.ClientRole) []kgo.Opt {
		return append(append([]kgo.Opt{kgo.WithHooks(grab{g, role})}, w.reach...), more...)
	})
}

func TestWhatTheProducersClientIsMadeWith(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g, option := grabbingProducer(w, kgo.ProducerLinger(time.Hour), kgo.RequiredAcks(kgo.NoAck()), kgo.RecordDeliveryTimeout(time.Hour),
		kgo.MaxBufferedRecords(1), kgo.MaxBufferedBytes(1), kgo.RecordRetries(1), kgo.ProducerBatchCompression(kgo.ZstdCompression()),
		kgo.ProducerBatchMaxBytes(12345), kgo.DefaultProduceTopic("theirs"), kgo.ProduceRequestTimeout(time.Hour))
	w.producer(option)
	for _, c := range []struct {
		opt   any
		value any
	}{
		{kgo.RequiredAcks, kgo.AllISRAcks()},
		{kgo.DisableIdempotentWrite, false},
		{kgo.AllowIdempotentProduceCancellation, true},
		{kgo.ProducerLinger, time.Duration(0)},
		{kgo.ProducerBatchCompression, []kgo.CompressionCodec{kgo.SnappyCompression(), kgo.NoCompression()}},
		{kgo.RecordDeliveryTimeout, time.Duration(0)},
		{kgo.MaxBufferedBytes, int64(0)},
		{kgo.ProduceRequestTimeout, 5 * time.Second},
		{kgo.DefaultProduceTopic, ""},
		{kgo.ProducerBatchMaxBytes, int32(12345)}, // the user's
	} {
		require.Equal(t, c.value, g.opt(kstage.RoleProducer, c.opt))
	}
	require.Greater(t, g.opt(kstage.RoleProducer, kgo.RecordRetries), int64(1<<60))

	g, option = grabbingProducer(w)
	w.producer(option, kstage.WithAcks(kstage.AcksLeader), kstage.WithLinger(time.Second), kstage.WithRetries(3), kstage.WithCompression(kgo.Lz4Compression()),
		kstage.WithRetryBackoff(kstage.Backoff{Min: time.Second, Max: time.Minute}))
	require.Equal(t, kgo.LeaderAck(), g.opt(kstage.RoleProducer, kgo.RequiredAcks))
	require.Equal(t, true, g.opt(kstage.RoleProducer, kgo.DisableIdempotentWrite))
	require.Equal(t, time.Second, g.opt(kstage.RoleProducer, kgo.ProducerLinger))
	require.Equal(t, int64(3), g.opt(kstage.RoleProducer, kgo.RecordRetries))
	require.Equal(t, []kgo.CompressionCodec{kgo.Lz4Compression()}, g.opt(kstage.RoleProducer, kgo.ProducerBatchCompression))
	backoff := g.opt(kstage.RoleProducer, kgo.RetryBackoffFn).(func(int) time.Duration)
	var first, tenth []time.Duration
	for range 1000 {
		first, tenth = append(first, backoff(1)), append(tenth, backoff(10))
	}
	require.LessOrEqual(t, slices.Max(first), time.Second+1)
	require.LessOrEqual(t, slices.Max(tenth), time.Minute+1)
	require.Greater(t, slices.Max(tenth), 40*time.Second)
	require.Less(t, slices.Min(tenth), 10*time.Second)
}

func TestClientOptionsThatAProducerCannotTakeBack(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]kgo.Opt{
		"ManualFlushing":                 kgo.ManualFlushing(),
		"StopProducerOnDataLossDetected": kgo.StopProducerOnDataLossDetected(),
		"TransactionalID":                kgo.TransactionalID("tx"),
		"WithClientOptions":              kgo.MaxProduceRequestsInflightPerBroker(7),
	} {
		_, err := kstage.NewProducer(kstage.WithBrokers("localhost:1"), kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return []kgo.Opt{opt} }))
		require.ErrorContains(t, err, "WithClientOptions", name)
	}
	_, err := kstage.NewProducer(kstage.WithBrokers("localhost:1"), kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt {
		return []kgo.Opt{kgo.DisableIdempotentWrite()}
	}))
	require.ErrorContains(t, err, "WithIdempotence(false)")
	_, err = kstage.NewProducer(kstage.WithBrokers("localhost:1"), kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt {
		return []kgo.Opt{kgo.DefaultProduceTopic("t"), kgo.DefaultProduceTopicAlways()}
	}))
	require.ErrorContains(t, err, "WithClientOptions")
}

// producerMistakes are the values an option refuses; the message names the option.
var producerMistakes = []struct {
	name   string
	option kstage.ProducerOption
	says   string
}{
	{"no brokers", kstage.WithBrokers(), "WithBrokers"},
	{"empty broker", kstage.WithBrokers("a:1", ""), "WithBrokers"},
	{"client id", kstage.WithClientID(""), "WithClientID"},
	{"nil counters", kstage.WithMetrics((*kstage.Counters)(nil)), "WithMetrics"},
	{"empty topic", kstage.WithTopic(""), "WithTopic"},
	{"illegal topic", kstage.WithTopic("a b"), "WithTopic"},
	{"long topic", kstage.WithTopic(strings.Repeat("x", 250)), "WithTopic"},
	{"acks", kstage.WithAcks(3), "WithAcks"},
	{"negative acks", kstage.WithAcks(-1), "WithAcks"},
	{"retries", kstage.WithRetries(-1), "WithRetries"},
	{"no back-off", kstage.WithRetryBackoff(kstage.Backoff{}), "WithRetryBackoff"},
	{"back-off upside down", kstage.WithRetryBackoff(kstage.Backoff{Min: 2, Max: 1}), "WithRetryBackoff"},
	{"delivery timeout", kstage.WithDeliveryTimeout(0), "WithDeliveryTimeout"},
	{"short delivery timeout", kstage.WithDeliveryTimeout(time.Second - 1), "WithDeliveryTimeout"},
	{"linger", kstage.WithLinger(-1), "WithLinger"},
	{"long linger", kstage.WithLinger(time.Minute + 1), "WithLinger"},
	{"linger as long as the timeout", kstage.WithLinger(30 * time.Second), "WithLinger"},
	{"no codec", kstage.WithCompression(), "WithCompression"},
	{"nil partitioner", kstage.WithPartitioner((*nilPartitioner)(nil)), "WithPartitioner"},
	{"buffer records", kstage.WithBuffer(0, 1), "WithBuffer"},
	{"buffer bytes", kstage.WithBuffer(1, 0), "WithBuffer"},
	{"too many buffer records", kstage.WithBuffer(1<<24, 1), "WithBuffer"},
	{"too many buffer bytes", kstage.WithBuffer(1, 1<<40), "WithBuffer"},
	{"buffer policy", kstage.WithBufferFull(2), "WithBufferFull"},
	{"negative buffer policy", kstage.WithBufferFull(-1), "WithBufferFull"},
}

type nilPartitioner struct{ kgo.Partitioner }

func TestEachProducerMistake(t *testing.T) {
	t.Parallel()
	for _, tt := range producerMistakes {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := kstage.NewProducer(kstage.WithBrokers("localhost:9092"), tt.option)
			require.Nil(t, p)
			require.ErrorContains(t, err, "kstage: ")
			require.ErrorContains(t, err, tt.says)
			require.Len(t, unjoin(err), 1, "one mistake, one message: %v", err)
		})
	}
}

func TestAllProducerMistakesTogether(t *testing.T) {
	t.Parallel()
	_, err := kstage.NewProducer(kstage.WithBrokers(), kstage.WithClientID(""), kstage.WithMetrics((*kstage.Counters)(nil)), kstage.WithTopic("a b"),
		kstage.WithAcks(9), kstage.WithIdempotence(true), kstage.WithRetries(-1), kstage.WithRetryBackoff(kstage.Backoff{}), kstage.WithDeliveryTimeout(0),
		kstage.WithLinger(-1), kstage.WithCompression(), kstage.WithPartitioner((*nilPartitioner)(nil)), kstage.WithBuffer(0, 0), kstage.WithBufferFull(9))
	for _, name := range []string{
		"WithBrokers", "WithClientID", "WithMetrics", "WithTopic", "WithAcks", "WithIdempotence", "WithRetries", "WithRetryBackoff",
		"WithDeliveryTimeout", "WithLinger", "WithCompression", "WithPartitioner", "WithBuffer", "WithBufferFull",
	} {
		require.ErrorContains(t, err, name)
	}
}

// Acks below all turn idempotence off, unless somebody has asked for it.
func TestProducerIdempotenceRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		opts []kstage.ProducerOption
		want bool // idempotent
		err  bool
	}{
		{nil, true, false},
		{[]kstage.ProducerOption{kstage.WithAcks(kstage.AcksAll)}, true, false},
		{[]kstage.ProducerOption{kstage.WithIdempotence(false)}, false, false},
		{[]kstage.ProducerOption{kstage.WithAcks(kstage.AcksLeader)}, false, false},
		{[]kstage.ProducerOption{kstage.WithAcks(kstage.AcksNone)}, false, false},
		{[]kstage.ProducerOption{kstage.WithAcks(kstage.AcksLeader), kstage.WithIdempotence(false)}, false, false},
		{[]kstage.ProducerOption{kstage.WithAcks(kstage.AcksLeader), kstage.WithIdempotence(true)}, false, true},
		{[]kstage.ProducerOption{kstage.WithIdempotence(true), kstage.WithAcks(kstage.AcksNone)}, false, true},
		{[]kstage.ProducerOption{kstage.WithIdempotence(true), kstage.WithAcks(kstage.AcksNone), kstage.WithAcks(kstage.AcksAll)}, true, false},
	} {
		idempotent, err := kstage.Idempotent(append(tt.opts, kstage.WithBrokers("localhost:1"))...)
		if tt.err {
			require.ErrorContains(t, err, "WithAcks")
			require.ErrorContains(t, err, "WithIdempotence")
			continue
		}
		require.NoError(t, err)
		require.Equal(t, tt.want, idempotent, "%d", len(tt.opts))
	}
}
