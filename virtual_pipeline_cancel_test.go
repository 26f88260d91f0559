//go:build synctests

package kstage_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// cancellations are the states in which a shutdown or a revocation may meet a
// record of key k. The handler gets the record's attempt in that process.
var cancellations = []struct {
	name    string
	opts    []kstage.ConsumerOption
	handle  func(ctx context.Context) error // at the attempt that is cancelled
	attempt int                             // which that is; the ones before fail
	causes  bool                            // the cancelled call sees the cause
}{
	{name: "running its first attempt", attempt: 1, causes: true, handle: untilDone},
	{name: "running a retry", attempt: 2, causes: true, handle: untilDone},
	{name: "parked", attempt: 2, opts: []kstage.ConsumerOption{kstage.WithImmediateRetries(1, kstage.Backoff{Min: 1_000_000 * time.Hour, Max: 1_000_000 * time.Hour})}},
	{name: "blocked", attempt: 3, opts: []kstage.ConsumerOption{kstage.WithoutDLQ(kstage.Block), kstage.WithImmediateRetries(1, kstage.Backoff{Min: 1, Max: 1})}},
	{name: "running while it blocks", attempt: 3, causes: true, handle: untilDone, opts: []kstage.ConsumerOption{kstage.WithoutDLQ(kstage.Block), kstage.WithImmediateRetries(1, kstage.Backoff{Min: 1, Max: 1})}},
	{name: "under a timeout", attempt: 1, causes: true, handle: untilDone, opts: []kstage.ConsumerOption{kstage.WithHandlerTimeout(time.Hour)}},
	{name: "after its timeout", attempt: 1, handle: overrun, opts: []kstage.ConsumerOption{kstage.WithHandlerTimeout(time.Second)}},
	{name: "a permanent error after it", attempt: 1, causes: true, handle: func(ctx context.Context) error {
		return kstage.Permanent(untilDone(ctx))
	}},
	{name: "a skip after it", attempt: 1, causes: true, handle: func(ctx context.Context) error {
		return kstage.Skip(untilDone(ctx))
	}},
	{name: "a panic after it", attempt: 1, causes: true, handle: func(ctx context.Context) error {
		panic(untilDone(ctx))
	}},
	{name: "a permanent error after it, and nobody to bury", attempt: 1, causes: true, opts: []kstage.ConsumerOption{kstage.WithoutDLQ(kstage.Drop)}, handle: func(ctx context.Context) error {
		return kstage.Permanent(untilDone(ctx))
	}},
	{name: "a permanent error after it, that would stop", attempt: 1, causes: true, opts: []kstage.ConsumerOption{kstage.WithoutDLQ(kstage.Stop)}, handle: func(ctx context.Context) error {
		return kstage.Permanent(untilDone(ctx))
	}},
}

func untilDone(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// overrun ignores its timeout and returns after the shutdown's soft limit.
func overrun(context.Context) error {
	after(12 * time.Second)
	return errPure
}

// A cancellation costs no attempt and has no effect, whatever the record was at:
// the next owner meets it as if nothing had been.
func TestVirtualCancellationIsNoFailure(t *testing.T) {
	t.Parallel()
	for _, tt := range cancellations {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic, opts := w.ladder(1)
				w.values(topic, "k", "cancelled")
				w.values(topic, "other", "ok", "ok")
				var calls atomic.Int32
				var cause atomic.Value
				m := w.start(func(ctx context.Context, msg kstage.Message) error {
					if string(msg.Key()) != "k" {
						return nil
					}
					if n := int(calls.Add(1)); n < tt.attempt || tt.handle == nil {
						return errPure
					}
					defer func() {
						if c := context.Cause(ctx); c != nil {
							cause.Store(c)
						}
					}()
					return tt.handle(ctx)
				}, append(append(opts, kstage.WithShutdownTimeout(time.Second, 20*time.Second), kstage.WithImmediateRetries(5, kstage.Backoff{Min: 1, Max: 1})), tt.opts...)...)
				w.eventually(func() bool { return m.counts.Snapshot().Processed == 2 })
				after(10 * time.Second)
				require.NoError(w.t, m.stop(), "what was cancelled has returned")
				if tt.causes {
					require.ErrorIs(w.t, cause.Load().(error), kstage.ErrShutdown)
				}
				require.Less(w.t, w.committedOr(topic), int64(1))
				require.Empty(w.t, w.read(w.name("g-dlq")))
				s := m.counts.Snapshot()
				require.EqualValues(w.t, 2, s.Processed)
				require.Zero(w.t, s.Skipped+s.Dropped)
				m.assertIdentity()
				_, stuck := m.reason(kstage.HealthStuckRecord)
				require.False(w.t, stuck)

				var j journal
				m2 := w.start(func(_ context.Context, msg kstage.Message) error {
					j.note(msg)
					_, failed := msg.FirstFailedAt()
					require.False(w.t, failed)
					return nil
				}, opts...)
				w.awaitCommit(topic, 3)
				require.NoError(w.t, m2.stop())
				require.Equal(w.t, 1, j.all()[0].Attempt)
				require.Equal(w.t, 1, j.times(0)[0])
				m2.assertIdentity()
			})
		})
	}
}

// A nil ends the record also after the cancellation, at whatever attempt.
func TestVirtualNilAfterCancellationCounts(t *testing.T) {
	t.Parallel()
	for _, attempt := range []int32{1, 2} {
		t.Run(fmt.Sprint(attempt), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic, opts := w.ladder(1)
				w.values(topic, "k", "x", "behind")
				var calls atomic.Int32
				m := w.start(func(ctx context.Context, _ kstage.Message) error {
					if calls.Add(1) < attempt {
						return errPure
					}
					<-ctx.Done()
					return nil
				}, append(opts, kstage.WithShutdownTimeout(time.Second, 5*time.Second))...)
				w.eventually(func() bool { return calls.Load() == attempt })
				require.NoError(w.t, m.stop())
				require.EqualValues(w.t, 1, w.committedOr(topic))
				s := m.counts.Snapshot()
				require.EqualValues(w.t, 1, s.Processed)
				require.EqualValues(w.t, 1, s.Released)
				m.assertIdentity()
			})
		})
	}
}

// What runs at the shutdown may end within the soft limit as ever: no cancel comes.
func TestVirtualShutdownLetsHandlersEnd(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.values(topic, "k", "permanent", "ok")
		var calls atomic.Int32
		m := w.start(func(ctx context.Context, msg kstage.Message) error {
			calls.Add(1)
			after(20 * time.Second)
			require.NoError(w.t, ctx.Err())
			return obey(ctx, msg)
		}, opts...)
		w.eventually(func() bool { return calls.Load() == 1 })
		start := time.Now()
		require.NoError(w.t, m.stop())
		require.Less(w.t, time.Since(start), 21*time.Second)
		require.EqualValues(w.t, 1, w.committedOr(topic))
		require.Len(w.t, w.deadLetters(), 1)
		require.EqualValues(w.t, 1, calls.Load(), "nothing new starts")
		m.assertIdentity()
	})
}

// Revocation is told as such, and costs no attempt.
func TestVirtualRevocationIsNoFailure(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(2)
		for p := range int32(2) {
			w.produce(record(topic, p, "k", "x"))
		}
		opts = append(opts, kstage.WithRevokeDrain(2*time.Second))
		var revoked atomic.Int32
		var started atomic.Int32
		m := w.start(func(ctx context.Context, _ kstage.Message) error {
			started.Add(1)
			<-ctx.Done()
			if context.Cause(ctx) == kstage.ErrRevoked { //nolint:errorlint // it comes as it is
				revoked.Add(1)
			}
			return kstage.Permanent(ctx.Err())
		}, append(opts, kstage.WithShutdownTimeout(0, 5*time.Second))...)
		w.eventually(func() bool { return started.Load() == 2 })
		var j journal
		m2 := w.start(func(_ context.Context, msg kstage.Message) error {
			j.note(msg)
			return nil
		}, opts...)
		w.eventually(func() bool { return j.len() == 1 })
		require.EqualValues(w.t, 1, revoked.Load())
		require.NoError(w.t, m.stop())
		w.eventually(func() bool { return j.len() == 2 })
		require.NoError(w.t, m2.stop())
		for _, d := range j.all() {
			require.Equal(w.t, 1, d.Attempt)
		}
		require.Empty(w.t, w.read(w.name("g-dlq")))
		m.assertIdentity()
		m2.assertIdentity()
	})
}

// Run returns within its limits although a handler does not, and names the record.
func TestVirtualHandlerIgnoresItsContext(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.values(topic, "k", "first", "ignores", "behind")
		w.values(topic, "retried", "ignores")
		release := make(chan struct{})
		var hanging atomic.Int32
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			switch {
			case string(msg.Value()) != "ignores":
				return nil
			case string(msg.Key()) == "retried" && msg.Attempt() == 1:
				return errPure
			}
			hanging.Add(1)
			<-release
			return errPure
		}, append(opts, kstage.WithShutdownTimeout(2*time.Second, 5*time.Second))...)
		defer close(release)
		w.eventually(func() bool { return hanging.Load() == 2 })
		start := time.Now()
		err := m.stop()
		require.LessOrEqual(w.t, time.Since(start), 7*time.Second)
		require.GreaterOrEqual(w.t, time.Since(start), 2*time.Second)
		var de *kstage.DrainError
		require.ErrorAs(w.t, err, &de)
		require.Equal(w.t, []kstage.Coordinates{{Topic: topic, Offset: 1}, {Topic: topic, Offset: 3}}, de.Abandoned)
		require.EqualValues(w.t, 1, w.committedOr(topic))
		require.Empty(w.t, w.read(w.name("g-dlq")))
		require.False(w.t, m.Health().Live)

		release <- struct{}{}
		release <- struct{}{}
		after(time.Minute) // they return at last, to no effect
		require.EqualValues(w.t, 1, w.committedOr(topic))
		require.Empty(w.t, w.read(w.name("g-dlq")))
		m.assertIdentity()
	})
}
