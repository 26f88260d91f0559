//go:build synctests

package kstage_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kstage/kstage"
)

// linesAbout are the log lines about one record.
func (w *world) linesAbout(topic string, offset int64) (lines []observer.LoggedEntry) {
	for _, e := range w.logs.All() {
		if f := e.ContextMap(); f["topic"] == topic && f["offset"] == offset {
			lines = append(lines, e)
		}
	}
	return lines
}

// Drop finishes the record, and says where it was.
func TestVirtualWithoutDLQDrop(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.values(topic, "k", "ok", "permanent", "error", "ok")
		events := &eventLog{}
		m := w.start(obey, append(opts, kstage.WithoutDLQ(kstage.Drop), kstage.WithMetrics(events))...)
		w.awaitCommit(topic, 4)
		require.NoError(w.t, m.stop())
		require.Empty(w.t, w.read(w.name("g-dlq")))
		for offset, reason := range map[int64]kstage.Reason{1: kstage.ReasonPermanent, 2: kstage.ReasonExhausted} {
			lines := w.linesAbout(topic, offset)
			require.Len(w.t, lines, 1)
			require.Equal(w.t, zapcore.ErrorLevel, lines[0].Level)
			f := lines[0].ContextMap()
			require.Equal(w.t, "dropped", f["outcome"])
			require.EqualValues(w.t, 0, f["partition"])
			require.EqualValues(w.t, reason, f["reason"])
		}
		require.Empty(w.t, w.linesAbout(topic, 0), "what concerns one record is logged at debug")
		var dropped []kstage.HandledEvent
		for _, e := range events.handled() {
			if e.Outcome == kstage.OutcomeDropped {
				dropped = append(dropped, e)
			}
		}
		require.Len(w.t, dropped, 2)
		require.Equal(w.t, kstage.ReasonPermanent, dropped[0].Reason)
		require.ErrorIs(w.t, dropped[0].Err, errPure)
		s := events.Snapshot()
		require.EqualValues(w.t, 2, s.Dropped)
		requireIdentity(w.t, s)
	})
}

// Block keeps the record, and its key waiting: the handler is called after 1 s
// doubling to 1 m, less jitter, and none of it counts as an attempt.
func TestVirtualWithoutDLQBlock(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.values(topic, "k", "ok", "blocked", "behind")
		w.values(topic, "other", "ok", "ok")
		var j journal
		var cured atomic.Bool
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			if string(msg.Value()) == "blocked" && !cured.Load() {
				j.note(msg)
				return errPure
			}
			return nil
		}, append(opts, kstage.WithoutDLQ(kstage.Block), kstage.WithImmediateRetries(1, kstage.Backoff{Min: 1, Max: 1}))...)
		after(7 * time.Minute) // more than WithStuckAfter, too

		calls := j.all()
		require.Greater(w.t, len(calls), 11)
		require.Equal(w.t, 1, calls[0].Attempt)
		limit := time.Second
		gaps := map[time.Duration]bool{}
		for n := 2; n < len(calls); n++ {
			require.Equal(w.t, 2, calls[n].Attempt, "calls of a blocked record are no attempts")
			gap := calls[n].At.Sub(calls[n-1].At)
			require.GreaterOrEqual(w.t, gap, limit/2)
			require.LessOrEqual(w.t, gap, limit)
			gaps[gap] = true
			limit = min(2*limit, time.Minute)
		}
		require.Greater(w.t, len(gaps), 8, "jitter")
		require.EqualValues(w.t, 1, w.committed(topic, 0), "nothing past it is committed")
		require.EqualValues(w.t, 3, m.counts.Snapshot().Processed, "other keys go on, its own waits")

		r, ok := m.reason(kstage.HealthStuckRecord)
		require.True(w.t, ok)
		require.Equal(w.t, topic, r.Topic)
		require.EqualValues(w.t, 1, r.Offset)
		require.ErrorIs(w.t, r.Err, errPure, "and why, also when it is the oldest for long")
		require.WithinDuration(w.t, calls[1].At, r.Since, time.Second)
		require.True(w.t, m.Health().Ready)
		lines := w.linesAbout(topic, 1)
		require.Len(w.t, lines, 1, "said once")
		require.Equal(w.t, zapcore.ErrorLevel, lines[0].Level)

		cured.Store(true)
		w.awaitCommit(topic, 5)
		_, ok = m.reason(kstage.HealthStuckRecord)
		require.False(w.t, ok)
		require.NoError(w.t, m.stop())
		require.Empty(w.t, w.read(w.name("g-dlq")))
		m.assertIdentity()
	})
}

// A blocked record that the handler takes at last is no news any more, at once.
func TestVirtualBlockEnds(t *testing.T) {
	t.Parallel()
	for _, end := range []error{nil, kstage.Skip(errPure)} {
		t.Run(fmt.Sprint(end), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic, opts := w.ladder(1)
				w.values(topic, "k", "blocked", "behind")
				var calls atomic.Int32
				m := w.start(func(_ context.Context, msg kstage.Message) error {
					switch {
					case string(msg.Value()) == "behind":
						return nil
					case calls.Add(1) < 4:
						return kstage.Permanent(errPure)
					}
					return end
				}, append(opts, kstage.WithoutDLQ(kstage.Block))...)
				w.eventually(func() bool { _, ok := m.reason(kstage.HealthStuckRecord); return ok })
				w.awaitCommit(topic, 2)
				_, ok := m.reason(kstage.HealthStuckRecord)
				require.False(w.t, ok)
				require.NoError(w.t, m.stop())
				m.assertIdentity()
			})
		})
	}
}

// Skip finishes a blocked record, and only what waits: its key goes on.
func TestVirtualSkip(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.values(topic, "k", "ok", "permanent", "ok")
		w.values(topic, "parked", "flaky")
		w.values(topic, "running", "hold")
		hold := make(chan struct{})
		m := w.start(func(ctx context.Context, msg kstage.Message) error {
			if string(msg.Value()) == "hold" {
				select {
				case <-hold:
				case <-ctx.Done():
				}
			}
			return obey(ctx, msg)
		}, append(opts, kstage.WithoutDLQ(kstage.Block), kstage.WithImmediateRetries(2, kstage.Backoff{Min: 1_000_000 * time.Hour, Max: 1_000_000 * time.Hour}))...)
		w.eventually(func() bool { _, ok := m.reason(kstage.HealthStuckRecord); return ok && m.counts.Snapshot().Failed == 2 })
		after(100 * time.Millisecond)

		for name, co := range map[string]kstage.Coordinates{
			"finished": {Topic: topic}, "running": {Topic: topic, Offset: 4}, "behind its key": {Topic: topic, Offset: 2},
			"not there": {Topic: topic, Offset: 99}, "of another partition": {Topic: topic, Partition: 7}, "of another topic": {Topic: "x"},
		} {
			require.ErrorIs(w.t, m.Skip(co.Topic, co.Partition, co.Offset), kstage.ErrNotParked, name)
		}
		require.NoError(w.t, m.Skip(topic, 0, 1), "blocked")
		require.NoError(w.t, m.Skip(topic, 0, 3), "waiting for an immediate retry")
		require.ErrorIs(w.t, m.Skip(topic, 0, 1), kstage.ErrNotParked, "it is finished")
		_, ok := m.reason(kstage.HealthStuckRecord)
		require.False(w.t, ok)
		w.awaitCommit(topic, 4)
		for _, offset := range []int64{1, 3} {
			lines := w.linesAbout(topic, offset)
			require.Equal(w.t, "skipped", lines[len(lines)-1].ContextMap()["outcome"])
		}
		close(hold)
		w.awaitCommit(topic, 5)
		require.NoError(w.t, m.stop())
		s := m.counts.Snapshot()
		require.EqualValues(w.t, 2, s.Skipped)
		require.EqualValues(w.t, 3, s.Processed)
		m.assertIdentity()
		require.ErrorIs(w.t, m.Skip(topic, 0, 1), kstage.ErrNotParked, "after Run")
	})
}

// Stop ends Run with the record's coordinates: nothing new starts, running handlers
// end, what is finished is committed, and a restart meets the record again.
func TestVirtualWithoutDLQStop(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.values(topic, "slow", "slow")
		w.values(topic, "k", "ok", "flaky", "permanent", "ok")
		w.values(topic, "slow", "behind")
		opts = append(opts, kstage.WithoutDLQ(kstage.Stop))
		var j journal
		m := w.start(func(ctx context.Context, msg kstage.Message) error {
			j.note(msg)
			if string(msg.Value()) == "slow" {
				after(5 * time.Second)
				return ctx.Err()
			}
			return obey(ctx, msg)
		}, opts...)
		err := m.wait()
		var se *kstage.StoppedError
		require.ErrorAs(w.t, err, &se)
		require.Equal(w.t, kstage.Coordinates{Topic: topic, Offset: 3}, se.Coordinates)
		require.ErrorIs(w.t, err, errPure)
		require.True(w.t, kstage.IsPermanent(err))
		require.EqualValues(w.t, 3, w.committed(topic, 0), "what is finished, the slow one included")
		require.Equal(w.t, map[int64]int{0: 1, 1: 1, 2: 3, 3: 1}, j.times(0), "nothing new starts")
		require.False(w.t, m.Health().Live)
		require.ErrorIs(w.t, m.Run(w.t.Context()), kstage.ErrAlreadyRun)
		lines := w.linesAbout(topic, 3)
		require.Len(w.t, lines, 1)
		require.Equal(w.t, zapcore.ErrorLevel, lines[0].Level)
		m.assertIdentity()

		var again journal
		m2 := w.start(func(_ context.Context, msg kstage.Message) error {
			again.note(msg)
			return nil
		}, opts...)
		w.awaitCommit(topic, 6)
		require.NoError(w.t, m2.stop())
		first := again.all()[0]
		require.EqualValues(w.t, 3, first.Offset)
		require.Equal(w.t, 1, first.Attempt)
		require.Empty(w.t, w.read(w.name("g-dlq")))
		m2.assertIdentity()
	})
}

// Where several records die under Stop, Run tells of the first and counts each once.
func TestVirtualStopOfManyAtOnce(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		for _, k := range []string{"a", "b", "c", "d"} {
			w.values(topic, k, "error", "ok")
		}
		m := w.start(obey, append(opts, kstage.WithoutDLQ(kstage.Stop), kstage.WithImmediateRetries(1, kstage.Backoff{Min: time.Nanosecond, Max: time.Nanosecond}))...)
		var se *kstage.StoppedError
		require.ErrorAs(w.t, m.wait(), &se)
		require.EqualValues(w.t, 0, max(0, w.committedOr(topic)))
		m.assertIdentity()
	})
}

// committedOr is the group's offset of partition 0; -1 where it has none or does not exist.
func (w *world) committedOr(topic string) int64 {
	os, err := w.adm.FetchOffsets(w.t.Context(), w.name("g"))
	if o, ok := os.Lookup(topic, 0); err == nil && ok {
		return o.At
	}
	return -1
}
