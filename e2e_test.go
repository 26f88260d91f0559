package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// The tests of this file and of e2e_dlq_test.go cover each promise once, in real
// time, and run on the embedded broker and on a real one.

var errTest = errors.New("test error")

// nap is a handler's work: some of it quick, some slow.
func nap(ctx context.Context, most time.Duration) {
	limited, cancel := context.WithTimeout(ctx, rand.N(most))
	defer cancel()
	<-limited.Done()
}

func TestEndToEndEachRecordEndsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(3)
	for p := range int32(3) {
		w.fill(topic, p, 100, 10)
	}
	var j journal
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		d := j.note(msg)
		switch {
		case d.Offset == 7 && d.Attempt < 3:
			return errTest
		case d.Offset == 13:
			return kstage.Permanent(errTest)
		case d.Offset == 17:
			return kstage.Skip(errTest)
		}
		return nil
	}, opts...)
	w.eventually(func() bool {
		s := m.counts.Snapshot()
		return s.Processed == 294 && s.SentToDLQ == 3 && s.Skipped == 3
	})
	require.NoError(t, m.stop())
	for p := range int32(3) {
		require.EqualValues(t, 100, w.committed(topic, p))
		for o, n := range j.times(p) {
			want := 1
			if o == 7 {
				want = 3
			}
			require.Equal(t, want, n, "partition %d offset %d", p, o)
		}
	}
	m.assertIdentity()
	require.EqualValues(t, 9, m.counts.Snapshot().Failed)
}

// order checks that handlers of a key neither overlap nor run out of order.
type order struct {
	mu      sync.Mutex
	running map[string]bool
	last    map[string]int64
	broken  []string
}

func (o *order) enter(m kstage.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	k := fmt.Sprintf("%d/%s", m.Record.Partition, m.Key())
	if o.running[k] {
		o.broken = append(o.broken, fmt.Sprintf("%s overlaps at %d", k, m.Record.Offset))
	}
	if last, ok := o.last[k]; ok && (m.Record.Offset < last || m.Record.Offset == last && m.Attempt() == 1) {
		o.broken = append(o.broken, fmt.Sprintf("%s: %d after %d", k, m.Record.Offset, last))
	}
	o.running[k], o.last[k] = true, m.Record.Offset
}

func (o *order) leave(m kstage.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.running, fmt.Sprintf("%d/%s", m.Record.Partition, m.Key()))
}

func newOrder() *order { return &order{running: map[string]bool{}, last: map[string]int64{}} }

func TestEndToEndKeysAreInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(2)
	w.fill(topic, 0, 500, 7)
	w.fill(topic, 1, 500, 13)
	o := newOrder()
	m := w.start(func(ctx context.Context, msg kstage.Message) error {
		o.enter(msg)
		defer o.leave(msg)
		nap(ctx, 2*time.Millisecond)
		if msg.Record.Offset%19 == 0 && msg.Attempt() == 1 {
			return errTest
		}
		return nil
	}, append(opts, kstage.WithImmediateRetries(1, kstage.Backoff{Min: time.Millisecond, Max: 5 * time.Millisecond}))...)
	w.eventually(func() bool { return m.counts.Snapshot().Processed == 1000 })
	require.NoError(t, m.stop())
	m.assertIdentity()
	require.Empty(t, o.broken)
}

func TestEndToEndRebalanceLosesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(4)
	var j journal
	h := func(ctx context.Context, msg kstage.Message) error {
		nap(ctx, 3*time.Millisecond)
		j.note(msg)
		return nil
	}
	fast := kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt {
		return append([]kgo.Opt{kgo.HeartbeatInterval(100 * time.Millisecond)}, w.reach...)
	})
	// In partition order nothing finishes above an unfinished record: each is handled once.
	opts = append(opts, fast, kstage.WithOrdering(kstage.ByPartition))
	first := w.start(h, opts...)
	for p := range int32(4) {
		w.fill(topic, p, 300, 20)
	}
	w.eventually(func() bool { return j.len() > 100 })
	second := w.start(h, opts...)
	w.eventually(func() bool { return len(second.Stats().Partitions) > 0 })
	require.NoError(t, first.stop())
	w.eventually(func() bool {
		return first.counts.Snapshot().Processed+second.counts.Snapshot().Processed >= 1200
	})
	require.NoError(t, second.stop())
	for p := range int32(4) {
		require.Len(t, j.times(p), 300)
		require.EqualValues(t, 300, w.committed(topic, p))
		for o, n := range j.times(p) { // both stops and the revocation were drained
			require.Equal(t, 1, n, "partition %d offset %d", p, o)
		}
	}
	first.assertIdentity()
	second.assertIdentity()
}

func TestEndToEndRestartGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(2)
	w.fill(topic, 0, 400, 20)
	w.fill(topic, 1, 400, 20)
	var j journal
	h := func(ctx context.Context, msg kstage.Message) error {
		nap(ctx, 2*time.Millisecond)
		j.note(msg)
		return nil
	}
	handled := func() int { return len(j.times(0)) + len(j.times(1)) }
	for stopAfter := 100; handled() < 800; stopAfter += 200 {
		m := w.start(h, opts...)
		w.eventually(func() bool { return handled() >= min(stopAfter, 800) })
		require.NoError(t, m.stop())
		m.assertIdentity()
	}
	for p := range int32(2) {
		require.Len(t, j.times(p), 400)
		for o, n := range j.times(p) {
			if n != 1 { // above an unfinished record of another key
				t.Logf("partition %d offset %d was handled %d times", p, o, n)
			}
			require.LessOrEqual(t, n, 2)
		}
		require.EqualValues(t, 400, w.committed(topic, p))
	}
}

func TestEndToEndStuckKeyStopsNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(1)
	w.fill(topic, 0, 1000, 100)
	release := make(chan struct{})
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		if msg.Record.Offset == 0 {
			<-release
		}
		return nil
	}, opts...)
	w.eventually(func() bool { return m.counts.Snapshot().Processed == 990 }) // all but key k0
	require.EqualValues(t, -1, w.committed(topic, 0))
	s := m.Stats().Partitions[0]
	require.EqualValues(t, 0, s.Head)
	require.EqualValues(t, 999, s.HighestFinished)
	require.Equal(t, 10, s.InFlight)
	close(release)
	w.eventually(func() bool { return m.counts.Snapshot().Processed == 1000 })
	require.NoError(t, m.stop())
	m.assertIdentity()
	require.EqualValues(t, 1000, w.committed(topic, 0))
}

func TestEndToEndWorkersAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(3)
	for p := range int32(3) {
		w.fill(topic, p, 100, 50)
	}
	var now, most atomic.Int64
	m := w.start(func(ctx context.Context, _ kstage.Message) error {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		nap(ctx, 4*time.Millisecond)
		return nil
	}, append(opts, kstage.WithWorkers(5))...)
	w.eventually(func() bool { return m.counts.Snapshot().Processed == 300 })
	require.NoError(t, m.stop())
	m.assertIdentity()
	require.EqualValues(t, 5, most.Load())
}

func TestEndToEndTransactionMarkersAreNoGap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(1)
	txn := w.client(kgo.TransactionalID(w.name("txn")), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for i, commit := range []kgo.TransactionEndTry{kgo.TryCommit, kgo.TryAbort, kgo.TryCommit} {
		require.NoError(t, txn.BeginTransaction())
		require.NoError(t, txn.ProduceSync(t.Context(), record(topic, 0, "k", fmt.Sprint(i)), record(topic, 0, "k", fmt.Sprint(i))).FirstErr())
		require.NoError(t, txn.EndTransaction(t.Context(), commit))
	}
	w.produce(record(topic, 0, "k", "last")) // offsets 0 1 | 3 4 aborted | 6 7 | 9
	var j journal
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		j.note(msg)
		return nil
	}, opts...)
	w.eventually(func() bool { return j.len() == 5 })
	require.NoError(t, m.stop())
	m.assertIdentity()
	var offsets []int64
	for _, d := range j.all() {
		offsets = append(offsets, d.Offset)
	}
	require.Equal(t, []int64{0, 1, 6, 7, 9}, offsets)
	require.EqualValues(t, 10, w.committed(topic, 0))
	_, gap := m.reason(kstage.HealthGap)
	require.False(t, gap)
}

func TestEndToEndGapIsReported(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(1)
	w.fill(topic, 0, 10, 1)
	m := w.start(func(context.Context, kstage.Message) error { return nil }, opts...)
	w.eventually(func() bool { return m.counts.Snapshot().Processed == 10 })
	require.NoError(t, m.stop())
	m.assertIdentity()

	w.fill(topic, 0, 10, 1)
	w.deleteRecords(topic, 0, 15)
	var j journal
	m = w.start(func(_ context.Context, msg kstage.Message) error {
		j.note(msg)
		return nil
	}, opts...)
	w.eventually(func() bool { return j.len() == 5 })
	r, ok := m.reason(kstage.HealthGap)
	require.True(t, ok)
	require.Equal(t, &kstage.GapError{Topic: topic, Expected: 10, LogStart: 15}, r.Err)
	require.NoError(t, m.stop())
	m.assertIdentity()

	w.fill(topic, 0, 10, 1)
	w.deleteRecords(topic, 0, 25)
	m = w.start(func(context.Context, kstage.Message) error { t.Error("handled behind a gap"); return nil },
		append(opts, kstage.WithOnGap(kstage.StopOnGap))...)
	gap := (*kstage.GapError)(nil)
	require.ErrorAs(t, m.wait(), &gap)
	require.EqualValues(t, 25, gap.LogStart)
	require.EqualValues(t, 20, w.committed(topic, 0))
}

func (w *world) deleteRecords(topic string, partition int32, before int64) {
	w.t.Helper()
	os := kadm.Offsets{}
	os.Add(kadm.Offset{Topic: topic, Partition: partition, At: before})
	_, err := w.adm.DeleteRecords(w.t.Context(), os)
	require.NoError(w.t, err)
}

func TestEndToEndRecreatedTopicStartsOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(1)
	w.fill(topic, 0, 10, 1)
	var j journal
	ids := make(chan string, 100)
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		j.note(msg)
		ids <- msg.ID()
		return nil
	}, opts...)
	w.eventually(func() bool { return m.counts.Snapshot().Processed == 10 && w.committed(topic, 0) == 10 })

	_, err := w.adm.DeleteTopic(t.Context(), topic)
	require.NoError(t, err)
	w.eventually(func() bool {
		ds, err := w.adm.ListTopics(t.Context(), topic)
		return err == nil && ds[topic].Err != nil
	})
	w.cl.PurgeTopicsFromClient(topic)
	require.Equal(t, topic, w.topic("orders", 1))
	w.fill(topic, 0, 5, 1)
	w.eventually(func() bool { return m.counts.Snapshot().Processed == 15 })
	_, ok := m.reason(kstage.HealthTopicRecreated)
	require.True(t, ok)
	require.NoError(t, m.stop())
	m.assertIdentity()
	seen := map[string]bool{}
	for range 15 {
		id := <-ids
		require.False(t, seen[id], "two records with one id")
		seen[id] = true
	}
	require.EqualValues(t, 5, w.committed(topic, 0))
}

func TestEndToEndPatternLeavesItsOwnTopicsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, dlq := w.topic("shop-a", 1), w.topic("shop-dlq", 1)
	w.fill(a, 0, 10, 2)
	var j journal
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		j.note(msg)
		return kstage.Permanent(errTest)
	}, kstage.WithTopicPattern("^"+w.name("shop-")), kstage.WithDLQTopic(dlq))
	w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 10 })
	after(500 * time.Millisecond) // it would have read some by then
	require.NoError(t, m.stop())
	m.assertIdentity()
	for _, d := range j.all() {
		require.Equal(t, a, d.Topic)
	}
	require.Equal(t, 10, j.len())
}
