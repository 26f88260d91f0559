package kstage_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

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
	require.ErrorContains(t, p.Publish(t.Context(), text("worse", "v")), "a hook of WithClientOptions panicked")
	w.eventually(func() bool { return len(w.all(topic)) == 4 }) // the client had it
	require.NoError(t, p.Publish(t.Context(), text("k", "v")), "its room was given back once")
	shows(p, "hook")
	require.NoError(t, p.Close(t.Context()))
	p.requireCounts(2, 2)

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

// OnProduceRecordPartitioned implements kgo.HookProduceRecordPartitioned: the client has the record.
func (panicky) OnProduceRecordPartitioned(r *kgo.Record, _ int32) {
	if string(r.Key) == "worse" {
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

// headersHook adds a header, as those that trace do.
type headersHook struct{}

// OnProduceRecordBuffered implements kgo.HookProduceRecordBuffered.
func (headersHook) OnProduceRecordBuffered(r *kgo.Record) {
	r.Headers = append(r.Headers, kgo.RecordHeader{Key: "trace", Value: make([]byte, 100)})
}

// A record takes the room that it had when it was accepted, and gives back the same.
func TestProducerHooksThatAddHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.producer(kstage.WithTopic(w.topic("orders", 1)), kstage.WithBuffer(10, 200), kstage.WithBufferFull(kstage.FailWhenFull),
		kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return append([]kgo.Opt{kgo.WithHooks(headersHook{})}, w.reach...) }))
	for range 20 {
		r := text("k", "v")
		require.NoError(t, p.Publish(t.Context(), r))
		require.Empty(t, r.Headers)
	}
}

// Records take the quick way unless somebody else may look at them on it.
func TestProducerKnowsWhoSeesItsRecords(t *testing.T) {
	t.Parallel()
	with := func(opts ...kgo.Opt) kstage.ProducerOption {
		return kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return opts })
	}
	for name, tt := range map[string]struct {
		opt    kstage.ProducerOption
		direct bool
	}{
		"no options":                  {kstage.WithLinger(0), true},
		"options that reach a broker": {with(kgo.ClientID("x")), true},
		"a hook of records":           {with(kgo.WithHooks(headersHook{})), false},
		"another partitioner":         {with(kgo.RecordPartitioner(kgo.RoundRobinPartitioner())), false},
		"WithPartitioner":             {kstage.WithPartitioner(kgo.ManualPartitioner()), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := kstage.NewProducer(kstage.WithBrokers("127.0.0.1:1"), tt.opt)
			require.NoError(t, err)
			require.Equal(t, tt.direct, kstage.IsDirect(p))
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_ = p.Close(ctx)
		})
	}
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
