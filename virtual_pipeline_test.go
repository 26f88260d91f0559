//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// values writes one record for each value to partition 0, all of one key.
func (w *world) values(topic, key string, values ...string) {
	w.t.Helper()
	for _, v := range values {
		w.produce(record(topic, 0, key, v))
	}
}

// awaitCommit waits until the group has committed an offset of partition 0. The
// group may not exist yet.
func (w *world) awaitCommit(topic string, offset int64) {
	w.t.Helper()
	w.eventually(func() bool {
		os, err := w.adm.FetchOffsets(w.t.Context(), w.name("g"))
		o, ok := os.Lookup(topic, 0)
		return err == nil && ok && o.At == offset
	})
}

// obey is a handler that does what a record's value says.
func obey(ctx context.Context, msg kstage.Message) error {
	switch string(msg.Value()) {
	case "error":
		return errPure
	case "flaky":
		if msg.Attempt() < 3 {
			return errPure
		}
	case "permanent":
		return fmt.Errorf("a: %w", kstage.Permanent(errPure))
	case "skip":
		return fmt.Errorf("a: %w", kstage.Skip(errPure))
	case "panic":
		panic("boom")
	case "panic nil":
		panic(nil) //nolint:govet // what it becomes is the test
	case "goexit":
		runtime.Goexit()
	case "timeout":
		<-ctx.Done()
		return ctx.Err()
	case "typed nil":
		return (*nilError)(nil)
	case "permanent typed nil":
		return kstage.Permanent((*nilError)(nil))
	case "panic typed nil":
		panic((*nilError)(nil))
	}
	return nil
}

// Each verdict ends in its place, with its reason and number of calls, and the
// records behind it are handled in order by the same workers.
func TestVirtualVerdicts(t *testing.T) {
	t.Parallel()
	type end struct {
		calls  int
		reason kstage.Reason // of a dead one
		typ    string
	}
	want := map[string]end{
		"ok":                  {1, "", ""},
		"flaky":               {3, "", ""},
		"skip":                {1, "", ""},
		"error":               {3, kstage.ReasonExhausted, "*errors.errorString"},
		"permanent":           {1, kstage.ReasonPermanent, "*errors.errorString"},
		"panic":               {3, kstage.ReasonPanic, "panic(string)"},
		"panic nil":           {3, kstage.ReasonPanic, "panic(*runtime.PanicNilError)"},
		"goexit":              {3, kstage.ReasonPanic, "runtime.Goexit"},
		"timeout":             {3, kstage.ReasonTimeout, "context.deadlineExceededError"},
		"typed nil":           {3, kstage.ReasonExhausted, "*kstage_test.nilError"},
		"permanent typed nil": {1, kstage.ReasonPermanent, "*kstage_test.nilError"},
		"panic typed nil":     {3, kstage.ReasonPanic, "panic(string)"},
	}
	for _, workers := range []int{1, 4} {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic, opts := w.ladder(1)
				var order []string
				for v := range want {
					order = append(order, v)
				}
				w.values(topic, "k", order...)
				var j journal
				m := w.start(func(ctx context.Context, msg kstage.Message) error {
					j.note(msg)
					return obey(ctx, msg)
				}, append(opts, kstage.WithWorkers(workers), kstage.WithHandlerTimeout(time.Second))...)
				w.awaitCommit(topic, int64(len(order)))
				require.NoError(w.t, m.stop())

				last := int64(-1)
				for _, d := range j.all() {
					require.GreaterOrEqual(w.t, d.Offset, last, "order of the key")
					last = d.Offset
				}
				for i, v := range order {
					require.Equal(w.t, want[v].calls, j.times(0)[int64(i)], v)
				}
				dead := map[string]kstage.DeadLetter{}
				for _, d := range w.deadLetters() {
					dead[string(d.Record.Value)] = d
				}
				for v, e := range want {
					d, ok := dead[v]
					require.Equal(w.t, e.reason != "", ok, v)
					require.Equal(w.t, e.reason, d.Reason, v)
					require.Equal(w.t, e.typ, d.ErrorType, v)
					if ok {
						require.Equal(w.t, e.calls, d.Attempt, v)
						require.NotEmpty(w.t, d.Error, v)
					}
				}
				s := m.counts.Snapshot()
				require.EqualValues(w.t, 2, s.Processed)
				require.EqualValues(w.t, 1, s.Skipped)
				require.EqualValues(w.t, 9, s.SentToDLQ)
				require.EqualValues(w.t, 2+7*3+2, s.Failed)
				m.assertIdentity()
			})
		})
	}
}

// Immediate retries wait between 0 and the doubled limit, jittered; each is a new
// Message; nothing of the key comes in between, and other keys go on.
func TestVirtualImmediateRetries(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		const records = 20
		for i := range records {
			w.values(topic, fmt.Sprint("k", i), "fails", "behind")
		}
		w.values(topic, "other", "free")
		backoff := kstage.Backoff{Min: time.Second, Max: 3 * time.Second}
		var j journal
		var mu sync.Mutex
		messages := map[kstage.Message]int{}
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			d := j.note(msg)
			mu.Lock()
			defer mu.Unlock()
			messages[msg] = msg.Attempt()
			at, failed := msg.FirstFailedAt()
			require.Equal(w.t, d.Attempt > 1, failed)
			require.LessOrEqual(w.t, at, d.At)
			if string(msg.Value()) == "fails" {
				return errPure
			}
			return nil
		}, append(opts, kstage.WithImmediateRetries(3, backoff), kstage.WithWorkers(2))...)
		w.awaitCommit(topic, 2*records+1)
		require.NoError(w.t, m.stop())

		calls := map[string][]delivery{}
		for _, d := range j.all() {
			calls[d.Key] = append(calls[d.Key], d)
		}
		gaps := map[time.Duration]bool{}
		first, last := calls["k0"][0].At, calls["k0"][0].At
		for i := range records {
			c := calls[fmt.Sprint("k", i)]
			require.Len(w.t, c, 5, "four attempts, then the one behind")
			for n := 1; n < 4; n++ {
				require.Equal(w.t, n+1, c[n].Attempt)
				require.Equal(w.t, c[0].Offset, c[n].Offset, "nothing of the key overtakes")
				gap := c[n].At.Sub(c[n-1].At)
				require.Positive(w.t, gap)
				require.LessOrEqual(w.t, gap, min(backoff.Max, backoff.Min<<(n-1)))
				gaps[gap] = true
			}
			require.Equal(w.t, 1, c[4].Attempt)
			require.Equal(w.t, c[0].Offset+1, c[4].Offset)
			last = c[3].At
		}
		require.Greater(w.t, len(gaps), records, "jitter")
		require.Less(w.t, calls["other"][0].At.Sub(first), 100*time.Millisecond, "no worker waits with a key")
		require.Greater(w.t, last.Sub(first), 100*time.Millisecond)
		require.Len(w.t, messages, 5*records+1, "each attempt has a Message of its own")
		perAttempt := map[int]int{}
		for msg, n := range messages {
			require.Equal(w.t, n, msg.Attempt(), "a Message that was kept does not change")
			perAttempt[n]++
		}
		require.Equal(w.t, map[int]int{1: 2*records + 1, 2: records, 3: records, 4: records}, perAttempt)
		m.assertIdentity()
	})
}

// The classifier decides where the handler did not.
func TestVirtualClassifier(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.values(topic, "k", "error", "panic", "timeout", "permanent", "skip")
		var asked atomic.Int32
		m := w.start(obey, append(opts, kstage.WithHandlerTimeout(time.Second), kstage.WithClassifier(func(err error) kstage.Class {
			asked.Add(1)
			if pe := (*kstage.PanicError)(nil); errors.As(err, &pe) || errors.Is(err, kstage.ErrHandlerTimeout) {
				return kstage.ClassPermanent
			}
			return kstage.ClassSkip
		}))...)
		w.awaitCommit(topic, 5)
		require.NoError(w.t, m.stop())
		require.EqualValues(w.t, 3, asked.Load(), "not asked about what the handler marked")
		s := m.counts.Snapshot()
		require.EqualValues(w.t, 2, s.Skipped)
		require.EqualValues(w.t, 3, s.SentToDLQ)
		for _, d := range w.deadLetters() {
			require.Equal(w.t, kstage.ReasonPermanent, d.Reason)
			require.Equal(w.t, 1, d.Attempt)
		}
		m.assertIdentity()
	})
}

// A record's age counts from its first failure: the first call always comes.
func TestVirtualMaxAge(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.values(topic, "k", "error")
		after(time.Minute) // the record itself is old
		var j journal
		m := w.start(func(ctx context.Context, msg kstage.Message) error {
			j.note(msg)
			return obey(ctx, msg)
		}, append(opts, kstage.WithMaxAge(10*time.Second), kstage.WithImmediateRetries(1_000_000, kstage.Backoff{Min: time.Second, Max: time.Second}))...)
		w.awaitCommit(topic, 1)
		require.NoError(w.t, m.stop())
		calls := j.all()
		n := len(calls)
		require.Greater(w.t, n, 10)
		require.Greater(w.t, calls[n-1].At.Sub(calls[0].At), 10*time.Second)
		require.LessOrEqual(w.t, calls[n-2].At.Sub(calls[0].At), 10*time.Second)
		d := w.deadLetters()[0]
		require.Equal(w.t, kstage.ReasonExpired, d.Reason)
		require.Equal(w.t, n, d.Attempt)
		require.WithinDuration(w.t, calls[0].At, d.FirstFailedAt, time.Millisecond)
		require.WithinDuration(w.t, calls[n-1].At, d.LastFailedAt, time.Millisecond)
		m.assertIdentity()
	})
}

// A handler that overruns its timeout is judged when it returns, never before: the
// next attempt does not overlap. A nil after the timeout ends the record.
func TestVirtualHandlerTimeout(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.values(topic, "k", "late error", "late nil", "quick error")
		var inside atomic.Int32
		var j journal
		m := w.start(func(ctx context.Context, msg kstage.Message) error {
			require.EqualValues(w.t, 1, inside.Add(1), "two attempts overlap")
			defer inside.Add(-1)
			start := j.note(msg).At
			if string(msg.Value()) == "quick error" {
				require.NoError(w.t, ctx.Err())
				return errPure
			}
			<-ctx.Done()
			require.Equal(w.t, time.Second, time.Since(start))
			require.ErrorIs(w.t, context.Cause(ctx), kstage.ErrHandlerTimeout)
			after(4 * time.Second) // it takes its time
			if string(msg.Value()) == "late nil" {
				return nil
			}
			return errPure
		}, append(opts, kstage.WithHandlerTimeout(time.Second), kstage.WithImmediateRetries(1, kstage.Backoff{Min: 1, Max: 1}))...)
		w.awaitCommit(topic, 3)
		require.NoError(w.t, m.stop())
		calls := j.all()
		require.Len(w.t, calls, 5)
		require.GreaterOrEqual(w.t, calls[1].At.Sub(calls[0].At), 5*time.Second)
		require.Equal(w.t, map[int64]int{0: 2, 1: 1, 2: 2}, j.times(0))
		reasons := map[int64]kstage.Reason{}
		for _, d := range w.deadLetters() {
			reasons[d.Origin.Offset] = d.Reason
		}
		require.Equal(w.t, map[int64]kstage.Reason{0: kstage.ReasonTimeout, 2: kstage.ReasonExhausted}, reasons)
		m.assertIdentity()
	})
}

// The stack of a panic names the handler, and reaches the dead letter where it is wanted.
func TestVirtualPanicStack(t *testing.T) {
	t.Parallel()
	for _, wanted := range []bool{true, false} {
		t.Run(fmt.Sprint(wanted), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic, opts := w.ladder(1)
				w.values(topic, "k", "panic", "error")
				if wanted {
					opts = append(opts, kstage.WithDLQ(kstage.DLQStack()))
				}
				m := w.start(obey, append(opts, kstage.WithImmediateRetries(0, kstage.Backoff{}))...)
				w.awaitCommit(topic, 2)
				require.NoError(w.t, m.stop())
				for _, d := range w.deadLetters() {
					if wanted && d.Origin.Offset == 0 {
						require.Contains(w.t, d.Stack, "kstage_test.obey")
					} else {
						require.Empty(w.t, d.Stack)
					}
				}
				m.assertIdentity()
			})
		})
	}
}

// The first middleware is the outermost, it may change the context and answer in
// the handler's place, and it is made once.
func TestVirtualMiddleware(t *testing.T) {
	t.Parallel()
	type ctxKey struct{}
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.values(topic, "k", "ok", "answered")
		var made atomic.Int32
		var mu sync.Mutex
		var seen []string
		note := func(s string) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, s)
		}
		named := func(name string) kstage.Middleware {
			return func(next kstage.Handler) kstage.Handler {
				made.Add(1)
				return kstage.HandlerFunc(func(ctx context.Context, msg kstage.Message) error {
					note(name + " " + string(msg.Value()))
					if name == "b" && string(msg.Value()) == "answered" {
						return kstage.Skip(errPure)
					}
					return next.Handle(context.WithValue(ctx, ctxKey{}, name), msg)
				})
			}
		}
		m := w.start(func(ctx context.Context, msg kstage.Message) error {
			note(fmt.Sprint("handler ", string(msg.Value()), " in ", ctx.Value(ctxKey{})))
			return nil
		}, append(opts, kstage.WithMiddleware(named("a")), kstage.WithMiddleware(named("b")))...)
		w.awaitCommit(topic, 2)
		require.NoError(w.t, m.stop())
		require.Equal(w.t, []string{"a ok", "b ok", "handler ok in b", "a answered", "b answered"}, seen)
		require.EqualValues(w.t, 2, made.Load())
		require.EqualValues(w.t, 1, m.counts.Snapshot().Skipped)
		m.assertIdentity()
	})
}
