//go:build synctests

package kstage_test

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// met is what a handler saw of a record, by its value.
type met struct {
	mu    sync.Mutex
	calls map[string][]sighting
}

type sighting struct {
	at             time.Time
	attempt, stage int
	failed         time.Time
}

func (m *met) handle(_ context.Context, msg kstage.Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.calls == nil {
		m.calls = map[string][]sighting{}
	}
	failed, _ := msg.FirstFailedAt()
	v := string(msg.Value())
	m.calls[v] = append(m.calls[v], sighting{time.Now(), msg.Attempt(), msg.Stage(), failed})
	return nil
}

func (m *met) len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.calls)
}

// Due times that somebody forged, straight into a retry topic: each record waits at
// most its stage's delay, and those whose header is no time do not wait at all.
func TestForgedDueTimesWaitAtMostTheStagesDelay(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		stages := w.stages(int32(len(forgeries))+1, 5*time.Second, time.Minute)
		var m met
		c := w.start(m.handle, append(opts, stages)...)
		w.eventually(func() bool { return len(c.Stats().Partitions) == 1+2*(len(forgeries)+1) })
		began := time.Now()
		for p, v := range forgeries {
			w.produce(copied(record("g-retry-2", int32(p), "k", fmt.Sprint(p)), "kstage-due", v))
		}
		w.produce(record("g-retry-2", int32(len(forgeries)), "k", "no header"))
		w.eventually(func() bool { return m.len() == len(forgeries)+1 })
		after(5 * time.Minute) // none comes again
		for v, calls := range m.calls {
			require.Len(t, calls, 1, v)
			took := calls[0].at.Sub(began)
			require.LessOrEqual(t, took, time.Minute+500*time.Millisecond, v)
			if p, err := strconv.Atoi(v); err != nil || !isLate(forgeries[p], began) {
				require.Less(t, took, time.Second, v)
			} else {
				require.GreaterOrEqual(t, took, time.Minute, v)
			}
		}
		require.NoError(t, c.stop())
		c.assertIdentity()
	})
}

// isLate says that a header is a time to come.
func isLate(header string, now time.Time) bool {
	n, err := strconv.ParseInt(header, 10, 64)
	return err == nil && n > now.UnixMilli()
}

// One forged record does not keep those behind it for longer than the delay, either;
// and what a restart or another owner reads again does not wait anew for ever.
func TestForgedDueTimesKeepNobodyLonger(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		opts = append(opts, w.stages(1, 10*time.Minute))
		began := time.Now()
		w.produce(copied(record("g-retry-1", 0, "k", "forged"), "kstage-due", strconv.FormatInt(math.MaxInt64, 10)))
		w.produce(copied(record("g-retry-1", 0, "k", "honest"), "kstage-due", strconv.FormatInt(began.UnixMilli(), 10)))
		var m met
		for range 3 {
			c := w.start(m.handle, opts...)
			after(3 * time.Minute)
			require.NoError(t, c.stop())
			require.Zero(t, m.len())
			c.assertIdentity()
		}
		c := w.start(m.handle, opts...)
		w.everySecond(time.Hour, func() bool { return m.len() == 2 })
		for v, calls := range m.calls {
			require.WithinDuration(t, began.Add(10*time.Minute), calls[0].at, 5*time.Second, "%s: from being written, not from the last restart", v)
		}
		require.NoError(t, c.stop())
		c.assertIdentity()
	})
}

// The attempt is clamped to what the stage has, the stage header only lowers, and a
// failure in the future is one of now: else it would never be too old.
func TestForgedAttemptsStagesAndFailures(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		key, value     string
		attempt, stage int
	}{
		{"kstage-attempt", "0", 1, 2},
		{"kstage-attempt", "-5", 1, 2},
		{"kstage-attempt", "1000000000000", 9, 2},
		{"kstage-attempt", "text", 1, 2},
		{"kstage-stage", "1", 1, 1},
		{"kstage-stage", "0", 1, 0},
		{"kstage-stage", "3", 1, 2},
		{"kstage-stage", "-1", 1, 2},
		{"kstage-stage", "text", 1, 2},
		{"kstage-first-failed-at", "253402300799000", 1, 2},
		{"kstage-not-before", "text", 1, 2},
		{"kstage-not-before", "1", 1, 2},
	} {
		t.Run(tt.key+" "+tt.value, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				_, opts := w.ladder(1)
				opts = append(opts, w.stages(1, 5*time.Second, time.Minute, 2*time.Minute))
				w.produce(copied(record("g-retry-2", 0, "k", "v"), tt.key, tt.value))
				var m met
				c := w.start(m.handle, opts...)
				w.eventually(func() bool { return m.len() == 1 })
				s := m.calls["v"][0]
				require.Equal(t, tt.attempt, s.attempt)
				require.Equal(t, tt.stage, s.stage)
				require.False(t, s.failed.After(s.at))
				require.NoError(t, c.stop())
				c.assertIdentity()
			})
		})
	}
}

// A record that says it was snoozed until the year 9999 hops; its age ends that, also
// where it does not say since when it fails: counted from when it was first read.
func TestForgedNotBeforeEndsWithTheRecordsAge(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string][]string{
		"no first failure":               nil,
		"a first failure in the future":  {"kstage-first-failed-at", "253402300799000"},
		"a first failure that is none":   {"kstage-first-failed-at", "text"},
		"a first failure before the era": {"kstage-first-failed-at", "-62135596800000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				_, opts := w.ladder(1)
				opts = append(opts, w.stages(1, 5*time.Second, time.Minute), kstage.WithMaxAge(30*time.Minute))
				began := time.Now()
				w.produce(copied(record("g-retry-1", 0, "k", "v"), append(headers, "kstage-not-before", "253402300799000")...))
				var m met
				c := w.start(m.handle, opts...)
				w.everySecond(2*time.Hour, func() bool { return c.counts.Snapshot().SentToDLQ == 1 })
				require.WithinDuration(t, began.Add(30*time.Minute), time.Now(), 90*time.Second)
				require.Zero(t, m.len())
				require.Equal(t, kstage.ReasonExpired, w.deadLetters()[0].Reason)
				require.NoError(t, c.stop())
				c.assertIdentity()
			})
		})
	}
}
