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
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// failsAtMain is a handler that fails for good in no stage, and once at the main topic.
func failsAtMain(j *journal) kstage.HandlerFunc {
	return func(_ context.Context, m kstage.Message) error {
		if j.note(m); m.Stage() == 0 {
			return errNotYet
		}
		return nil
	}
}

// silencePartition swallows what is written to one partition of a topic.
func silencePartition(topic string, partition int32) func(w *world) (lift func()) {
	return func(w *world) func() {
		id := w.topicID(topic)
		var silent atomic.Bool
		silent.Store(true)
		w.control(kmsg.Produce, func(req kmsg.Request) (kmsg.Response, error, bool) {
			for _, t := range req.(*kmsg.ProduceRequest).Topics {
				if t.Topic != topic && t.TopicID != id {
					continue
				}
				for _, p := range t.Partitions {
					if p.Partition == partition {
						return nil, nil, silent.Load()
					}
				}
			}
			return nil, nil, false
		})
		return func() { silent.Store(false) }
	}
}

func faultOnPartition(topic string, partition int32, err *kerr.Error) func(w *world) (lift func()) {
	return func(w *world) func() {
		return w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Partitions: []int32{partition}, Err: err, Count: -1}).Remove
	}
}

// A hundred partitions fail, and one partition of their stage cannot be written: the
// other 99 flow at once, the records of the one keep their order, and Health says
// which.
func TestStagesOneOfAHundredTargetsIsBroken(t *testing.T) {
	t.Parallel()
	const broken = 37
	for name, c := range map[string]struct {
		fail func(w *world) (lift func())
		soon time.Duration // the others flow within
	}{
		"not enough replicas": {faultOnPartition("g-retry-1", broken, kerr.NotEnoughReplicas), time.Second},
		// the client begins a new epoch then, and may look at the metadata first: not more often than each 5 s
		"refused at once": {faultOnPartition("g-retry-1", broken, kerr.TopicAuthorizationFailed), 6 * time.Second},
		"never answered":  {silencePartition("g-retry-1", broken), time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) { breakOneTarget(w, broken, c.soon, c.fail) }, threeBrokers()...)
		})
	}
}

func breakOneTarget(w *world, broken int32, soon time.Duration, fail func(w *world) (lift func())) {
	const partitions, rounds, each = 100, 4, 3
	t := w.t
	topic, opts := w.ladder(partitions)
	var j journal
	opts = append(opts, w.stages(partitions, 5*time.Second), once(), kstage.WithOrdering(kstage.ByPartition))
	for p := range int32(partitions) { // alone with its leader: a request holds many partitions, and all wait for its answer
		node := p % 2
		if p == broken {
			node = 2
		}
		require.NoError(t, w.fake.MoveTopicPartition("g-retry-1", p, node))
	}
	lift := fail(w)
	m := w.start(failsAtMain(&j), opts...)
	w.eventually(func() bool { return m.Health().Ready })
	began := time.Now()
	for i := range rounds {
		for p := range int32(partitions) {
			w.fill(topic, p, each, 1)
		}
		want := uint64((i + 1) * each * (partitions - 1))
		w.within(soon, func() bool { return m.counts.Snapshot().Retried == want })
		after(20 * time.Second)
	}
	r, ok := m.reason(kstage.HealthHandOffFailing)
	require.True(t, ok)
	require.Equal(t, kstage.Coordinates{Topic: "g-retry-1", Partition: broken}, kstage.Coordinates{Topic: r.Topic, Partition: r.Partition})
	require.WithinDuration(t, began, r.Since, 45*time.Second)
	require.Error(t, r.Err)
	require.False(t, m.Health().Ready)
	require.EqualValues(t, -1, w.committed(topic, broken))
	require.EqualValues(t, rounds*each, w.committed(topic, broken-1))

	lift()
	w.eventually(func() bool { return m.counts.Snapshot().Processed == partitions*rounds*each })
	require.Empty(t, m.Health().Reasons)
	require.NoError(t, m.stop())
	m.assertIdentity()
	require.EqualValues(t, partitions*rounds*each, m.counts.Snapshot().Retried)
	requireSourceOrder(w, "g-retry-1", partitions, rounds*each)
}

// requireSourceOrder checks that the copies of each source lie in its order in the
// target's partition for it: of some more than once, where an answer was lost.
func requireSourceOrder(w *world, target string, partitions int32, each int) {
	t := w.t
	t.Helper()
	last := map[int32]int64{}
	for p, rs := range w.read(target) {
		for _, r := range rs {
			co := firstRead(r)
			require.Equal(t, co.Partition%partitions, p)
			next, seen := last[co.Partition]
			if seen {
				next++
			}
			require.LessOrEqual(t, co.Offset, next, "partition %d: a copy was overtaken", co.Partition)
			last[co.Partition] = max(next-1, co.Offset)
		}
	}
	require.Len(t, last, int(partitions))
	for p, o := range last {
		require.EqualValues(t, each-1, o, "partition %d", p)
	}
}

// A copy is written, and the process is gone before its record is committed: the
// record is met again and may have a second copy, with the same id. It is not lost.
func TestStagesCrashBetweenTheCopyAndTheCommit(t *testing.T) {
	t.Parallel()
	for name, group := range map[string]string{"of the main topic": "g", "of a stage": "g-retry"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wired(t, nil, func(w *world, n *wires) { crashBeforeTheCommit(w, n, group) })
		})
	}
}

func crashBeforeTheCommit(w *world, n *wires, group string) {
	const records = 30
	t := w.t
	topic, opts := w.ladder(2)
	opts = append(opts, w.stages(2, time.Second, 3*time.Second), once())
	w.fill(topic, 0, records, 7)
	w.fill(topic, 1, records, 7)
	commits := w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: group, Err: kerr.CoordinatorLoadInProgress, Count: -1})
	var j journal
	handle := func(_ context.Context, msg kstage.Message) error {
		if j.note(msg); msg.Stage() < 2 {
			return errNotYet
		}
		return nil
	}
	first := w.start(handle, append(opts, over(n), kstage.WithShutdownTimeout(0, time.Second))...)
	w.eventually(func() bool { return first.counts.Snapshot().Retried == 2*2*records })
	n.setCut(everything)
	require.Error(t, first.stop(), "it could not commit")
	n.setCut(nil)
	commits.Remove()
	first.assertIdentity()

	second := w.start(handle, append(opts, over(n))...)
	after(time.Minute) // the first could not leave its groups: its session has to run out
	w.eventually(func() bool {
		s := second.counts.Snapshot()
		return w.committed(topic, 0) == records && w.committed(topic, 1) == records && s.Received > 0 && w.waitingFor(second) == 0 && w.lag("g-retry", "g-retry-1", "g-retry-2") == 0
	})
	require.NoError(t, second.stop())
	second.assertIdentity()

	stage := map[string]string{"g": "g-retry-1", "g-retry": "g-retry-2"}[group]
	copies, ids := 0, map[kstage.Coordinates]map[string]bool{}
	for _, rs := range w.read(stage) {
		for _, r := range rs {
			co := firstRead(r)
			if ids[co] == nil {
				ids[co] = map[string]bool{}
			}
			ids[co][facts(r)["id"]+" "+facts(r)["copy-id"]] = true
			copies++
		}
	}
	require.Len(t, ids, 2*records, "none is lost")
	require.Equal(t, 2*2*records, copies, "all were written twice: nothing was committed")
	for co, of := range ids {
		require.Len(t, of, 1, "both copies of %v have the same ids", co)
	}
	done := map[kstage.Coordinates]bool{}
	for p, rs := range w.read("g-retry-2") {
		require.EqualValues(t, len(rs), w.committedBy("g-retry", "g-retry-2", p))
		for _, r := range rs {
			done[firstRead(r)] = true
		}
	}
	require.Len(t, done, 2*records, "each went through the last stage")
}

// lag sums what a group has not committed of some topics.
func (w *world) lag(group string, topics ...string) (n int64) {
	w.t.Helper()
	ends, err := w.adm.ListEndOffsets(w.t.Context(), topics...)
	require.NoError(w.t, err)
	os, err := w.adm.FetchOffsets(w.t.Context(), group)
	require.NoError(w.t, err)
	for topic, ps := range ends {
		for p, e := range ps {
			at := int64(0)
			if o, ok := os.Lookup(topic, p); ok {
				at = max(at, o.At)
			}
			n += e.Offset - at
		}
	}
	return n
}

// What one source sends through a stage arrives in its order, however often the
// stage fails in between, and while it is met by more.
func TestStagesKeepTheOrderOfASource(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 4)
		w.topic("g-dlq", 1)
		var j journal
		m := w.start(failsAtMain(&j), kstage.WithTopics(topic), w.stages(2, time.Second), once(), kstage.WithOrdering(kstage.ByPartition))
		for i := range 8 {
			for p := range int32(4) {
				w.fill(topic, p, 20, 1)
			}
			after(700 * time.Millisecond)
			lift := faultOnPartition("g-retry-1", int32(i%2), kerr.TopicAuthorizationFailed)(w)
			for p := range int32(4) {
				w.fill(topic, p, 20, 1)
			}
			after(1300 * time.Millisecond)
			lift()
		}
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 4*8*40 })
		require.NoError(t, m.stop())
		m.assertIdentity()
		next := map[int32]int64{}
		for p, rs := range w.read("g-retry-1") {
			for _, r := range rs {
				co := firstRead(r)
				require.Equal(t, co.Partition%2, p)
				require.Equal(t, next[co.Partition], co.Offset, "partition %d", co.Partition)
				next[co.Partition]++
			}
		}
	})
}

// A stage takes no copies while the other, and the dead-letter topic, do.
func TestStagesFailOnTheirOwn(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		var mu sync.Mutex
		seen := map[int64]int{}
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			mu.Lock()
			defer mu.Unlock()
			seen[msg.Origin().Offset]++
			switch o := msg.Origin().Offset; {
			case o%3 == 0:
				return kstage.Permanent(errNotYet)
			case o%3 == 1 && msg.Stage() == 0:
				return kstage.RetryAfter(errNotYet, 3*time.Second) // past the first stage
			case msg.Stage() == 0:
				return errNotYet
			}
			return nil
		}, append(opts, w.stages(1, time.Second, 5*time.Second), once())...)
		lift := w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "g-retry-1", Err: kerr.NotEnoughReplicas, Count: -1}).Remove
		w.fill(topic, 0, 30, 30)
		after(time.Minute)
		s := m.counts.Snapshot()
		require.EqualValues(t, 10, s.SentToDLQ)
		require.EqualValues(t, 10, s.Retried)
		require.EqualValues(t, 10, s.Processed, "through the second stage")
		require.EqualValues(t, 2, w.committed(topic, 0), "up to the first that has nowhere to go")
		var failing []string
		for _, r := range m.Health().Reasons {
			failing = append(failing, fmt.Sprint(r.Kind, " ", r.Topic, "/", r.Partition))
		}
		require.Equal(t, []string{"hand-off-failing g-retry-1/0"}, failing)
		lift()
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 20 })
		w.eventually(func() bool { return w.committed(topic, 0) == 30 })
		require.Empty(t, m.Health().Reasons)
		require.NoError(t, m.stop())
		m.assertIdentity()
	})
}
