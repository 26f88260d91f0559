package kstage_test

import (
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

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
