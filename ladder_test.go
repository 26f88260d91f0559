package kstage_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kstage/kstage"
)

var threeStages = []time.Duration{5 * time.Second, time.Minute, 10 * time.Minute}

// Every row of the handler's table for a ladder: where a record goes, as what, and
// what it costs. The wait of an immediate retry is TestJudge's.
func TestJudgeOnTheLadder(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	after := func(d time.Duration) error { return kstage.RetryAfter(errPure, d) }
	later := func(to int) kstage.LadderVerdict {
		return kstage.LadderVerdict{Kind: kstage.VerdictLater, To: to, As: to, Spends: true}
	}
	asleep := func(to, as int) kstage.LadderVerdict {
		return kstage.LadderVerdict{Kind: kstage.VerdictLater, To: to, As: as}
	}
	until := func(v kstage.LadderVerdict, d time.Duration) kstage.LadderVerdict {
		v.NotBefore = now.Add(d)
		return v
	}
	buried := func(r kstage.Reason) kstage.LadderVerdict {
		return kstage.LadderVerdict{Kind: kstage.VerdictDead, Reason: r}
	}
	waits := func(d time.Duration, spends bool) kstage.LadderVerdict {
		return kstage.LadderVerdict{Kind: kstage.VerdictRetry, Wait: d, Spends: spends}
	}
	none := []time.Duration{}
	for _, tt := range []struct {
		name  string
		given kstage.LadderCase
		want  kstage.LadderVerdict
	}{
		{"a failure goes to the first stage", kstage.LadderCase{Err: errPure}, later(1)},
		{"and to the next one", kstage.LadderCase{Err: errPure, Stage: 1}, later(2)},
		{"and to the last one", kstage.LadderCase{Err: errPure, Stage: 2}, later(3)},
		{"behind the last it is dead", kstage.LadderCase{Err: errPure, Stage: 3}, buried(kstage.ReasonExhausted)},
		{"immediate retries are spent first", kstage.LadderCase{Err: errPure, Stage: 1, Immediate: 2, Retries: 2}, later(2)},
		{"and so are those that were spent before a snooze", kstage.LadderCase{Err: errPure, Stage: 1, Immediate: 2, Attempt: 6}, later(2)},
		{"and those of the last stage", kstage.LadderCase{Err: errPure, Stage: 3, Immediate: 2, Attempt: 12}, buried(kstage.ReasonExhausted)},
		{"a panic climbs", kstage.LadderCase{Err: kstage.NewPanicError("boom")}, later(1)},
		{"a panic behind the last", kstage.LadderCase{Err: kstage.NewPanicError("boom"), Stage: 3}, buried(kstage.ReasonPanic)},
		{"a timeout climbs", kstage.LadderCase{Err: kstage.NewTimeoutError(1, errPure), Stage: 1}, later(2)},
		{"a timeout behind the last", kstage.LadderCase{Err: kstage.NewTimeoutError(1, errPure), Stage: 3}, buried(kstage.ReasonTimeout)},
		{"permanent climbs nothing", kstage.LadderCase{Err: kstage.Permanent(errPure)}, buried(kstage.ReasonPermanent)},
		{"skip neither", kstage.LadderCase{Err: kstage.Skip(errPure), Stage: 1}, kstage.LadderVerdict{Kind: kstage.VerdictSkipped}},
		{"nil neither", kstage.LadderCase{Stage: 3}, kstage.LadderVerdict{Kind: kstage.VerdictFinished}},
		{"an error after our cancel neither", kstage.LadderCase{Err: errPure, Cancelled: true, Stage: 3}, kstage.LadderVerdict{Kind: kstage.VerdictReleased}},
		{"a snooze after our cancel neither", kstage.LadderCase{Err: kstage.Snooze(1), Cancelled: true}, kstage.LadderVerdict{Kind: kstage.VerdictReleased}},

		{"RetryAfter at once is the next stage", kstage.LadderCase{Err: after(0), Immediate: 2}, later(1)},
		{"RetryAfter before now is, too", kstage.LadderCase{Err: after(-time.Hour), Stage: 1}, later(2)},
		{"RetryAfter of a stage's delay", kstage.LadderCase{Err: after(5 * time.Second)}, later(1)},
		{"RetryAfter of more is a longer stage", kstage.LadderCase{Err: after(5*time.Second + 1)}, later(2)},
		{"RetryAfter leaves out stages", kstage.LadderCase{Err: after(2 * time.Minute)}, later(3)},
		{"RetryAfter goes on, never back", kstage.LadderCase{Err: after(time.Second), Stage: 2}, later(3)},
		{"RetryAfter beyond the last", kstage.LadderCase{Err: after(time.Hour)}, until(later(3), time.Hour)},
		{"RetryAfter beyond the last, from a stage", kstage.LadderCase{Err: after(time.Hour), Stage: 2}, until(later(3), time.Hour)},
		{"RetryAfter from the last stage", kstage.LadderCase{Err: after(time.Second), Stage: 3}, buried(kstage.ReasonExhausted)},
		{"RetryAfter of a panic's value is a panic", kstage.LadderCase{Err: kstage.NewPanicError(after(time.Hour))}, later(1)},
		{"RetryAfter beats the classifier", kstage.LadderCase{Err: after(time.Minute), Classify: classifyAs(kstage.ClassPermanent)}, later(2)},
		{"RetryAfter, wrapped", kstage.LadderCase{Err: fmt.Errorf("a: %w", after(time.Minute))}, later(2)},
		{"RetryAfter of a blocked record", kstage.LadderCase{Err: after(time.Minute), Blocked: true}, buried(kstage.ReasonExhausted)},
		{"RetryAfter of an old one", kstage.LadderCase{Err: after(time.Minute), MaxAge: time.Hour, FirstFailedAt: now.Add(-2 * time.Hour)}, buried(kstage.ReasonExpired)},

		{"RetryAfter without stages waits here", kstage.LadderCase{Stages: none, Err: after(time.Hour), Immediate: 1}, waits(time.Hour, true)},
		{"RetryAfter at once without stages is still parked", kstage.LadderCase{Stages: none, Err: after(-1), Immediate: 1}, waits(1, true)},
		{"RetryAfter without stages is dead in the end", kstage.LadderCase{Stages: none, Err: after(time.Hour), Immediate: 1, Retries: 1}, buried(kstage.ReasonExhausted)},
		{"RetryAfter without stages and retries", kstage.LadderCase{Stages: none, Err: after(time.Hour)}, buried(kstage.ReasonExhausted)},

		{"Snooze is the first stage and keeps the record's", kstage.LadderCase{Err: kstage.Snooze(time.Second)}, asleep(1, 0)},
		{"Snooze before now, too", kstage.LadderCase{Err: kstage.Snooze(-time.Second)}, asleep(1, 0)},
		{"Snooze of more is a longer stage", kstage.LadderCase{Err: kstage.Snooze(time.Minute)}, asleep(2, 0)},
		{"Snooze beyond the last", kstage.LadderCase{Err: kstage.Snooze(time.Hour)}, until(asleep(3, 0), time.Hour)},
		{"Snooze in a stage stays there", kstage.LadderCase{Err: kstage.Snooze(time.Second), Stage: 2}, asleep(2, 2)},
		{"Snooze in a stage, of more", kstage.LadderCase{Err: kstage.Snooze(2 * time.Minute), Stage: 2}, asleep(3, 2)},
		{"Snooze in the last stage", kstage.LadderCase{Err: kstage.Snooze(time.Second), Stage: 3}, asleep(3, 3)},
		{"Snooze in the last stage, of more", kstage.LadderCase{Err: kstage.Snooze(time.Hour), Stage: 3}, until(asleep(3, 3), time.Hour)},
		{"Snooze needs no retries", kstage.LadderCase{Err: kstage.Snooze(time.Second), Immediate: 2, Retries: 2}, asleep(1, 0)},
		{"Snooze of a blocked record", kstage.LadderCase{Err: kstage.Snooze(time.Second), Blocked: true}, buried(kstage.ReasonExhausted)},
		{"Snooze of an old one", kstage.LadderCase{Err: kstage.Snooze(time.Second), MaxAge: time.Hour, FirstFailedAt: now.Add(-time.Hour - 1)}, buried(kstage.ReasonExpired)},
		{"Snooze of one that is not too old", kstage.LadderCase{Err: kstage.Snooze(time.Second), MaxAge: time.Hour, FirstFailedAt: now.Add(-time.Hour)}, asleep(1, 0)},
		{"Snooze without stages waits here", kstage.LadderCase{Stages: none, Err: kstage.Snooze(time.Hour), Retries: 9}, waits(time.Hour, false)},
		{"Snooze at once without stages is still parked", kstage.LadderCase{Stages: none, Err: kstage.Snooze(0)}, waits(1, false)},
		{"Snooze without stages of an old one", kstage.LadderCase{Stages: none, Err: kstage.Snooze(time.Second), MaxAge: time.Hour, FirstFailedAt: now.Add(-2 * time.Hour)}, buried(kstage.ReasonExpired)},

		{"classified permanent", kstage.LadderCase{Err: errPure, Stage: 1, Classify: classifyAs(kstage.ClassPermanent)}, buried(kstage.ReasonPermanent)},
		{"classified skip", kstage.LadderCase{Err: errPure, Stage: 1, Classify: classifyAs(kstage.ClassSkip)}, kstage.LadderVerdict{Kind: kstage.VerdictSkipped}},
		{"classified retry", kstage.LadderCase{Err: errPure, Stage: 1, Classify: classifyAs(kstage.ClassRetry)}, later(2)},
		{"old beats the next stage", kstage.LadderCase{Err: errPure, MaxAge: time.Hour, FirstFailedAt: now.Add(-2 * time.Hour)}, buried(kstage.ReasonExpired)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.given.Stages == nil {
				tt.given.Stages = threeStages
			}
			tt.given.Now = now
			require.Equal(t, tt.want, kstage.JudgeLadder(tt.given))
		})
	}
}

// What is decided before the handler is called.
func TestAwait(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	hop := func(as int, d time.Duration) kstage.LadderVerdict {
		return kstage.LadderVerdict{Kind: kstage.VerdictHopped, To: 3, As: as, NotBefore: now.Add(d)}
	}
	handle := kstage.LadderVerdict{Kind: kstage.VerdictHandleNow}
	for _, tt := range []struct {
		name  string
		given kstage.LadderCase
		want  kstage.LadderVerdict
	}{
		{"a main topic's", kstage.LadderCase{Main: true}, handle},
		{"a main topic's, old", kstage.LadderCase{Main: true, MaxAge: 1, FirstFailedAt: now.Add(-time.Hour)}, handle},
		{"another group's", kstage.LadderCase{Foreign: true, NotBefore: now.Add(time.Hour)}, kstage.LadderVerdict{Kind: kstage.VerdictForeign}},
		{"nothing to wait for", kstage.LadderCase{Stage: 2}, handle},
		{"waited for", kstage.LadderCase{Stage: 3, NotBefore: now}, handle},
		{"waited for, and old", kstage.LadderCase{Stage: 3, NotBefore: now, MaxAge: 1, FirstFailedAt: now.Add(-time.Hour)}, handle},
		{"too early", kstage.LadderCase{Stage: 3, NotBefore: now.Add(1)}, hop(3, 1)},
		{"too early, and snoozed", kstage.LadderCase{Stage: 0, NotBefore: now.Add(time.Hour)}, hop(0, time.Hour)},
		{"too early, and not old", kstage.LadderCase{Stage: 1, NotBefore: now.Add(time.Hour), MaxAge: time.Hour, FirstFailedAt: now.Add(-time.Hour)}, hop(1, time.Hour)},
		{"too early, and old", kstage.LadderCase{Stage: 1, NotBefore: now.Add(time.Hour), MaxAge: time.Hour, FirstFailedAt: now.Add(-time.Hour - 1)}, kstage.LadderVerdict{Kind: kstage.VerdictDead, Reason: kstage.ReasonExpired}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.given.Stages, tt.given.Now = threeStages, now
			require.Equal(t, tt.want, kstage.Await(tt.given))
		})
	}
}

// Whatever the ladder and the error: a record that goes on never goes back, stays
// on the ladder, and waits at least as long as it asked for; Snooze costs nothing.
func TestJudgeOnTheLadderProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := drawLadder(t)
		d := time.Duration(rapid.Int64Range(-int64(time.Hour), int64(200*time.Hour)).Draw(t, "d"))
		snoozed := rapid.Bool().Draw(t, "snoozed")
		c.Err = kstage.RetryAfter(errPure, d)
		if snoozed {
			c.Err = kstage.Snooze(d)
		}
		v := kstage.JudgeLadder(c)
		switch v.Kind {
		case kstage.VerdictDead:
			require.True(t, v.Reason == kstage.ReasonExpired && c.MaxAge > 0 || !snoozed && c.Stage == len(c.Stages) || !snoozed && len(c.Stages) == 0)
		case kstage.VerdictRetry:
			require.Empty(t, c.Stages)
			require.Equal(t, !snoozed, v.Spends)
			require.Equal(t, max(d, 1), v.Wait)
		case kstage.VerdictLater:
			require.Equal(t, !snoozed, v.Spends)
			require.LessOrEqual(t, v.To, len(c.Stages))
			require.GreaterOrEqual(t, v.To, max(1, c.Stage))
			if snoozed {
				require.Equal(t, c.Stage, v.As)
			} else {
				require.Equal(t, v.To, v.As)
				require.Greater(t, v.To, c.Stage)
			}
			if !v.NotBefore.IsZero() {
				require.Equal(t, len(c.Stages), v.To, "it hops at the last")
				require.Equal(t, c.Now.Add(d), v.NotBefore)
				return
			}
			require.GreaterOrEqual(t, c.Stages[v.To-1], d, "never sooner")
			if before := v.To - 1; before > max(c.Stage, 1) || before == 1 && c.Stage == 0 {
				require.Less(t, c.Stages[before-1], d, "the first that is long enough")
			}
		default:
			t.Fatalf("verdict %v", v)
		}
	})
}

func drawLadder(t *rapid.T) (c kstage.LadderCase) {
	last := time.Duration(0)
	for range rapid.IntRange(0, 5).Draw(t, "stages") {
		last += time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "more"))
		c.Stages = append(c.Stages, max(last, 1))
	}
	c.Now = time.Unix(1_700_000_000, 0)
	c.Stage = rapid.IntRange(0, len(c.Stages)).Draw(t, "stage")
	c.Immediate = rapid.IntRange(0, 3).Draw(t, "immediate")
	c.Retries = rapid.IntRange(0, c.Immediate).Draw(t, "retries")
	if rapid.Bool().Draw(t, "aged") {
		c.MaxAge = time.Hour
		c.FirstFailedAt = c.Now.Add(-time.Duration(rapid.Int64Range(0, int64(2*time.Hour)).Draw(t, "age")))
	}
	return c
}

// A directive is found through wrapping, the outermost counts, and nil stays nil.
func TestDirectives(t *testing.T) {
	t.Parallel()
	wrap := func(err error) error { return fmt.Errorf("a: %w", fmt.Errorf("b: %w", err)) }
	require.NoError(t, kstage.Permanent(nil))
	require.NoError(t, kstage.Skip(nil))
	require.NoError(t, kstage.RetryAfter(nil, time.Hour))
	require.Error(t, kstage.Snooze(0), "there is no nil to it: the handler asks to be called again")
	for _, tt := range []struct {
		name            string
		err             error
		permanent, skip bool
		delay           time.Duration
		delayed         bool
	}{
		{name: "nil"},
		{name: "plain", err: errPure},
		{name: "permanent", err: wrap(kstage.Permanent(errPure)), permanent: true},
		{name: "skip", err: wrap(kstage.Skip(errPure)), skip: true},
		{name: "retry after", err: wrap(kstage.RetryAfter(errPure, time.Minute)), delay: time.Minute, delayed: true},
		{name: "retry after nothing", err: kstage.RetryAfter(errPure, 0), delayed: true},
		{name: "snooze", err: wrap(kstage.Snooze(time.Hour)), delay: time.Hour, delayed: true},
		{name: "joined", err: errors.Join(errPure, wrap(kstage.RetryAfter(errPure, 7))), delay: 7, delayed: true},
		{name: "permanent around retry after", err: kstage.Permanent(wrap(kstage.RetryAfter(errPure, 7))), permanent: true},
		{name: "retry after around permanent", err: kstage.RetryAfter(wrap(kstage.Permanent(errPure)), 7), delay: 7, delayed: true},
		{name: "skip around snooze", err: kstage.Skip(kstage.Snooze(7)), skip: true},
		{name: "two of a kind", err: kstage.RetryAfter(wrap(kstage.RetryAfter(errPure, 7)), 9), delay: 9, delayed: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.permanent, kstage.IsPermanent(tt.err))
			require.Equal(t, tt.skip, kstage.IsSkip(tt.err))
			d, ok := kstage.RetryDelay(tt.err)
			require.Equal(t, tt.delay, d)
			require.Equal(t, tt.delayed, ok)
		})
	}
	require.ErrorIs(t, kstage.RetryAfter(wrap(errPure), 1), errPure, "the mark hides nothing")
	require.Equal(t, "it failed", kstage.RetryAfter(errPure, 1).Error())
}
