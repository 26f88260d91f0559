package kstage_test

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/kstage/kstage"
)

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
