package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kstage/kstage"
)

var errPure = errors.New("it failed")

func classifyAs(c kstage.Class) func(error) kstage.Class {
	return func(error) kstage.Class { return c }
}

// Every row of the handler's table in design and documentation.
func TestJudge(t *testing.T) {
	t.Parallel()
	var (
		permanent = kstage.Permanent(errPure)
		skip      = kstage.Skip(errPure)
		timeout   = kstage.NewTimeoutError(time.Second, context.DeadlineExceeded)
		panicked  = kstage.NewPanicError("boom")
	)
	for _, tt := range []struct {
		name   string
		given  kstage.JudgeCase
		kind   string
		reason kstage.Reason
	}{
		{"nil", kstage.JudgeCase{}, kstage.VerdictFinished, ""},
		{"nil after our cancel", kstage.JudgeCase{Cancelled: true}, kstage.VerdictFinished, ""},
		{"nil of a blocked record", kstage.JudgeCase{Blocked: true}, kstage.VerdictFinished, ""},
		{"nil of an old record", kstage.JudgeCase{MaxAge: time.Second, Age: time.Hour}, kstage.VerdictFinished, ""},

		{"first error", kstage.JudgeCase{Err: errPure, Immediate: 2}, kstage.VerdictRetry, ""},
		{"one retry left", kstage.JudgeCase{Err: errPure, Immediate: 2, Retries: 1}, kstage.VerdictRetry, ""},
		{"no retry left", kstage.JudgeCase{Err: errPure, Immediate: 2, Retries: 2}, kstage.VerdictDead, kstage.ReasonExhausted},
		{"no retries at all", kstage.JudgeCase{Err: errPure}, kstage.VerdictDead, kstage.ReasonExhausted},
		{"a context error that is not our cancel's", kstage.JudgeCase{Err: context.Canceled}, kstage.VerdictDead, kstage.ReasonExhausted},

		{"permanent", kstage.JudgeCase{Err: permanent, Immediate: 2}, kstage.VerdictDead, kstage.ReasonPermanent},
		{"permanent, wrapped", kstage.JudgeCase{Err: fmt.Errorf("a: %w", fmt.Errorf("b: %w", permanent)), Immediate: 2}, kstage.VerdictDead, kstage.ReasonPermanent},
		{"permanent, joined", kstage.JudgeCase{Err: errors.Join(errPure, permanent), Immediate: 2}, kstage.VerdictDead, kstage.ReasonPermanent},
		{"permanent beats age", kstage.JudgeCase{Err: permanent, MaxAge: time.Second, Age: time.Hour}, kstage.VerdictDead, kstage.ReasonPermanent},
		{"skip", kstage.JudgeCase{Err: skip}, kstage.VerdictSkipped, ""},
		{"skip, wrapped", kstage.JudgeCase{Err: fmt.Errorf("a: %w", skip), Immediate: 2}, kstage.VerdictSkipped, ""},
		{"skip of a blocked record", kstage.JudgeCase{Err: skip, Blocked: true}, kstage.VerdictSkipped, ""},
		{"skip beats age", kstage.JudgeCase{Err: skip, MaxAge: time.Second, Age: time.Hour}, kstage.VerdictSkipped, ""},
		{"the outermost directive counts", kstage.JudgeCase{Err: kstage.Skip(permanent)}, kstage.VerdictSkipped, ""},
		{"the outermost directive counts, the other way round", kstage.JudgeCase{Err: kstage.Permanent(skip)}, kstage.VerdictDead, kstage.ReasonPermanent},
		{"of joined directives the first counts", kstage.JudgeCase{Err: errors.Join(skip, permanent)}, kstage.VerdictSkipped, ""},

		{"an error after our cancel", kstage.JudgeCase{Err: errPure, Cancelled: true, Immediate: 2}, kstage.VerdictReleased, ""},
		{"permanent after our cancel", kstage.JudgeCase{Err: permanent, Cancelled: true}, kstage.VerdictReleased, ""},
		{"skip after our cancel", kstage.JudgeCase{Err: skip, Cancelled: true}, kstage.VerdictReleased, ""},
		{"a panic after our cancel", kstage.JudgeCase{Err: panicked, Cancelled: true}, kstage.VerdictReleased, ""},
		{"a timeout and our cancel", kstage.JudgeCase{Err: timeout, Cancelled: true}, kstage.VerdictReleased, ""},
		{"age and our cancel", kstage.JudgeCase{Err: errPure, Cancelled: true, MaxAge: 1, Age: time.Hour}, kstage.VerdictReleased, ""},

		{"a panic is retried", kstage.JudgeCase{Err: panicked, Immediate: 1}, kstage.VerdictRetry, ""},
		{"a panic, exhausted", kstage.JudgeCase{Err: panicked, Immediate: 1, Retries: 1}, kstage.VerdictDead, kstage.ReasonPanic},
		{"a panic with a directive", kstage.JudgeCase{Err: kstage.NewPanicError(kstage.Skip(errPure)), Immediate: 1}, kstage.VerdictRetry, ""},
		{"a panic with a directive, exhausted", kstage.JudgeCase{Err: kstage.NewPanicError(kstage.Permanent(errPure))}, kstage.VerdictDead, kstage.ReasonPanic},
		{"a wrapped panic, exhausted", kstage.JudgeCase{Err: fmt.Errorf("a: %w", panicked)}, kstage.VerdictDead, kstage.ReasonPanic},
		{"a Goexit, exhausted", kstage.JudgeCase{Err: kstage.NewPanicError(nil)}, kstage.VerdictDead, kstage.ReasonPanic},
		{"a timeout is retried", kstage.JudgeCase{Err: timeout, Immediate: 1}, kstage.VerdictRetry, ""},
		{"a timeout, exhausted", kstage.JudgeCase{Err: timeout}, kstage.VerdictDead, kstage.ReasonTimeout},
		{"permanent after a timeout", kstage.JudgeCase{Err: kstage.NewTimeoutError(1, permanent), Immediate: 1}, kstage.VerdictDead, kstage.ReasonPermanent},

		{"a first failure has no age", kstage.JudgeCase{Err: errPure, Immediate: 1, MaxAge: 1}, kstage.VerdictRetry, ""},
		{"as old as is allowed", kstage.JudgeCase{Err: errPure, Immediate: 2, Retries: 1, MaxAge: time.Minute, Age: time.Minute}, kstage.VerdictRetry, ""},
		{"too old", kstage.JudgeCase{Err: errPure, Immediate: 2, Retries: 1, MaxAge: time.Minute, Age: time.Minute + 1}, kstage.VerdictDead, kstage.ReasonExpired},
		{"too old beats exhausted", kstage.JudgeCase{Err: panicked, MaxAge: time.Minute, Age: time.Hour}, kstage.VerdictDead, kstage.ReasonExpired},
		{"no bound", kstage.JudgeCase{Err: errPure, Immediate: 1, Age: math.MaxInt64}, kstage.VerdictRetry, ""},

		{"a blocked record is dead again", kstage.JudgeCase{Err: errPure, Immediate: 2, Blocked: true}, kstage.VerdictDead, kstage.ReasonExhausted},

		{"classified permanent", kstage.JudgeCase{Err: errPure, Immediate: 2, Classify: classifyAs(kstage.ClassPermanent)}, kstage.VerdictDead, kstage.ReasonPermanent},
		{"classified skip", kstage.JudgeCase{Err: errPure, Immediate: 2, Classify: classifyAs(kstage.ClassSkip)}, kstage.VerdictSkipped, ""},
		{"classified retry", kstage.JudgeCase{Err: errPure, Immediate: 2, Classify: classifyAs(kstage.ClassRetry)}, kstage.VerdictRetry, ""},
		{"a class that is none retries", kstage.JudgeCase{Err: errPure, Immediate: 2, Classify: classifyAs(77)}, kstage.VerdictRetry, ""},
		{"a panic, classified", kstage.JudgeCase{Err: panicked, Immediate: 2, Classify: classifyAs(kstage.ClassPermanent)}, kstage.VerdictDead, kstage.ReasonPermanent},
		{"a directive beats the classifier", kstage.JudgeCase{Err: permanent, Classify: classifyAs(kstage.ClassSkip)}, kstage.VerdictDead, kstage.ReasonPermanent},
		{"a directive beats the classifier, the other way round", kstage.JudgeCase{Err: skip, Classify: classifyAs(kstage.ClassPermanent)}, kstage.VerdictSkipped, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.given.Backoff = kstage.Backoff{Min: time.Second, Max: time.Minute}
			got := kstage.Judge(tt.given)
			require.Equal(t, tt.kind, got.Kind)
			require.Equal(t, tt.reason, got.Reason)
			require.Equal(t, tt.kind == kstage.VerdictRetry, got.Wait > 0, "only a retry waits: %v", got.Wait)
		})
	}
}

// The classifier decides about failures only: not about nil, nor about what a
// cancellation of ours caused.
func TestJudgeAsksTheClassifierOnlyAboutFailures(t *testing.T) {
	t.Parallel()
	asked := func(error) kstage.Class { panic("asked") }
	require.NotPanics(t, func() {
		kstage.Judge(kstage.JudgeCase{Classify: asked})
		kstage.Judge(kstage.JudgeCase{Classify: asked, Err: errPure, Cancelled: true})
		kstage.Judge(kstage.JudgeCase{Classify: asked, Err: kstage.Permanent(errPure)})
	})
}

// What must hold of every verdict, whatever the policy, the history and the error.
func TestJudgeProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		minimum := time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "min"))
		c := kstage.JudgeCase{
			Immediate: rapid.IntRange(0, 5).Draw(t, "immediate"),
			Backoff:   kstage.Backoff{Min: minimum, Max: minimum + time.Duration(rapid.Int64Range(0, math.MaxInt64-int64(minimum)).Draw(t, "more"))},
			MaxAge:    time.Duration(rapid.Int64Range(0, 100).Draw(t, "maxAge")),
			Age:       time.Duration(rapid.Int64Range(0, 200).Draw(t, "age")),
			Retries:   rapid.IntRange(0, 7).Draw(t, "retries"),
			Blocked:   rapid.Bool().Draw(t, "blocked"),
			Cancelled: rapid.Bool().Draw(t, "cancelled"),
			Err:       drawError(t),
		}
		if rapid.Bool().Draw(t, "classifier") {
			c.Classify = classifyAs(kstage.Class(rapid.IntRange(0, 2).Draw(t, "class")))
		}
		v := kstage.Judge(c)
		require.NotEmpty(t, v.Kind)
		require.Equal(t, c.Err == nil, v.Kind == kstage.VerdictFinished, "nil and only nil finishes")
		if c.Err != nil {
			require.Equal(t, c.Cancelled, v.Kind == kstage.VerdictReleased, "cancellation and only cancellation releases")
		}
		require.Equal(t, v.Kind == kstage.VerdictDead, v.Reason != "", "the dead have a reason")
		if v.Kind == kstage.VerdictRetry {
			require.Less(t, c.Retries, c.Immediate)
			require.False(t, c.Blocked)
			require.True(t, c.MaxAge == 0 || c.Age <= c.MaxAge)
			require.Positive(t, v.Wait)
			require.LessOrEqual(t, v.Wait, c.Backoff.Limit(c.Retries+1))
			return
		}
		require.Zero(t, v.Wait)
		if v.Reason == kstage.ReasonExpired {
			require.True(t, c.MaxAge > 0 && c.Age > c.MaxAge)
		}
	})
}

func drawError(t *rapid.T) error {
	return rapid.OneOf(
		rapid.Just[error](nil), rapid.Just(errPure), rapid.Just(context.Canceled),
		rapid.Just[error](kstage.NewPanicError("boom")), rapid.Just[error](kstage.NewPanicError(nil)),
		rapid.Just(kstage.NewTimeoutError(1, errPure)),
		rapid.Just(kstage.Permanent(errPure)), rapid.Just(kstage.Skip(errPure)),
		rapid.Just(fmt.Errorf("a: %w", kstage.Permanent(errPure))),
		rapid.Just(errors.Join(errPure, kstage.Skip(errPure))),
	).Draw(t, "err")
}

// A wait is never zero, never above the limit, and the limit doubles up to Max
// without an overflow, after however many failures.
func TestBackoffProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		minimum := rapid.Int64Range(1, math.MaxInt64).Draw(t, "min")
		b := kstage.Backoff{Min: time.Duration(minimum), Max: time.Duration(rapid.Int64Range(minimum, math.MaxInt64).Draw(t, "max"))}
		n := rapid.OneOf(rapid.IntRange(1, 70), rapid.IntRange(1, math.MaxInt)).Draw(t, "n")
		limit := b.Limit(n)
		require.GreaterOrEqual(t, limit, b.Min)
		require.LessOrEqual(t, limit, b.Max)
		if n > 1 {
			before := b.Limit(n - 1)
			require.True(t, limit == b.Max || limit == 2*before, "%v after %v", limit, before)
		}
		for _, random := range []func(int64) int64{kstage.Jitter, lowest, highest} {
			w := b.Wait(n, random)
			require.Positive(t, w)
			require.LessOrEqual(t, w, limit)
		}
		require.Equal(t, limit, b.Wait(n, highest), "the whole range is used")
		require.EqualValues(t, 1, b.Wait(n, lowest), "the whole range is used")
	})
}

func lowest(int64) int64    { return 0 }
func highest(n int64) int64 { return n - 1 }

func TestBackoffDoubles(t *testing.T) {
	t.Parallel()
	b := kstage.Backoff{Min: time.Second, Max: time.Minute}
	for n, want := range []time.Duration{1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 6: 32 * time.Second, 7: time.Minute, 8: time.Minute} {
		if want != 0 {
			require.Equal(t, want, b.Limit(n), "after failure %d", n)
		}
	}
}
