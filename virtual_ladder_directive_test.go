//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// scripted is a handler that answers each call of a value as its script says, by
// the call's number from 1 on, and notes them.
func scripted(log *calls, answer func(n int, msg kstage.Message) error) kstage.HandlerFunc {
	return func(_ context.Context, msg kstage.Message) error { return answer(log.note(msg), msg) }
}

// calls are handler calls by the record's value.
type calls struct {
	mu  sync.Mutex
	all map[string][]called
}

type called struct {
	at             time.Time
	topic          string
	attempt, stage int
}

func (c *calls) note(msg kstage.Message) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[string][]called{}
	}
	v := string(msg.Value())
	c.all[v] = append(c.all[v], called{time.Now(), msg.Record.Topic, msg.Attempt(), msg.Stage()})
	return len(c.all[v])
}

func (c *calls) of(value string) []called {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.all[value])
}

func attempts(cs []called) (ns []int) {
	for _, c := range cs {
		ns = append(ns, c.attempt)
	}
	return ns
}

func stagesOf(cs []called) (ns []int) {
	for _, c := range cs {
		ns = append(ns, c.stage)
	}
	return ns
}

// Beyond the last stage a record hops: the handler is not called, no attempt is
// spent, and it is handled no sooner than it asked. It is one attempt, and from the
// last stage there is no more.
func TestRetryAfterBeyondTheLastStageHops(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		var log calls
		m := w.start(scripted(&log, func(int, kstage.Message) error { return kstage.RetryAfter(errNotYet, 10*time.Minute) }),
			append(opts, w.stages(1, 5*time.Second, time.Minute), kstage.WithImmediateRetries(2, kstage.Backoff{Min: 1, Max: 1}))...)
		w.produce(record(topic, 0, "k", "v"))
		w.everySecond(time.Hour, func() bool { return m.counts.Snapshot().SentToDLQ == 1 })
		cs := log.of("v")
		require.Equal(t, []int{1, 2}, attempts(cs), "hops are no attempts, and there are no immediate retries")
		require.Equal(t, []int{0, 2}, stagesOf(cs))
		require.GreaterOrEqual(t, cs[1].at.Sub(cs[0].at), 10*time.Minute)
		require.Less(t, cs[1].at.Sub(cs[0].at), 10*time.Minute+100*time.Millisecond, "nobody was in the way")
		s := m.counts.Snapshot()
		require.EqualValues(t, 10, s.Retried, "it was written once and hopped nine times")
		require.EqualValues(t, 2, s.Failed)
		require.NoError(t, m.stop())
		m.assertIdentity()
		d := w.deadLetters()[0]
		require.Equal(t, kstage.ReasonExhausted, d.Reason)
		require.Equal(t, 2, d.Attempt)
		require.Equal(t, 2, d.Stage)
		require.Equal(t, topic, d.Origin.Topic)
	})
}

// Who hops may find others before it in the last stage: it is late by at most that
// stage's delay.
func TestAHopIsLateByAtMostTheLastStagesDelay(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		var log calls
		m := w.start(scripted(&log, func(n int, msg kstage.Message) error {
			switch {
			case n == 2 || n == 3 && string(msg.Value()) != "hops":
				return nil
			case string(msg.Value()) == "hops":
				return kstage.RetryAfter(errNotYet, 130*time.Second)
			}
			return kstage.RetryAfter(errNotYet, time.Minute)
		}), append(opts, w.stages(1, 5*time.Second, time.Minute), once())...)
		w.produce(record(topic, 0, "k", "hops"))
		after(119 * time.Second)
		w.produce(record(topic, 0, "k", "before"))
		w.everySecond(time.Hour, func() bool { return m.counts.Snapshot().Processed == 2 })
		hops, before := log.of("hops"), log.of("before")
		took := hops[1].at.Sub(hops[0].at)
		require.GreaterOrEqual(t, took, 170*time.Second, "it waited behind the other one")
		require.Less(t, took, 130*time.Second+time.Minute)
		require.False(t, hops[1].at.Before(before[1].at))
		require.NoError(t, m.stop())
		m.assertIdentity()
	})
}

// Snooze costs no attempt and no stage: the record comes back as what it was, with
// the full ladder ahead.
func TestSnoozeCostsNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		snooze   time.Duration
		at       []int // calls that snooze
		attempts []int
		stages   []int
		topics   []string
		gaps     []time.Duration
	}{
		{
			"from main", 30 * time.Second,
			[]int{1},
			[]int{1, 1, 2, 3},
			[]int{0, 0, 1, 2},
			[]string{"orders", "g-retry-2", "g-retry-1", "g-retry-2"},
			[]time.Duration{time.Minute, 5 * time.Second, time.Minute},
		},
		{
			"from a stage", time.Second,
			[]int{2, 3},
			[]int{1, 2, 2, 2, 3},
			[]int{0, 1, 1, 1, 2},
			[]string{"orders", "g-retry-1", "g-retry-1", "g-retry-1", "g-retry-2"},
			[]time.Duration{5 * time.Second, 5 * time.Second, 5 * time.Second, time.Minute},
		},
		{
			"from the last stage", 30 * time.Second,
			[]int{3},
			[]int{1, 2, 3, 3},
			[]int{0, 1, 2, 2},
			[]string{"orders", "g-retry-1", "g-retry-2", "g-retry-2"},
			[]time.Duration{5 * time.Second, time.Minute, time.Minute},
		},
		{
			"beyond the last", 90 * time.Second,
			[]int{1, 3},
			[]int{1, 1, 2, 2, 3},
			[]int{0, 0, 1, 1, 2},
			[]string{"orders", "g-retry-2", "g-retry-1", "g-retry-2", "g-retry-2"},
			[]time.Duration{90 * time.Second, 5 * time.Second, 90 * time.Second, time.Minute},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				topic, opts := w.ladder(1)
				var log calls
				m := w.start(scripted(&log, func(n int, _ kstage.Message) error {
					if slices.Contains(tt.at, n) {
						return kstage.Snooze(tt.snooze)
					}
					return errNotYet
				}), append(opts, w.stages(1, 5*time.Second, time.Minute), once())...)
				w.produce(record(topic, 0, "k", "v"))
				w.everySecond(time.Hour, func() bool { return m.counts.Snapshot().SentToDLQ == 1 })
				cs := log.of("v")
				require.Equal(t, tt.attempts, attempts(cs))
				require.Equal(t, tt.stages, stagesOf(cs))
				for i, d := range tt.gaps {
					require.Equal(t, tt.topics[i+1], cs[i+1].topic)
					gap := cs[i+1].at.Sub(cs[i].at)
					require.GreaterOrEqual(t, gap, d)
					require.Less(t, gap, d+100*time.Millisecond)
				}
				require.NoError(t, m.stop())
				m.assertIdentity()
				require.EqualValues(t, len(cs)-len(tt.at), m.counts.Snapshot().Failed, "to be asleep is no failure")
				require.Equal(t, 3, w.deadLetters()[0].Attempt)
			})
		})
	}
}

// The age ends what would be asleep, or hop, for ever. A hop that ends so is dead
// with the last failure's error, and its handler is not called again.
func TestMaxAgeEndsSnoozesAndHops(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		stages   []time.Duration
		answer   error
		calls    int // at least
		most     int
		late     time.Duration
		errors   string
		attempts int
	}{
		{"asleep", []time.Duration{5 * time.Second, time.Minute}, kstage.Snooze(30 * time.Second), 10, 12, time.Minute, "kstage: snoozed", 1},
		{"asleep beyond the last", []time.Duration{5 * time.Second}, kstage.Snooze(9 * time.Minute), 2, 2, 9 * time.Minute, "kstage: snoozed", 0},
		{"hops", []time.Duration{5 * time.Second, time.Minute}, kstage.RetryAfter(errors.New("the bank is closed"), time.Hour), 1, 1, time.Minute, "the bank is closed", 1},
		{"asleep in place", nil, kstage.Snooze(30 * time.Second), 20, 22, 30 * time.Second, "kstage: snoozed", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				topic, opts := w.ladder(1)
				var log calls
				m := w.start(scripted(&log, func(int, kstage.Message) error { return tt.answer }),
					append(opts, w.stages(1, tt.stages...), once(), kstage.WithMaxAge(10*time.Minute))...)
				w.produce(record(topic, 0, "k", "v"))
				began := time.Now()
				w.everySecond(2*time.Hour, func() bool { return m.counts.Snapshot().SentToDLQ == 1 })
				require.GreaterOrEqual(t, time.Since(began), 10*time.Minute)
				require.Less(t, time.Since(began), 10*time.Minute+tt.late+2*time.Second)
				cs := log.of("v")
				require.GreaterOrEqual(t, len(cs), tt.calls)
				require.LessOrEqual(t, len(cs), tt.most)
				for _, c := range cs {
					require.Equal(t, 1, c.attempt)
				}
				require.NoError(t, m.stop())
				m.assertIdentity()
				d := w.deadLetters()[0]
				require.Equal(t, kstage.ReasonExpired, d.Reason)
				require.Equal(t, tt.errors, d.Error)
				require.Equal(t, tt.attempts, d.Attempt)
				require.WithinDuration(t, cs[0].at, d.FirstFailedAt, time.Millisecond)
				require.WithinDuration(t, cs[len(cs)-1].at, d.LastFailedAt, time.Millisecond)
			})
		})
	}
}

// Without stages the key waits in place and the others go on: for Snooze without a
// bound, for RetryAfter as often as there are immediate retries.
func TestWithoutStagesTheKeyWaitsHere(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		var log calls
		m := w.start(scripted(&log, func(n int, msg kstage.Message) error {
			switch v := string(msg.Value()); {
			case v == "asleep" && n <= 30:
				return kstage.Snooze(time.Minute)
			case v == "later":
				return kstage.RetryAfter(errNotYet, time.Minute)
			}
			return nil
		}), append(opts, kstage.WithImmediateRetries(2, kstage.Backoff{Min: 1, Max: 1}))...)
		w.values(topic, "a", "asleep", "behind asleep")
		w.values(topic, "b", "later", "behind later")
		w.values(topic, "c", "free")
		w.everySecond(time.Minute, func() bool { return len(log.of("free")) == 1 })
		w.everySecond(time.Hour, func() bool { return len(log.of("behind later")) == 1 })
		w.everySecond(3*time.Hour, func() bool { return len(log.of("behind asleep")) == 1 })
		asleep, later := log.of("asleep"), log.of("later")
		require.Len(t, asleep, 31, "there is no bound by count")
		require.Equal(t, []int{1, 2, 3}, attempts(later), "it costs an attempt each time")
		for _, cs := range [][]called{asleep, later} {
			for i := 1; i < len(cs); i++ {
				require.GreaterOrEqual(t, cs[i].at.Sub(cs[i-1].at), time.Minute)
				require.Less(t, cs[i].at.Sub(cs[i-1].at), time.Minute+10*time.Millisecond)
			}
		}
		require.Equal(t, 1, asleep[30].attempt)
		require.False(t, log.of("behind asleep")[0].at.Before(asleep[30].at), "its key has waited")
		require.False(t, log.of("behind later")[0].at.Before(later[2].at))
		require.Less(t, log.of("free")[0].at.Sub(asleep[0].at), time.Second)
		require.NoError(t, m.stop())
		m.assertIdentity()
		d := w.deadLetters()
		require.Len(t, d, 1)
		require.Equal(t, kstage.ReasonExhausted, d[0].Reason)
	})
}

// Immediate retries are each stage's own: 3 calls in each of 3 places, wherever the
// consumer was restarted while the record waited.
func TestAttemptsAreCountedOverStagesAndRestarts(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		opts = append(opts, w.stages(1, time.Minute, 2*time.Minute), kstage.WithImmediateRetries(2, kstage.Backoff{Min: time.Second, Max: time.Second}))
		var log calls
		fails := scripted(&log, func(int, kstage.Message) error { return errNotYet })
		w.produce(record(topic, 0, "k", "v"))
		for _, n := range []int{3, 6} {
			m := w.start(fails, opts...)
			w.eventually(func() bool { return len(log.of("v")) == n && m.counts.Snapshot().Retried == 1 })
			after(10 * time.Second)
			require.NoError(t, m.stop())
			m.assertIdentity()
		}
		m := w.start(fails, opts...)
		w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 1 })
		require.NoError(t, m.stop())
		m.assertIdentity()
		cs := log.of("v")
		require.Equal(t, []int{1, 2, 3, 4, 5, 6, 7, 8, 9}, attempts(cs))
		require.Equal(t, []int{0, 0, 0, 1, 1, 1, 2, 2, 2}, stagesOf(cs))
		d := w.deadLetters()
		require.Len(t, d, 1)
		require.Equal(t, 9, d[0].Attempt)
	})
}

// That bound holds for a handler that fails and snoozes by turns, too: what it spent
// of a stage's attempts before it was asleep is spent.
func TestSnoozeGivesNoAttemptsBack(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		opts = append(opts, w.stages(1, 5*time.Second), kstage.WithImmediateRetries(2, kstage.Backoff{Min: 1, Max: 1}))
		var log calls
		m := w.start(scripted(&log, func(n int, _ kstage.Message) error {
			if n%2 == 0 {
				return kstage.Snooze(time.Second)
			}
			return errNotYet
		}), opts...)
		w.produce(record(topic, 0, "k", "v"))
		w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 1 })
		require.NoError(t, m.stop())
		m.assertIdentity()
		require.EqualValues(t, 6, m.counts.Snapshot().Failed)
		require.Equal(t, []int{1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6}, attempts(log.of("v")))
	})
}

// A record that expires while it hops, and then blocks its key, is not handled before
// the time it asked for.
func TestABlockedHopIsNotEarly(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		var j journal
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			if j.note(msg); j.len() == 1 {
				return kstage.RetryAfter(errNotYet, time.Hour)
			}
			return nil
		}, append(opts, w.stages(1, time.Minute), once(), kstage.WithMaxAge(10*time.Minute), kstage.WithoutDLQ(kstage.Block))...)
		w.produce(record(topic, 0, "k", "v"))
		w.everySecond(2*time.Hour, func() bool { return m.counts.Snapshot().Processed == 1 })
		require.NoError(w.t, m.stop())
		calls := j.all()
		require.Len(w.t, calls, 2)
		require.GreaterOrEqual(w.t, calls[1].At.Sub(calls[0].At), time.Hour)
		m.assertIdentity()
	})
}
