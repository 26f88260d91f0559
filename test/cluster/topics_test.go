//go:build cluster

package cluster_test

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// offsets is which were handled, in the order of their handling.
type offsets struct {
	mu  sync.Mutex
	all []int64
}

func (o *offsets) handler(_ context.Context, msg kstage.Message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, msg.Record.Offset)
	return nil
}

func (o *offsets) sorted() []int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Sorted(slices.Values(o.all))
}

func (o *offsets) len() int { return len(o.sorted()) }

// fetches counts a consumer's requests for records.
type fetches struct{ n atomic.Int64 }

// OnBrokerE2E implements kgo.HookBrokerE2E.
func (f *fetches) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, _ kgo.BrokerE2E) {
	if kmsg.Key(key) == kmsg.Fetch {
		f.n.Add(1)
	}
}

func (f *fetches) option() kstage.Option {
	return kstage.WithClientOptions(func(r kstage.ClientRole) []kgo.Opt {
		if r == kstage.RoleMain {
			return []kgo.Opt{kgo.WithHooks(f)}
		}
		return nil
	})
}

func TestRecreatedTopic(t *testing.T) { recreate(t) }

func TestRecreatedTopicOfANextGenGroup(t *testing.T) { recreate(t, kstage.WithNextGenGroup()) }

// recreate deletes a topic under a consumer and makes it again: consumption goes on by
// itself, without a storm of requests.
func recreate(t *testing.T, opts ...kstage.ConsumerOption) {
	t.Helper()
	w := newWorld(t)
	topic := w.topic("orders", 1)
	w.ladder(1, 0)
	w.fill(topic, 0, 10)
	var seen offsets
	var f fetches
	m := w.start(seen.handler, append(opts, kstage.WithTopics(topic), f.option())...)
	w.within(time.Minute, func() bool { return seen.len() == 10 && w.committed(topic, 0) == 10 })

	began := time.Now()
	before := f.n.Load()
	_, err := w.adm.DeleteTopic(t.Context(), topic)
	require.NoError(t, err)
	after(5 * time.Second)
	require.Equal(t, topic, w.topic("orders", 1))
	made := time.Now()
	w.fill(topic, 0, 5)
	w.within(90*time.Second, func() bool { return seen.len() == 15 })
	rate := float64(f.n.Load()-before) / time.Since(began).Seconds()
	t.Logf("read again %.1f s after its creation, %.1f fetches a second meanwhile", time.Since(made).Seconds(), rate)
	require.Less(t, rate, 5.0)
	_, ok := m.reason(kstage.HealthTopicRecreated)
	require.True(t, ok)
	require.NoError(t, m.stop())
	require.EqualValues(t, 5, w.committed(topic, 0))
}

func TestRetentionUnderAStoppedGroup(t *testing.T) {
	retention(t, func(m *member) *member {
		require.NoError(m.w.t, m.stop())
		return nil
	})
}

func TestRetentionUnderAPausedConsumer(t *testing.T) {
	retention(t, func(m *member) *member {
		m.Pause()
		return m
	})
}

// retention lets the broker delete what a group that does not read has not read: the
// gap is told with both offsets, and is all that was not handled.
func retention(t *testing.T, halt func(*member) *member) {
	t.Helper()
	w := newWorld(t)
	topic := w.topic("orders", 1, "retention.ms", "2000", "segment.ms", "500")
	w.ladder(1, 0)
	w.fill(topic, 0, 10)
	var seen offsets
	m := w.start(seen.handler, kstage.WithTopics(topic))
	w.within(time.Minute, func() bool { return seen.len() == 10 && w.committed(topic, 0) == 10 })
	paused := halt(m)
	w.within(time.Minute, func() bool {
		w.fill(topic, 0, 10)
		after(200 * time.Millisecond)
		starts, err := w.adm.ListStartOffsets(t.Context(), topic)
		o, ok := starts.Lookup(topic, 0)
		return err == nil && ok && o.Offset > 40
	})
	if paused != nil {
		m.Resume()
	} else {
		m = w.start(seen.handler, kstage.WithTopics(topic))
	}
	var gap *kstage.GapError
	w.within(time.Minute, func() bool {
		w.fill(topic, 0, 1)
		r, ok := m.reason(kstage.HealthGap)
		return ok && errors.As(r.Err, &gap)
	})
	w.within(time.Minute, func() bool { return slices.Max(seen.sorted()) >= gap.LogStart })
	require.NoError(t, m.stop())
	t.Log(gap)
	handled := seen.sorted()
	require.Contains(t, handled, gap.Expected-1)
	require.NotContains(t, handled, gap.Expected)
	require.NotContains(t, handled, gap.LogStart-1)
	require.Contains(t, handled, gap.LogStart)
	if paused == nil {
		require.EqualValues(t, 10, gap.Expected)
	}
}

func TestTransactionMarkersAreNoGap(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("orders", 1)
	w.ladder(1, 0)
	txn := w.client(kgo.TransactionalID(w.name("txn")), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for _, end := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
		require.NoError(t, txn.BeginTransaction())
		require.NoError(t, txn.ProduceSync(t.Context(), record(topic, 0, "k", "1"), record(topic, 0, "k", "2")).FirstErr())
		require.NoError(t, txn.EndTransaction(t.Context(), end))
	}
	w.fill(topic, 0, 1) // offsets 0 1 | 3 4 aborted | 6 7 | 9
	var seen offsets
	m := w.start(seen.handler, kstage.WithTopics(topic))
	w.within(time.Minute, func() bool { return seen.len() == 5 })
	require.NoError(t, m.stop())
	require.Equal(t, []int64{0, 1, 6, 7, 9}, seen.sorted())
	require.EqualValues(t, 10, w.committed(topic, 0))
	_, ok := m.reason(kstage.HealthGap)
	require.False(t, ok)
}

// An open transaction hides what is behind it until it times out.
func TestHangingTransaction(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("orders", 1)
	w.ladder(1, 0)
	txn := w.client(kgo.TransactionalID(w.name("txn")), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.TransactionTimeout(5*time.Second))
	require.NoError(t, txn.BeginTransaction())
	require.NoError(t, txn.ProduceSync(t.Context(), record(topic, 0, "k", "open")).FirstErr())
	w.fill(topic, 0, 3)
	var seen offsets
	m := w.start(seen.handler, kstage.WithTopics(topic))
	after(2 * time.Second)
	require.Zero(t, seen.len())
	w.within(30*time.Second, func() bool { return seen.len() == 3 })
	require.NoError(t, m.stop())
	require.Equal(t, []int64{1, 2, 3}, seen.sorted())
}

func TestCompactionIsNoGap(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("orders", 1, "cleanup.policy", "compact", "segment.ms", "200", "min.cleanable.dirty.ratio", "0.01",
		"max.compaction.lag.ms", "500", "delete.retention.ms", "100")
	w.ladder(1, 0)
	w.fill(topic, 0, 10)
	var seen offsets
	m := w.start(seen.handler, kstage.WithTopics(topic))
	w.within(time.Minute, func() bool { return seen.len() == 10 && w.committed(topic, 0) == 10 })
	require.NoError(t, m.stop())
	w.within(time.Minute, func() bool { // until the record at the group's offset is gone
		w.fill(topic, 0, 10)
		after(300 * time.Millisecond)
		return w.firstAt(topic, 10) > 10
	})
	m = w.start(seen.handler, kstage.WithTopics(topic))
	w.fill(topic, 0, 1)
	w.within(time.Minute, func() bool { return w.committed(topic, 0) == w.end(topic, 0) })
	_, ok := m.reason(kstage.HealthGap)
	require.False(t, ok)
	require.NoError(t, m.stop())
	require.NotContains(t, seen.sorted(), int64(10))
}

// firstAt is the first offset of partition 0 that is there, from an offset on.
func (w *world) firstAt(topic string, offset int64) int64 {
	cl := w.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(offset)}}))
	defer cl.Close()
	fs := cl.PollRecords(w.t.Context(), 1)
	require.NoError(w.t, fs.Err())
	return fs.Records()[0].Offset
}

// end is a partition's end offset.
func (w *world) end(topic string, partition int32) int64 {
	os, err := w.adm.ListEndOffsets(w.t.Context(), topic)
	require.NoError(w.t, err)
	o, _ := os.Lookup(topic, partition)
	return o.Offset
}

func TestPartitionsAdded(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("orders", 1)
	w.ladder(1, 0)
	var seen offsets
	m := w.start(seen.handler, kstage.WithTopics(topic))
	w.fill(topic, 0, 10)
	w.within(time.Minute, func() bool { return seen.len() == 10 })
	_, err := w.adm.CreatePartitions(t.Context(), 2, topic)
	require.NoError(t, err)
	added := time.Now()
	w.within(time.Minute, func() bool {
		ds, err := w.adm.ListTopics(t.Context(), topic)
		return err == nil && len(ds[topic].Partitions) == 3
	})
	w.cl = w.client(kgo.RecordPartitioner(kgo.ManualPartitioner())) // one that knows of them; see DESIGN.md on purging
	for p := range int32(3) {
		w.fill(topic, p, 10)
	}
	w.within(time.Minute, func() bool { return seen.len() == 40 }) // what came before they were noticed, too
	t.Logf("read %.1f s after they were added", time.Since(added).Seconds())
	require.NoError(t, m.stop())
	for p := range int32(3) {
		require.Equal(t, w.end(topic, p), w.committed(topic, p))
	}
}

// Retry topics and dead-letter topics that take less than a record needs.
func TestTooLargeForItsStageAndItsDeadLetterTopic(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("orders", 1)
	stage := w.topic("g-retry-1", 1, "max.message.bytes", "2000")
	dlq := w.topic("g-dlq", 1, "max.message.bytes", "2000")
	large := make([]byte, 5000)
	_, _ = rand.Read(large) // so that no compression makes it fit
	for i := range 50 {
		w.fill(topic, 0, 1)
		if i == 25 {
			require.NoError(t, w.cl.ProduceSync(t.Context(), record(topic, 0, "large", string(large))).FirstErr())
		}
	}
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		if msg.Stage() == 0 {
			return errors.New("not yet")
		}
		return nil
	}, kstage.WithTopics(topic), kstage.WithRetryStages(time.Second), kstage.WithImmediateRetries(0, kstage.Backoff{}))
	w.within(time.Minute, func() bool {
		_, blocked := m.reason(kstage.HealthOversize)
		return m.counts.Snapshot().Processed == 50 && blocked
	})
	r, _ := m.reason(kstage.HealthOversize)
	t.Log(r)
	require.EqualValues(t, 26, r.Offset)
	require.EqualValues(t, 26, w.committed(topic, 0))
	require.EqualValues(t, 50, w.end(stage, 0))
	limit := "100000"
	_, err := w.adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &limit}}, dlq)
	require.NoError(t, err)
	w.within(2*time.Minute, func() bool { return w.committed(topic, 0) == 51 })
	require.NoError(t, m.stop())
	d, err := kstage.DecodeDeadLetter(w.read(dlq, 1)[0])
	require.NoError(t, err)
	require.Equal(t, kstage.ReasonOversize, d.Reason)
	require.Equal(t, large, d.Record.Value)
}
