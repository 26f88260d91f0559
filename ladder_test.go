package kstage_test

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
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

// The header counts, but never beyond the stage's delay from being written or
// first read; what is no time is now. A timestamp is cut to milliseconds: that
// must not make a record early.
func TestDueTime(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(1_700_000_000_000)
	const delay, ms = time.Minute, time.Millisecond
	for _, tt := range []struct {
		name                  string
		header, written, seen time.Time
		want                  time.Time
	}{
		{"as the header says", at.Add(delay), at.Add(ms), at.Add(time.Second), at.Add(delay)},
		{"it has passed", at.Add(-time.Hour), at, at, at.Add(-time.Hour)},
		{"no header", time.Time{}, at, at.Add(time.Second), at.Add(time.Second)},
		{"too far from being written", at.Add(time.Hour), at, at.Add(time.Second), at.Add(delay + ms)},
		{"too far, and written in the future", at.Add(time.Hour), at.Add(time.Hour), at, at.Add(delay)},
		{"written at the failure, which the timestamp cuts", at.Add(delay + ms), at, at.Add(ms), at.Add(delay + ms)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.WithinDuration(t, tt.want, kstage.DueTime(tt.header, tt.written, tt.seen, delay), 0)
		})
	}
}

// copyOf is a record of a retry topic with some headers, written at that time.
func copyOf(written time.Time, headers ...string) *kgo.Record {
	r := &kgo.Record{Topic: "g-retry-2", Timestamp: written}
	for i := 0; i < len(headers); i += 2 {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: headers[i], Value: []byte(headers[i+1])})
	}
	return r
}

// forgeries are header values that a stranger may write.
var forgeries = []string{
	"", " ", "now", "0x10", "1e3", "1.5", "-0", "+5", "-1", "0", "1", "2", "3", "99", "１", "١",
	strconv.Itoa(1_000_000_000_000), "253402300799000", // the end of the year 9999
	strconv.FormatInt(math.MaxInt64, 10), strconv.FormatInt(math.MinInt64, 10), "9223372036854775808", "-9223372036854775809",
	"99999999999999999999999999999999", "\x00", "\xff", "5\n", " 5",
}

// Whatever the headers say: no record waits longer than its stage's delay, none
// climbs by them, and the attempt stays in the range that its stage has.
func TestForgedFactsAreBounded(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_700_000_000_000)
	for _, key := range []string{"kstage-attempt", "kstage-stage", "kstage-due", "kstage-not-before", "kstage-first-failed-at"} {
		for _, v := range forgeries {
			boundsOfFacts(t, copyOf(now, key, v), 2, time.Minute, 2, now)
			boundsOfFacts(t, copyOf(now, key, "1", key, v), 2, time.Minute, 2, now)
		}
	}
	r := kstage.ReadRetry(2, time.Minute, 2, copyOf(now, "kstage-attempt", "0"), now)
	require.Equal(t, 1, r.Attempt)
	for _, tt := range []struct {
		headers        []string
		attempt, stage int
	}{
		{[]string{"kstage-attempt", "-5"}, 1, 2},
		{[]string{"kstage-attempt", "text"}, 1, 2},
		{[]string{"kstage-attempt", "8", "kstage-attempt", "3"}, 4, 2}, // the last of a name counts
		{[]string{"kstage-attempt", "8"}, 9, 2},
		{[]string{"kstage-attempt", "9"}, 9, 2},
		{[]string{"kstage-attempt", "1000000000000"}, 9, 2},
		{[]string{"kstage-attempt", "1000000000000", "kstage-stage", "1"}, 6, 1},
		{[]string{"kstage-attempt", "1000000000000", "kstage-stage", "0"}, 3, 0},
		{[]string{"kstage-stage", "3"}, 1, 2},
		{[]string{"kstage-stage", "2"}, 1, 2},
		{[]string{"kstage-stage", "-1"}, 1, 2},
		{[]string{"kstage-stage", "text"}, 1, 2},
		{[]string{"kstage-stage", "1", "kstage-stage", "text"}, 1, 2},
	} {
		r := kstage.ReadRetry(2, time.Minute, 2, copyOf(now, tt.headers...), now)
		require.Equal(t, tt.attempt, r.Attempt, "%v", tt.headers)
		require.Equal(t, tt.stage, r.Stage, "%v", tt.headers)
	}
	future := kstage.ReadRetry(2, time.Minute, 2, copyOf(now, "kstage-first-failed-at", strconv.FormatInt(now.Add(time.Hour).UnixMilli(), 10)), now)
	require.WithinDuration(t, now, future.Failed, 0, "else it would never be too old")
}

// Another group's record is looked at at once: it is neither early nor late.
func TestForeignRecordsAreDueWhenTheyAreSeen(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_700_000_000_000)
	for _, due := range forgeries {
		f := kstage.ReadRetry(1, time.Minute, 0, copyOf(now, "kstage-group", "other", "kstage-due", due, "kstage-not-before", "253402300799000"), now)
		require.True(t, f.Foreign)
		require.WithinDuration(t, now, f.Due, 0)
		require.True(t, f.NotBefore.IsZero())
	}
	require.False(t, kstage.ReadRetry(1, time.Minute, 0, copyOf(now), now).Foreign, "without a group it is ours")
}

func boundsOfFacts(t *testing.T, r *kgo.Record, number int, delay time.Duration, immediate int, now time.Time) {
	t.Helper()
	f := kstage.ReadRetry(number, delay, immediate, r, now)
	require.False(t, f.Due.After(now.Add(delay)), "%v: due %v", r.Headers, f.Due)
	require.GreaterOrEqual(t, f.Stage, 0)
	require.LessOrEqual(t, f.Stage, number)
	require.GreaterOrEqual(t, f.Attempt, 1)
	require.LessOrEqual(t, f.Attempt, (1+immediate)*(1+f.Stage))
	require.False(t, f.Failed.After(now))
}

// FuzzRetryFacts: no header makes reading panic, or a record wait longer than its
// stage does, climb, or count attempts that its stage does not have.
func FuzzRetryFacts(f *testing.F) {
	for _, v := range forgeries {
		f.Add(v, v, v, v, v, "g", int64(1_700_000_000_000), 2, int64(time.Minute), 2)
		f.Add("", "", v, "", "", "g", int64(math.MaxInt64), 9, int64(1), 0)
		f.Add(v, "", "", v, "", "other", int64(-1), 1, int64(math.MaxInt64), 1000)
	}
	f.Fuzz(func(t *testing.T, attempt, number, due, notBefore, failed, group string, written int64, stage int, delay int64, immediate int) {
		stage, immediate = 1+abs(stage)%1000, abs(immediate)%1000
		wait := max(time.Duration(delay), 1)
		now := time.UnixMilli(1_700_000_000_000)
		r := copyOf(time.UnixMilli(written), "kstage-attempt", attempt, "kstage-stage", number, "kstage-due", due,
			"kstage-not-before", notBefore, "kstage-first-failed-at", failed, "kstage-group", group)
		boundsOfFacts(t, r, stage, wait, immediate, now)
		require.Equal(t, group != "g", kstage.ReadRetry(stage, wait, immediate, r, now).Foreign)
	})
}

func abs(n int) int {
	if n < 0 {
		return -(n + 1)
	}
	return n
}

// A line against a list: what starts starts in order, never early, and as soon as
// it and all before it are due; nothing is lost; far and head say what they should.
func TestLineAgainstAModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var l kstage.Line
		now := time.Unix(1_700_000_000, 0)
		var dues []time.Time // of all there ever were
		started := 0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "comes") {
				batch := make([]time.Time, rapid.IntRange(1, 5).Draw(t, "records"))
				for i := range batch { // by no means in order
					batch[i] = now.Add(time.Duration(rapid.Int64Range(-int64(time.Minute), int64(time.Minute)).Draw(t, "due")))
				}
				l.Add(batch...)
				dues = append(dues, batch...)
			}
			now = now.Add(time.Duration(rapid.Int64Range(-int64(time.Second), int64(30*time.Second)).Draw(t, "time")))
			for _, o := range l.Advance(now) {
				require.EqualValues(t, started, o, "in order, each once")
				require.False(t, now.Before(dues[o]), "never early")
				started++
			}
			require.Equal(t, len(dues)-started, l.Len())
			due, offset, waits := l.Head()
			require.Equal(t, started < len(dues), waits)
			until, far := l.Far(now)
			if !waits {
				require.False(t, far)
				continue
			}
			require.EqualValues(t, started, offset)
			require.Equal(t, dues[started], due)
			require.True(t, now.Before(due), "what is due does not wait")
			require.Equal(t, dues[len(dues)-1].Add(-kstage.LookAhead), until)
			require.Equal(t, now.Before(until), far)
		}
		var rest []int64
		for o := started; o < len(dues); o++ {
			rest = append(rest, int64(o))
		}
		require.Equal(t, rest, l.Advance(now.Add(time.Hour)))
		require.Zero(t, l.Len())
	})
}

// The timer wakes for the next record, or for fetching more where that comes first,
// and never later than the longest sleep: clocks are set, and machines sleep.
func TestLineWatch(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		dues []time.Duration
		want time.Duration // -1: never
	}{
		{"nothing waits", nil, -1},
		{"a record that is due soon", []time.Duration{500 * time.Millisecond}, 500 * time.Millisecond},
		{"more to fetch is sooner", []time.Duration{5 * time.Second}, 5*time.Second - kstage.LookAhead},
		{"the record is sooner than more to fetch", []time.Duration{3 * time.Second, 9 * time.Second}, 3 * time.Second},
		{"the last says when to fetch, as soon as it may", []time.Duration{3 * time.Second, 2 * time.Second}, 2*time.Second - kstage.LookAhead},
		{"an hour", []time.Duration{time.Hour}, kstage.LongestSleep},
		{"a thousand years", []time.Duration{math.MaxInt64}, kstage.LongestSleep},
		{"due already", []time.Duration{-time.Second}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var l kstage.Line
				defer l.Close()
				now := time.Now()
				for _, d := range tt.dues {
					l.Add(now.Add(d))
				}
				woken := make(chan time.Duration, 1)
				l.Watch(now, func() { woken <- time.Since(now) })
				select {
				case d := <-woken:
					require.Equal(t, tt.want, d)
				case <-time.After(time.Hour):
					require.EqualValues(t, -1, tt.want)
				}
			})
		})
	}
}

// A clock that is set forward while a record waits: the next look finds it due.
func TestLineLooksAtTheClockAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l kstage.Line
		began := time.Now()
		l.Add(began.Add(time.Hour))
		wake := make(chan struct{}, 1)
		l.Watch(began, func() { wake <- struct{}{} })
		<-wake
		require.LessOrEqual(t, time.Since(began), kstage.LongestSleep)
		require.Equal(t, []int64{0}, l.Advance(began.Add(2*time.Hour)))
	})
}

// Watching again moves the one timer; closing ends it for good.
func TestLineHasOneTimer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l kstage.Line
		wakes := 0
		now := time.Now()
		l.Add(now.Add(500 * time.Millisecond))
		for range 10 {
			l.Watch(time.Now(), func() { wakes++ })
		}
		<-time.After(time.Second)
		synctest.Wait()
		require.Equal(t, 1, wakes)
		l.Watch(now, func() { wakes++ })
		l.Close()
		l.Watch(now, func() { wakes++ })
		<-time.After(time.Hour)
		synctest.Wait()
		require.Equal(t, 1, wakes)
	})
}
