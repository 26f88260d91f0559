//go:build synctests

package kstage_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// copyEvents keeps what is told of copies and assignments.
type copyEvents struct {
	kstage.NopMetrics

	mu       sync.Mutex
	copies   []kstage.HandedOffEvent
	assigned []kstage.AssignedEvent
}

func (e *copyEvents) HandedOff(ev kstage.HandedOffEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.copies = append(e.copies, ev)
}

func (e *copyEvents) Assigned(ev kstage.AssignedEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.assigned = append(e.assigned, ev)
}

// answers counts acknowledged, stale and failed copies.
func (e *copyEvents) answers() (acked, stale, failed int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.copies {
		switch {
		case c.Err != nil:
			failed++
		case c.Stale:
			stale++
		default:
			acked++
		}
	}
	return acked, stale, failed
}

// revoked returns the first revocation; false before it.
func (e *copyEvents) revoked() (kstage.AssignedEvent, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.assigned {
		if a.Kind == kstage.PartitionsRevoked {
			return a, true
		}
	}
	return kstage.AssignedEvent{}, false
}

// requireOrder checks that the copies of each source partition lie in offset
// order in their partition of the dead-letter topic.
func requireOrder(t *testing.T, w *world, each int) {
	t.Helper()
	for p, rs := range w.read("g-dlq") {
		next := map[kstage.Coordinates]int64{}
		for _, r := range rs {
			d, err := kstage.DecodeDeadLetter(r)
			require.NoError(t, err)
			source := kstage.Coordinates{Topic: d.Origin.Topic, Partition: d.Origin.Partition}
			require.Equal(t, next[source], d.Origin.Offset, "dead-letter partition %d", p)
			next[source]++
		}
		for source, n := range next {
			require.EqualValues(t, each, n, "%v", source)
		}
	}
}

// One partition of the dead-letter topic fails while more records die: copies of
// each source stay in order in spite of all that is sent again, and those of the
// other partitions do not wait.
func TestHandOffOnePartitionFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err          *kerr.Error
		provisioning kstage.Provisioning
	}{
		"timed out by the client": {kerr.NotEnoughReplicas, kstage.VerifyTopics},
		"refused at once":         {kerr.TopicAuthorizationFailed, kstage.VerifyTopics},
		"not looked at before":    {kerr.TopicAuthorizationFailed, kstage.TrustTopics},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) { failOnePartition(w.t, w, c.err, c.provisioning) })
		})
	}
}

func failOnePartition(t *testing.T, w *world, err *kerr.Error, provisioning kstage.Provisioning) {
	t.Helper()
	topic, opts := w.ladder(3)
	fault := w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "g-dlq", Partitions: []int32{1}, Err: err, Count: -1})
	m := w.start(buryAll, append(opts, kstage.WithOrdering(kstage.ByPartition), kstage.WithTopicProvisioning(provisioning))...)
	for i := range 20 {
		for p := range int32(3) {
			w.produce(record(topic, p, "k", fmt.Sprint(i)), record(topic, p, "k", fmt.Sprint(i)))
		}
		after(3 * time.Second)
		require.EqualValues(t, 4*(i+1), m.counts.Snapshot().SentToDLQ)
	}
	r, ok := m.reason(kstage.HealthHandOffFailing)
	require.True(t, ok)
	require.Equal(t, kstage.Coordinates{Topic: "g-dlq", Partition: 1}, kstage.Coordinates{Topic: r.Topic, Partition: r.Partition})
	fault.Remove()
	w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 120 })
	require.Empty(t, m.Health().Reasons)
	require.NoError(t, m.stop())
	requireOrder(t, w, 40)
}

// The target fails for a while, again and again, as records die all the time.
func TestHandOffOrderUnderRepeatedFailures(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 4)
		w.topic("g-dlq", 2)
		m := w.start(buryAll, kstage.WithTopics(topic), kstage.WithOrdering(kstage.ByPartition))
		for range 10 {
			for p := range int32(4) {
				w.fill(topic, p, 20, 1)
			}
			after(700 * time.Millisecond)
			lift := faultOn(kerr.TopicAuthorizationFailed)(w)
			for p := range int32(4) {
				w.fill(topic, p, 20, 1)
			}
			after(1300 * time.Millisecond)
			lift()
		}
		w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 1600 })
		require.NoError(t, m.stop())
		requireOrder(t, w, 400)
	})
}

// Copies go to their source's partition modulo the target's count, whatever their key.
func TestHandOffPartitions(t *testing.T) {
	t.Parallel()
	for name, provisioning := range map[string]kstage.Provisioning{"looked at": kstage.VerifyTopics, "trusted": kstage.TrustTopics} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				topic := w.topic("orders", 7)
				w.topic("g-dlq", 3)
				for p := range int32(7) {
					w.produce(&kgo.Record{Topic: topic, Partition: p}, record(topic, p, "same", "v"))
				}
				m := w.start(buryAll, kstage.WithTopics(topic), kstage.WithTopicProvisioning(provisioning))
				w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 14 })
				require.NoError(t, m.stop())
				for p, rs := range w.read("g-dlq") {
					for _, r := range rs {
						d, err := kstage.DecodeDeadLetter(r)
						require.NoError(t, err)
						require.Equal(t, d.Origin.Partition%3, p)
					}
				}
			})
		})
	}
}

// The client has room for one record: the others come back, and all arrive. No
// worker waits for room.
func TestHandOffClientIsFull(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(2)
		w.fill(topic, 0, 20, 20)
		w.fill(topic, 1, 20, 20)
		lift := w.silence("g-dlq")
		var handled atomic.Int64
		h := func(ctx context.Context, m kstage.Message) error {
			handled.Add(1)
			return buryAll(ctx, m)
		}
		m := w.start(h, append(opts, kstage.WithWorkers(1), kstage.WithClientOptions(func(r kstage.ClientRole) []kgo.Opt {
			if r == kstage.RoleHandOff {
				return append([]kgo.Opt{kgo.MaxBufferedRecords(1)}, w.reach...)
			}
			return w.reach
		}))...)
		after(5 * time.Second)
		require.EqualValues(t, 40, handled.Load())
		lift()
		w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 40 })
		w.eventually(func() bool { return w.committed(topic, 0) == 20 && w.committed(topic, 1) == 20 })
		require.Empty(t, m.Health().Reasons)
		require.NoError(t, m.stop())
		require.Len(t, w.deadLetters(), 40)
	})
}

// A copy is as new as it is: retention counts from it. When its source was
// written is in a header.
func TestHandOffTimestamps(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		old := time.Date(1999, 12, 31, 23, 59, 59, 5e6, time.UTC)
		r := record(topic, 0, "k", "v")
		r.Timestamp = old
		w.produce(r)
		m := w.start(buryAll, opts...)
		w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 1 })
		require.NoError(t, m.stop())
		d := w.deadLetters()[0]
		require.True(t, old.Equal(d.Origin.Timestamp), d.Origin.Timestamp)
		require.WithinDuration(t, time.Now(), d.Record.Timestamp, time.Minute)
		require.WithinDuration(t, time.Now(), d.LastFailedAt, time.Minute)
	})
}
