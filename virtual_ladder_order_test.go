//go:build synctests

package kstage_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// Records of one key that fail go to the stages in the order of their source, and
// come back in it: each alone, though many workers could take them.
func TestTheLadderKeepsTheOrderOfAKey(t *testing.T) {
	t.Parallel()
	const n = 200
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		var mu sync.Mutex
		came, busy := map[string][]int{}, map[string]bool{}
		m := w.start(func(ctx context.Context, msg kstage.Message) error {
			i, err := strconv.Atoi(string(msg.Value()))
			require.NoError(t, err)
			mu.Lock()
			came[msg.Record.Topic] = append(came[msg.Record.Topic], i)
			require.False(t, busy[msg.Record.Topic], "two of a key at once")
			busy[msg.Record.Topic] = true
			mu.Unlock()
			err = slowly(time.Duration(i%7)*time.Millisecond)(ctx, msg)
			mu.Lock()
			defer mu.Unlock()
			busy[msg.Record.Topic] = false
			if err == nil && msg.Stage() < 2 && i%3 > 0 {
				err = errNotYet
			}
			return err
		}, append(opts, w.stages(1, 5*time.Second, time.Minute), once(), kstage.WithWorkers(8))...)
		w.fill(topic, 0, n, 1)
		w.eventually(func() bool { return m.counts.Snapshot().Processed == n })
		require.NoError(t, m.stop())
		m.assertIdentity()
		var all, failing []int
		for i := range n {
			all = append(all, i)
			if i%3 > 0 {
				failing = append(failing, i)
			}
		}
		require.Equal(t, all, came[topic])
		require.Equal(t, failing, came["g-retry-1"])
		require.Equal(t, failing, came["g-retry-2"])
	})
}

// A record that is retried in place within a stage is not overtaken there by later
// ones of its key, while other keys go on.
func TestImmediateRetriesOfAStageAreNotOvertaken(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		var j journal
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			j.note(msg)
			switch {
			case msg.Stage() == 0:
				return kstage.RetryAfter(errNotYet, 0)
			case msg.Attempt() < 4 && mix(1, msg)%2 == 0: // two retries in place
				return errNotYet
			}
			return nil
		}, append(opts, w.stages(1, 5*time.Second), kstage.WithImmediateRetries(2, kstage.Backoff{Min: 10 * time.Second, Max: 20 * time.Second}))...)
		w.fill(topic, 0, 40, 4)
		w.everySecond(time.Hour, func() bool { return m.counts.Snapshot().Processed == 40 })
		require.NoError(t, m.stop())
		m.assertIdentity()
		last, attempt, retries := map[string]int64{}, map[string]int{}, 0
		for _, d := range j.all() {
			if d.Topic != "g-retry-1" {
				continue
			}
			before, seen := last[d.Key]
			require.True(t, !seen || d.Offset >= before, "%v overtakes %d", d, before)
			if seen && d.Offset == before {
				retries++
				require.Equal(t, attempt[d.Key]+1, d.Attempt)
			}
			last[d.Key], attempt[d.Key] = d.Offset, d.Attempt
		}
		require.Greater(t, retries, 10)
		offsets := map[string][]int64{}
		for _, d := range j.all() {
			if d.Topic == "g-retry-1" {
				offsets[d.Key] = append(offsets[d.Key], d.Offset)
			}
		}
		for _, os := range offsets {
			require.True(t, slices.IsSorted(os))
			require.Len(t, slices.Compact(os), 10)
		}
	})
}

// Slow handlers of one intake leave a worker to the other: with two workers a retry
// is handled though main records block, and a main record though retries do.
func TestEachIntakeHasAWorker(t *testing.T) {
	t.Parallel()
	for _, blocked := range []string{"orders", "g-retry-1"} {
		t.Run(blocked, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				topic, opts := w.ladder(2)
				var going, hanging atomic.Int32
				m := w.start(func(ctx context.Context, msg kstage.Message) error {
					if msg.Record.Topic == blocked {
						hanging.Add(1)
						return cancelled(ctx)
					}
					going.Add(1)
					return nil
				}, append(opts, w.stages(2, 5*time.Second), once(), kstage.WithWorkers(2), kstage.WithShutdownTimeout(time.Second, 5*time.Second))...)
				fill := func(topics ...string) {
					for _, name := range topics {
						for i := range 20 {
							w.produce(record(name, int32(i%2), fmt.Sprint(i), "v"))
						}
					}
				}
				fill(blocked)
				w.eventually(func() bool { return hanging.Load() == 1 })
				after(10 * time.Second)
				other := map[string]string{topic: "g-retry-1", "g-retry-1": topic}[blocked]
				fill(other)
				began := time.Now()
				w.eventually(func() bool { return going.Load() == 20 })
				require.Less(t, time.Since(began), time.Second)
				require.EqualValues(t, 1, hanging.Load(), "nor more workers than there are")
				require.NoError(t, m.stop())
				m.assertIdentity()
			})
		})
	}
}

// The one worker serves both by turns: neither waits until the other has nothing left.
func TestOneWorkerServesBothIntakes(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		var mu sync.Mutex
		var order []bool // true: a retry
		var inside atomic.Int32
		opts = append(opts, w.stages(1, 5*time.Second))
		for i := range 50 {
			w.produce(record(topic, 0, fmt.Sprint(i), "v"))
			w.produce(record("g-retry-1", 0, fmt.Sprint(i), "v"))
		}
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			require.EqualValues(t, 1, inside.Add(1), "one worker is one call at a time")
			defer inside.Add(-1)
			mu.Lock()
			order = append(order, msg.Stage() > 0)
			mu.Unlock()
			after(time.Second)
			return nil
		}, append(opts, kstage.WithWorkers(1))...)
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 100 })
		require.NoError(t, m.stop())
		m.assertIdentity()
		first, last := slices.Index(order, true), slices.Index(order, false)
		require.Less(t, max(first, last), 10, "both have begun")
		for i := 20; i+10 < 80; i++ {
			require.Contains(t, order[i:i+10], true, "retries go on")
			require.Contains(t, order[i:i+10], false, "main records go on")
		}
	})
}
