//go:build synctests

package kstage_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// stall makes the broker take what is written to a topic only when it is let go.
func (w *world) stall(topic string) (letGo func()) {
	id, gate := w.topicID(topic), make(chan struct{})
	w.fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		if produces(req, topic, id) {
			w.fake.SleepControl(func() { <-gate })
		}
		return nil, nil, false
	})
	letGo = sync.OnceFunc(func() { close(gate) })
	w.t.Cleanup(letGo)
	return letGo
}

// twoPartitionsLeaving starts a member whose two partitions each have a dead
// record first, and returns when both copies are on their way, or failing.
func twoPartitionsLeaving(w *world, dlqPartitions int32, drain time.Duration) (topic string, m *member, events *copyEvents) {
	topic = w.topic("orders", 2)
	w.topic("g-dlq", dlqPartitions)
	for p := range int32(2) {
		w.fill(topic, p, 10, 10)
	}
	events = &copyEvents{}
	m = w.start(buryAt(0), kstage.WithTopics(topic), kstage.WithMetrics(events), kstage.WithRevokeDrain(drain))
	return topic, m, events
}

// A second member takes a partition whose copy no broker answers: the drain
// waits for its limit. What is answered then is stale, and the record is its new
// owner's, with a copy of the same id. The copy that stayed is not touched.
func TestHandOffStaleAnswers(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, m, events := twoPartitionsLeaving(w, 2, 3*time.Second)
		letGo := w.stall("g-dlq")
		after(2 * time.Second)
		other := w.start(buryAt(0), kstage.WithTopics(topic))
		w.eventually(func() bool { _, ok := events.revoked(); return ok })
		e, _ := events.revoked()
		require.WithinDuration(t, time.Now().Add(3*time.Second), time.Now().Add(e.Drain), 100*time.Millisecond)
		require.Len(t, e.Partitions, 1)
		require.Equal(t, 1, e.Released)
		require.EqualValues(t, -1, w.committed(topic, e.Partitions[0]))
		w.eventually(func() bool { return other.counts.Snapshot().Received == 10 })
		letGo()
		w.eventually(func() bool { return w.committed(topic, 0) == 10 && w.committed(topic, 1) == 10 })
		w.eventually(func() bool { acked, stale, failed := events.answers(); return acked == 1 && stale == 1 && failed == 0 })
		require.EqualValues(t, 1, other.counts.Snapshot().SentToDLQ)
		require.NoError(t, m.stop())
		require.NoError(t, other.stop())
		require.Len(t, w.deadLetters(), 3)
		requireCopies(t, w, topic, 2, 0)
	})
}

// A drain waits for copies on their way: answered in time, their records are
// committed and nobody handles them again.
func TestHandOffDrainWaitsForAnswers(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, _, events := twoPartitionsLeaving(w, 1, 15*time.Second)
		letGo := w.stall("g-dlq")
		after(2 * time.Second)
		other := w.start(buryAll, kstage.WithTopics(topic))
		time.AfterFunc(7*time.Second, letGo) // the first member hears of the rebalance at its heartbeat
		w.eventually(func() bool { _, ok := events.revoked(); return ok })
		e, _ := events.revoked()
		require.Greater(t, e.Drain, time.Second)
		require.Less(t, e.Drain, 10*time.Second)
		require.Zero(t, e.Released)
		w.eventually(func() bool { return w.committed(topic, 0) == 10 && w.committed(topic, 1) == 10 })
		acked, stale, failed := events.answers()
		require.Equal(t, []int{2, 0, 0}, []int{acked, stale, failed})
		require.Zero(t, other.counts.Snapshot().Received)
	})
}

// A drain does not wait for a back-off, at a rebalance and at the end.
func TestHandOffDrainWaitsForNoBackoff(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, m, events := twoPartitionsLeaving(w, 1, 3*time.Second)
		fault := faultOn(kerr.TopicAuthorizationFailed)(w)
		after(3 * time.Minute)
		other := w.start(buryAt(0), kstage.WithTopics(topic))
		w.eventually(func() bool { _, ok := events.revoked(); return ok })
		e, _ := events.revoked()
		require.Less(t, e.Drain, 500*time.Millisecond)
		require.Equal(t, 1, e.Released)
		after(time.Minute)
		began := time.Now()
		err := m.stop()
		require.Less(t, time.Since(began), time.Second)
		var drain *kstage.DrainError
		require.ErrorAs(t, err, &drain)
		require.Equal(t, []kstage.Coordinates{{Topic: topic, Partition: 1 - e.Partitions[0]}}, drain.Abandoned)
		fault()
		w.eventually(func() bool { return w.committed(topic, 0) == 10 && w.committed(topic, 1) == 10 })
		w.eventually(func() bool { return other.Health().Ready })
	})
}

// The last copy that a failing target had goes away with its partition: Health
// does not speak of it any more.
func TestHandOffForgetsWithThePartition(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 2)
		w.topic("g-dlq", 2)
		for p := range int32(2) {
			w.fill(topic, p, 10, 10)
		}
		faultOn(kerr.TopicAuthorizationFailed)(w)
		events := &copyEvents{}
		m := w.start(buryAt(0), kstage.WithTopics(topic), kstage.WithMetrics(events))
		failing := func() (n int) {
			for _, r := range m.Health().Reasons {
				if r.Kind == kstage.HealthHandOffFailing {
					n++
				}
			}
			return n
		}
		w.eventually(func() bool { return failing() == 2 })
		w.start(buryAt(0), kstage.WithTopics(topic))
		w.eventually(func() bool { _, ok := events.revoked(); return ok })
		require.Equal(t, 1, failing())
	})
}

// Skip takes a record out of a failing hand-off: in a back-off, and where its
// copy is on the way; the answer to that changes nothing any more.
func TestHandOffSkip(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		w.fill(topic, 0, 3, 3)
		lift := faultOn(kerr.TopicAuthorizationFailed)(w)
		h := func(ctx context.Context, m kstage.Message) error {
			if m.Record.Offset == 2 {
				return nil
			}
			return buryAll(ctx, m)
		}
		m := w.start(h, opts...)
		after(3 * time.Minute)
		require.ErrorIs(t, m.Skip(topic, 0, 2), kstage.ErrNotParked)
		require.NoError(t, m.Skip(topic, 0, 0)) // in a back-off, with all but a few milliseconds
		after(2 * time.Second)
		require.EqualValues(t, 1, w.committed(topic, 0))
		lift()
		letGo := w.stall("g-dlq")
		after(40 * time.Second) // sent again, and not answered
		require.False(t, m.Health().Ready)
		require.NoError(t, m.Skip(topic, 0, 1))
		require.ErrorIs(t, m.Skip(topic, 0, 1), kstage.ErrNotParked)
		after(2 * time.Second)
		require.EqualValues(t, 3, w.committed(topic, 0))
		letGo()
		after(2 * time.Second)
		require.True(t, m.Health().Ready)
		require.NoError(t, m.stop())
		m.assertIdentity()
		s := m.counts.Snapshot()
		require.Equal(t, []uint64{2, 1, 0}, []uint64{s.Skipped, s.Processed, s.SentToDLQ})
	})
}

// contexts sees the records that a client is given.
type contexts struct {
	mu   sync.Mutex
	seen []context.Context
}

// OnProduceRecordBuffered implements kgo.HookProduceRecordBuffered.
func (c *contexts) OnProduceRecordBuffered(r *kgo.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, r.Context)
}

// No copy carries a context that can end: its end would fail all that share the
// copy's batch.
func TestHandOffContextNeverEnds(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		w.fill(topic, 0, 3, 3)
		hook := &contexts{}
		m := w.start(buryAll, append(opts, kstage.WithClientOptions(func(r kstage.ClientRole) []kgo.Opt {
			if r == kstage.RoleHandOff {
				return append([]kgo.Opt{kgo.WithHooks(hook)}, w.reach...)
			}
			return w.reach
		}))...)
		w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 3 })
		require.NoError(t, m.stop())
		require.Len(t, hook.seen, 3)
		for _, ctx := range hook.seen {
			require.Nil(t, ctx.Done())
		}
	})
}
