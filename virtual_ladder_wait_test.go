//go:build synctests

package kstage_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// moves is a collector that notes when partitions come and go.
type moves struct {
	kstage.Counters

	mu  sync.Mutex // guards all below
	all []assignment
}

// Assigned implements kstage.MetricsCollector.
func (e *moves) Assigned(ev kstage.AssignedEvent) {
	e.Counters.Assigned(ev)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, assignment{ev, time.Now()})
}

// of lists the moves of a topic's partitions, of one kind.
func (e *moves) of(topic string, k kstage.AssignmentKind) (as []assignment) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.all {
		if a.Topic == topic && a.Kind == k {
			as = append(as, a)
		}
	}
	return as
}

// watched starts a member whose moves are noted.
func (w *world) watched(h kstage.HandlerFunc, opts ...kstage.ConsumerOption) (*member, *moves) {
	w.t.Helper()
	e := &moves{}
	m := w.start(h, append(slices.Clip(opts), kstage.WithMetrics(e))...)
	m.counts = &e.Counters
	return m, e
}

// failMain fails on the main topic and takes what comes from a stage.
func failMain(j *journal) kstage.HandlerFunc {
	return func(_ context.Context, m kstage.Message) error {
		if d := j.note(m); d.Attempt == 1 {
			return errNotYet
		}
		return nil
	}
}

// hourLong writes n copies to a partition of the first stage that are due in an hour:
// small ones, so that one fetch has them all in line.
func (w *world) hourLong(partition int32, n int) {
	w.t.Helper()
	due := fmt.Sprint(time.Now().Add(time.Hour).UnixMilli())
	rs := make([]*kgo.Record, n)
	for i := range rs {
		rs[i] = copied(record("g-retry-1", partition, fmt.Sprint(i%10), ""), "kstage-due", due, "kstage-attempt", "1")
	}
	w.produce(rs...)
}

// Nobody waits for the hour: not the end of Run, and not who comes after.
func TestAnHoursWaitDelaysNoShutdown(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(2)
		opts = append(opts, w.stages(2, time.Hour), once())
		began := time.Now()
		w.hourLong(0, 500)
		w.hourLong(1, 500)
		var j journal
		m := w.start(failMain(&j), opts...)
		w.eventually(func() bool { return m.waiting() == 1000 })
		after(10 * time.Minute)
		stopped := time.Now()
		require.NoError(t, m.stop())
		require.Less(t, time.Since(stopped), time.Second)
		require.EqualValues(t, 1000, m.counts.Snapshot().Released)
		m.assertIdentity()
		again := w.start(failMain(&j), opts...)
		w.everySecond(2*time.Hour, func() bool { return again.counts.Snapshot().Processed == 1000 })
		require.WithinDuration(t, began.Add(time.Hour), time.Now(), 2*time.Second)
		require.NoError(t, again.stop())
		again.assertIdentity()
		require.Len(t, j.all(), 1000)
		for _, d := range j.all() {
			require.Equal(t, 2, d.Attempt)
			require.GreaterOrEqual(t, d.At.Sub(began), time.Hour)
		}
	})
}

// A second member has its share of both groups as soon as without the records that wait.
func TestAnHoursWaitDelaysNoRebalance(t *testing.T) {
	t.Parallel()
	took := map[bool]time.Duration{}
	for _, waits := range []bool{false, true} {
		virtual(t, func(w *world) {
			t := w.t
			topic, opts := w.ladder(2)
			opts = append(opts, w.stages(2, time.Hour), once())
			if waits {
				w.hourLong(0, 500)
				w.hourLong(1, 500)
			}
			var j journal
			first, _ := w.watched(failMain(&j), opts...)
			after(10 * time.Minute)
			require.Equal(t, waits, first.waiting() == 1000)
			second, e := w.watched(failMain(&j), opts...)
			began := time.Now()
			w.eventually(func() bool {
				return len(e.of(topic, kstage.PartitionsAssigned)) == 1 && len(e.of("g-retry-1", kstage.PartitionsAssigned)) == 1
			})
			took[waits] = time.Since(began)
			w.eventually(func() bool { return !waits || second.waiting() == 500 && first.waiting() == 500 })
			require.NoError(t, second.stop())
			require.NoError(t, first.stop())
			first.assertIdentity()
			second.assertIdentity()
		})
	}
	require.InDelta(t, took[false], took[true], float64(100*time.Millisecond))
	require.Less(t, took[true], 10*time.Second)
}

// Main records, and those of a shorter stage, are handled as if nothing waited.
func TestAnHoursWaitDelaysNoOtherRecord(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		var mu sync.Mutex
		var lags, late []time.Duration
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case string(msg.Value()) == "long":
				return kstage.RetryAfter(errNotYet, time.Hour)
			case msg.Attempt() == 1:
				lags = append(lags, time.Since(msg.Record.Timestamp))
				return errNotYet
			}
			late = append(late, time.Since(msg.Record.Timestamp)-5*time.Second)
			return nil
		}, append(opts, w.stages(1, 5*time.Second, time.Hour), once())...)
		for range 100 {
			w.produce(record(topic, 0, "long", "long"))
		}
		w.eventually(func() bool { return m.stat("g-retry-2", 0).Waiting > 0 })
		for range 50 {
			w.produce(record(topic, 0, "k", "short"))
			after(10 * time.Second)
		}
		require.Len(t, lags, 50)
		require.Len(t, late, 50)
		require.Less(t, slices.Max(lags), 50*time.Millisecond)
		require.Less(t, slices.Max(late), 300*time.Millisecond)
		require.Equal(t, []string{"delay"}, m.stat("g-retry-2", 0).Paused)
		require.Positive(t, m.stat("g-retry-2", 0).Waiting)
		require.NoError(t, m.stop())
		m.assertIdentity()
	})
}

// What becomes due while its partition goes, or while Run ends, does not start.
func TestNothingOfTheLineStartsBehindTheFence(t *testing.T) {
	t.Parallel()
	t.Run("shutdown", func(t *testing.T) {
		t.Parallel()
		virtual(t, func(w *world) {
			t := w.t
			topic, opts := w.ladder(1)
			opts = append(opts, w.stages(1, 5*time.Second), once())
			var j journal
			m := w.start(func(_ context.Context, msg kstage.Message) error {
				d := j.note(msg)
				switch {
				case string(msg.Value()) == "slow":
					after(15 * time.Second)
				case d.Attempt == 1:
					return errNotYet
				}
				return nil
			}, opts...)
			for range 5 {
				w.produce(record(topic, 0, "k", "v"))
				after(time.Second)
			}
			w.produce(record(topic, 0, "slow", "slow"))
			after(time.Second)
			require.Positive(t, m.waiting())
			began := time.Now()
			require.NoError(t, m.stop(), "the slow one may end")
			require.Greater(t, time.Since(began), 10*time.Second)
			for _, d := range j.all() {
				require.False(t, d.At.After(began), "%v starts after %v", d, began)
			}
			m.assertIdentity()
			require.Positive(t, m.counts.Snapshot().Released)
		})
	})
	t.Run("revocation", func(t *testing.T) {
		t.Parallel()
		virtual(t, func(w *world) {
			t := w.t
			_, opts := w.ladder(2)
			opts = append(opts, w.stages(2, 5*time.Minute), once())
			for p := range int32(2) {
				w.produce(record("g-retry-1", p, "slow", "slow"))
				for i := range 60 {
					due := time.Now().Add(time.Duration(i) * time.Second).UnixMilli()
					w.produce(copied(record("g-retry-1", p, fmt.Sprint(i), "v"), "kstage-due", fmt.Sprint(due)))
				}
			}
			var first, second journal
			slow := func(j *journal) kstage.HandlerFunc {
				return func(_ context.Context, msg kstage.Message) error {
					j.note(msg)
					if string(msg.Value()) == "slow" {
						after(25 * time.Second)
					}
					return nil
				}
			}
			m, e := w.watched(slow(&first), append(opts, kstage.WithRevokeDrain(20*time.Second))...)
			w.eventually(func() bool { return first.len() > 4 })
			m2, _ := w.watched(slow(&second), opts...)
			w.eventually(func() bool { return len(e.of("g-retry-1", kstage.PartitionsRevoked)) == 1 })
			went := e.of("g-retry-1", kstage.PartitionsRevoked)[0]
			began := went.at.Add(-went.Drain)
			require.Greater(t, went.Drain, 10*time.Second)
			require.Len(t, went.Partitions, 1)
			for _, d := range first.all() {
				if d.Topic == "g-retry-1" && d.Partition == went.Partitions[0] {
					require.False(t, d.At.After(began), "%v starts after %v", d, began)
				}
			}
			w.eventually(func() bool { return m.counts.Snapshot().Processed+m2.counts.Snapshot().Processed >= 122 })
			require.NoError(t, m2.stop())
			require.NoError(t, m.stop())
			m.assertIdentity()
			m2.assertIdentity()
		})
	})
}

// A group that never was begins at the end of its main topic, but at the start of its
// retry topics: the first failure is written before it has looked at them.
func TestTheFirstFailureOfANewGroupIsRetried(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		opts = append(opts, w.stages(1, 5*time.Second), once(), kstage.WithStartOffset(kstage.Latest))
		w.fill(topic, 0, 3, 1)
		written := false
		w.control(kmsg.JoinGroup, func(req kmsg.Request) (kmsg.Response, error, bool) {
			if req.(*kmsg.JoinGroupRequest).Group != "g-retry" || written {
				return nil, nil, false
			}
			resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
			resp.ErrorCode = kerr.CoordinatorLoadInProgress.Code
			return resp, nil, true
		})
		var j journal
		m := w.start(failMain(&j), opts...)
		w.eventually(func() bool { return len(m.Stats().Partitions) == 1 })
		after(time.Second) // it has asked where the end is
		w.produce(record(topic, 0, "k", "first"))
		w.eventually(func() bool { return m.counts.Snapshot().Retried == 1 })
		require.Len(t, m.Stats().Partitions, 1, "the retry group has not begun")
		written = true
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 1 })
		require.Len(t, j.all(), 2)
		require.EqualValues(t, 3, j.all()[0].Offset)
		require.NoError(t, m.stop())
		m.assertIdentity()
	})
}

// The retry group's offsets have expired while nobody ran: what waits is retried,
// and what was finished before is handled again rather than anything lost.
func TestAFailureSurvivesThatTheRetryGroupsOffsetsExpire(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		opts = append(opts, w.stages(1, time.Minute), once(), kstage.WithStartOffset(kstage.Latest))
		var j journal
		m := w.start(failMain(&j), opts...)
		w.eventually(func() bool { return len(m.Stats().Partitions) == 2 })
		after(time.Second)
		w.produce(record(topic, 0, "k", "before"))
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 1 })
		w.produce(record(topic, 0, "k", "waits"))
		w.eventually(func() bool { return m.waiting() == 1 })
		require.NoError(t, m.stop())
		m.assertIdentity()
		_, err := w.adm.DeleteGroups(t.Context(), "g-retry")
		require.NoError(t, err)
		again := w.start(failMain(&j), opts...)
		w.eventually(func() bool { return again.counts.Snapshot().Processed == 2 })
		require.NoError(t, again.stop())
		again.assertIdentity()
		retried := map[int64]int{}
		for _, d := range j.all() {
			if d.Topic == "g-retry-1" {
				retried[d.Offset]++
			}
		}
		require.Equal(t, map[int64]int{0: 2, 1: 1}, retried)
	})
}

// A user's client option cannot make the retry topics begin at their end.
func TestTheRetryIntakeBeginsAtTheStartWhateverTheUserSays(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		opts = append(opts, w.stages(1, 5*time.Second), kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt {
			return append([]kgo.Opt{kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()), kgo.ConsumeStartOffset(kgo.NewOffset().AtEnd())}, w.reach...)
		}))
		w.produce(record("g-retry-1", 0, "k", "v"))
		var j journal
		m := w.start(func(_ context.Context, msg kstage.Message) error { j.note(msg); return nil }, opts...)
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 1 })
		require.NoError(t, m.stop())
		m.assertIdentity()
	})
}
