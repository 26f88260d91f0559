//go:build synctests

package kstage_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// Two groups read one main topic, each with a ladder of its own: neither meets the
// other's failures.
func TestStagesTwoGroupsOnOneMainTopic(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(2)
		for _, name := range []string{"h-dlq", "h-retry-1"} {
			w.topic(name, 2)
		}
		opts = append(opts, w.stages(2, 2*time.Second), once())
		var a, b journal
		of := func(j *journal, rest int64) kstage.HandlerFunc {
			return func(_ context.Context, msg kstage.Message) error {
				if j.note(msg); msg.Stage() == 0 && msg.Record.Offset%2 == rest {
					return errNotYet
				}
				return nil
			}
		}
		w.fill(topic, 0, 20, 5)
		w.fill(topic, 1, 20, 5)
		first := w.start(of(&a, 0), opts...)
		second := w.start(of(&b, 1), append(opts, kstage.WithGroup("h"))...)
		w.eventually(func() bool {
			return first.counts.Snapshot().Processed == 40 && second.counts.Snapshot().Processed == 40
		})
		after(time.Minute)
		for _, m := range []*member{first, second} {
			require.Empty(t, m.Health().Reasons)
			s := m.counts.Snapshot()
			require.EqualValues(t, 20, s.Retried)
			require.Zero(t, s.Foreign)
			require.NoError(t, m.stop())
			m.assertIdentity()
		}
		require.Equal(t, 60, a.len())
		require.Equal(t, 60, b.len())
	})
}

// sharing starts two groups, g and h, that share the retry topics "shared-<n>" and
// read main topics of their own.
func sharing(w *world, a, b kstage.HandlerFunc, delays ...time.Duration) (g, h *member) {
	for _, name := range []string{"orders", "bills", "g-dlq", "h-dlq", "shared-1", "shared-2"} {
		w.topic(name, 1)
	}
	opts := []kstage.ConsumerOption{kstage.WithRetryTopicPrefix("shared"), kstage.WithRetryStages(delays...), once()}
	g = w.start(a, append(opts, kstage.WithTopics("orders"))...)
	h = w.start(b, append(opts, kstage.WithTopics("bills"), kstage.WithGroup("h"))...)
	w.eventually(func() bool { return g.Health().Ready && h.Health().Ready })
	return g, h
}

// Groups may share retry topics: each handles its own failures alone, those of the
// other are passed over, counted, and told of until five minutes after the last.
func TestStagesSharedRetryTopics(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		var a, b journal
		g, h := sharing(w, alwaysFails(&a), alwaysFails(&b), time.Second, 5*time.Second)
		w.fill("orders", 0, 10, 3)
		w.fill("bills", 0, 15, 3)
		w.eventually(func() bool { return g.counts.Snapshot().SentToDLQ == 10 && h.counts.Snapshot().SentToDLQ == 15 })
		last := time.Now()
		require.Equal(t, 30, a.len())
		require.Equal(t, 45, b.len())
		for who, calls := range map[string][]delivery{"orders": a.all(), "bills": b.all()} {
			for _, d := range calls {
				require.Contains(t, []string{who, "shared-1", "shared-2"}, d.Topic)
			}
		}
		w.eventually(func() bool { return g.counts.Snapshot().Foreign == 30 && h.counts.Snapshot().Foreign == 20 })
		for _, m := range []*member{g, h} {
			require.Equal(t, []string{"foreign-records shared-1", "foreign-records shared-2"}, reasonsOf(m.Health()))
			require.True(t, m.Health().Ready)
		}
		after(time.Until(last.Add(5*time.Minute - 10*time.Second)))
		require.Contains(t, reasonsOf(g.Health()), "foreign-records shared-2")
		after(15 * time.Second)
		for _, m := range []*member{g, h} {
			require.Empty(t, m.Health().Reasons)
			require.NoError(t, m.stop())
			m.assertIdentity()
		}
		for _, group := range []string{"g-retry", "h-retry"} {
			require.Zero(t, w.lag(group, "shared-1", "shared-2"), group)
		}
		for _, d := range w.deadLetters() {
			require.Equal(t, "g", d.Group)
			require.Equal(t, "orders", d.Origin.Topic)
		}
	})
}

// A record of another group is nobody's to wait for: it is not late, it is not
// waiting, and it keeps no other from being handled when that is due.
func TestStagesForeignRecordsAreNeitherLateNorWaiting(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		stages := w.stages(1, time.Hour)
		due := time.Now().Add(time.Hour)
		foreign := retryCopy("g-retry-1", 0, "k", due)
		foreign.Headers = append(foreign.Headers, header("kstage-group", "other"))
		w.produce(foreign)
		var log eventLog
		m := w.start(handleNothing, append(opts, stages, once(), kstage.WithMetrics(&log))...)
		w.eventually(func() bool { return log.Snapshot().Foreign == 1 })
		require.Less(t, time.Until(due), 61*time.Minute)
		e := log.handled()[0]
		require.Equal(t, kstage.OutcomeForeign, e.Outcome)
		require.Equal(t, 1, e.Stage)
		require.Less(t, e.Late, time.Second)
		require.GreaterOrEqual(t, e.Late, time.Duration(0))
		s := statsOf(m, "g-retry-1", 0)
		require.Less(t, s.Late, time.Second)
		require.Zero(t, s.Waiting)
		require.True(t, s.NextDue.IsZero())
		w.eventually(func() bool { return w.committedBy("g-retry", "g-retry-1", 0) == 1 })

		w.produce(record(topic, 0, "k", "v"), foreign) // behind ours it takes its turn
		own := retryCopy("g-retry-1", 0, "k", time.Now().Add(30*time.Minute))
		at := time.Now()
		w.produce(own, foreign)
		after(10 * time.Minute)
		s = statsOf(m, "g-retry-1", 0)
		require.Equal(t, 2, s.Waiting)
		require.WithinDuration(t, at.Add(30*time.Minute), s.NextDue, time.Second)
		w.within(time.Hour, func() bool { return log.Snapshot().Processed == 2 && log.Snapshot().Foreign == 3 })
		require.WithinDuration(t, at.Add(30*time.Minute), time.Now(), 2*time.Second)
		require.NoError(t, m.stop())
		requireIdentity(t, log.Snapshot())
	})
}

// retryCopy is a copy in a retry topic as another process would have written it,
// for nobody in particular.
func retryCopy(topic string, partition int32, key string, due time.Time) *kgo.Record {
	r := record(topic, partition, key, "v")
	r.Headers = []kgo.RecordHeader{header("kstage-due", millis(due)), header("kstage-attempt", "1")}
	return r
}

// statsOf is where one partition stands.
func statsOf(m *member, topic string, partition int32) kstage.PartitionStats {
	m.w.t.Helper()
	ps := m.Stats().Partitions
	i := slices.IndexFunc(ps, func(p kstage.PartitionStats) bool { return p.Topic == topic && p.Partition == partition })
	require.GreaterOrEqual(m.w.t, i, 0, "%s/%d is not assigned", topic, partition)
	return ps[i]
}

// What does not say whose it is, is ours; the last of several says.
func TestStagesWhoseRecordIsIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		headers []kgo.RecordHeader
		ours    bool
	}{
		"nobody's":         {nil, true},
		"ours":             {[]kgo.RecordHeader{header("kstage-group", "g")}, true},
		"another's":        {[]kgo.RecordHeader{header("kstage-group", "other")}, false},
		"empty":            {[]kgo.RecordHeader{header("kstage-group", "")}, false},
		"of longer name":   {[]kgo.RecordHeader{header("kstage-group", "g2")}, false},
		"the last is ours": {[]kgo.RecordHeader{header("kstage-group", "other"), header("kstage-group", "g")}, true},
		"the last is not":  {[]kgo.RecordHeader{header("kstage-group", "g"), header("kstage-group", "other")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				_, opts := w.ladder(1)
				stages := w.stages(1, time.Second)
				r := record("g-retry-1", 0, "k", "v")
				r.Headers = c.headers
				w.produce(r)
				m := w.start(handleNothing, append(opts, stages)...)
				w.eventually(func() bool { return w.committedBy("g-retry", "g-retry-1", 0) == 1 })
				s := m.counts.Snapshot()
				require.Equal(w.t, c.ours, s.Processed == 1)
				require.Equal(w.t, !c.ours, s.Foreign == 1)
			})
		})
	}
}

// The first failures lie in a stage before its group has ever looked: they are
// read, whatever is chosen for the main topics.
func TestStagesAreReadFromTheirStart(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		_, opts := w.ladder(1)
		stages := w.stages(1, time.Second)
		w.produce(retryCopy("g-retry-1", 0, "k", time.Now()))
		txn := w.client(kgo.TransactionalID("txn"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		require.NoError(w.t, txn.BeginTransaction())
		require.NoError(w.t, txn.ProduceSync(w.t.Context(), retryCopy("g-retry-1", 0, "k", time.Now())).FirstErr())
		m := w.start(handleNothing, append(opts, stages, kstage.WithStartOffset(kstage.Latest))...)
		w.within(10*time.Second, func() bool { return m.counts.Snapshot().Processed == 2 }) // of an open transaction, too
		require.NoError(w.t, txn.EndTransaction(w.t.Context(), kgo.TryCommit))
	})
}
