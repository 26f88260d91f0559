//go:build synctests

package kstage_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// Stats tells what waits in a stage, until when, and how late it was.
func TestStagesStats(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		stages := w.stages(2, time.Minute, time.Hour)
		due := time.Now().Add(time.Minute)
		w.produce(retryCopy("g-retry-1", 0, "k", due), retryCopy("g-retry-1", 0, "k", due), retryCopy("g-retry-1", 0, "k", due))
		w.fill(topic, 0, 3, 1)
		var log eventLog
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			if msg.Stage() > 0 {
				after(20 * time.Millisecond)
			}
			return nil
		}, append(opts, stages, once(), kstage.WithWorkers(1), kstage.WithMetrics(&log))...)
		after(10 * time.Second)
		s := statsOf(m, "g-retry-1", 0)
		require.WithinDuration(t, due, s.NextDue, time.Millisecond)
		s.NextDue, s.Bytes = time.Time{}, 0
		require.Equal(t, kstage.PartitionStats{
			Topic: "g-retry-1", Stage: 1, Committed: -1, Head: 0, HighestFinished: -1, LogEnd: 3, Lag: 3, InFlight: 3,
			Paused: []string{"delay"}, Waiting: 3,
		}, s)
		require.Equal(t, kstage.PartitionStats{Topic: "g-retry-1", Partition: 1, Stage: 1, Committed: -1, Head: -1, HighestFinished: -1, LogEnd: -1, Lag: -1}, statsOf(m, "g-retry-1", 1))
		require.Equal(t, 2, statsOf(m, "g-retry-2", 1).Stage)
		require.Zero(t, statsOf(m, topic, 0).Stage)
		var order []string
		for _, p := range m.Stats().Partitions {
			order = append(order, p.Topic)
		}
		require.Equal(t, []string{"orders", "g-retry-1", "g-retry-1", "g-retry-2", "g-retry-2"}, order)
		w.produce(retryCopy("g-retry-1", 0, "k", time.Now().Add(time.Hour)), retryCopy("g-retry-1", 0, "k", time.Now().Add(time.Hour)))
		require.Equal(t, 3, statsOf(m, "g-retry-1", 0).Waiting, "more wait at the broker")

		w.eventually(func() bool { return log.Snapshot().Processed == 6 })
		after(2 * time.Second)
		s = statsOf(m, "g-retry-1", 0)
		require.EqualValues(t, 3, s.Committed)
		require.EqualValues(t, 5, s.LogEnd)
		require.EqualValues(t, 2, s.Lag)
		require.Equal(t, 2, s.Waiting)
		require.GreaterOrEqual(t, s.Late, 40*time.Millisecond, "the third waited for two")
		require.Less(t, s.Late, 100*time.Millisecond)
		require.Zero(t, statsOf(m, topic, 0).Late)
		for _, e := range log.handled() {
			if e.Topic == topic {
				require.Zero(t, e.Late)
				require.Zero(t, e.Stage)
			} else {
				require.Equal(t, 1, e.Stage)
				require.Less(t, e.Late, 100*time.Millisecond)
			}
		}
		last := log.handled()[5]
		require.Equal(t, s.Late, last.Late)
		require.NoError(t, m.stop())
		requireIdentity(t, log.Snapshot())
	})
}

// A record that waits to be due is not stuck; one of a stage whose handler hangs is,
// though others wait behind it.
func TestStagesStuckRecord(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		stages := w.stages(1, 10*time.Minute)
		release := make(chan struct{})
		began := time.Now()
		m := w.start(func(context.Context, kstage.Message) error { <-release; return nil }, append(opts, stages, once(), kstage.WithStuckAfter(time.Minute))...)
		w.produce(retryCopy("g-retry-1", 0, "k", began.Add(9*time.Minute)), retryCopy("g-retry-1", 0, "k", began.Add(59*time.Minute)))
		for range 8 {
			after(time.Minute)
			require.Empty(t, m.Health().Reasons)
		}
		after(time.Until(began.Add(10*time.Minute - 3*time.Second)))
		require.Empty(t, m.Health().Reasons, "its minute begins when it is due")
		after(6 * time.Second)
		require.Equal(t, []string{"stuck-record g-retry-1/0@0"}, reasonsOf(m.Health()))
		require.True(t, m.Health().Ready)
		close(release)
		after(2 * time.Second)
		require.Empty(t, m.Health().Reasons)
		require.NoError(t, m.stop())
	})
}

// Pause of all includes the stages; of a main topic, only that; of a stage, only
// that. What waits is handled when it is due, whether more is fetched or not.
func TestStagesPause(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		pause []string
		free  map[string]bool
	}{
		"all":          {nil, map[string]bool{}},
		"a main topic": {[]string{"orders"}, map[string]bool{"g-retry-1": true, "g-retry-2": true}},
		"a stage":      {[]string{"g-retry-1"}, map[string]bool{"orders": true, "g-retry-2": true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				topic, opts := w.ladder(1)
				stages := w.stages(1, time.Second, 5*time.Second)
				fill := func() {
					w.produce(record(topic, 0, "k", "v"))
					w.produce(retryCopy("g-retry-1", 0, "k", time.Now().Add(time.Second)), retryCopy("g-retry-2", 0, "k", time.Now().Add(5*time.Second)))
				}
				var j journal
				m := w.start(j.noting, append(opts, stages, once())...)
				w.eventually(func() bool { return m.Health().Ready })
				fill()
				after(500 * time.Millisecond)
				m.Pause(c.pause...)
				after(20 * time.Second)
				require.Equal(t, 3, j.len(), "what was fetched before is handled when it is due")
				fill()
				after(time.Minute)
				require.Equal(t, 3+len(c.free), j.len())
				for _, s := range m.Stats().Partitions {
					if c.free[s.Topic] {
						require.Empty(t, s.Paused, s.Topic)
					} else {
						require.Equal(t, []string{"user"}, s.Paused, s.Topic)
					}
				}
				require.True(t, m.Health().Ready && m.Health().Live)
				require.Len(t, m.Health().Reasons, 1)
				m.Resume(c.pause...)
				after(6 * time.Second)
				require.Equal(t, 6, j.len())
				require.Empty(t, m.Health().Reasons)
				require.NoError(t, m.stop())
			})
		})
	}
}

// A pause by the user and one for a delay are two reasons of one switch: neither
// ends the other.
func TestStagesPauseWhileTheyWait(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		stages := w.stages(1, time.Minute)
		w.produce(retryCopy("g-retry-1", 0, "k", time.Now().Add(time.Minute)))
		var j journal
		m := w.start(j.noting, append(opts, stages)...)
		after(5 * time.Second)
		require.Equal(t, []string{"delay"}, statsOf(m, "g-retry-1", 0).Paused)
		m.Pause()
		require.Equal(t, []string{"user", "delay"}, statsOf(m, "g-retry-1", 0).Paused)
		m.Resume()
		require.Equal(t, []string{"delay"}, statsOf(m, "g-retry-1", 0).Paused)
		m.Pause()
		after(time.Minute)
		require.Equal(t, 1, j.len(), "it was fetched before")
		require.Equal(t, []string{"user"}, statsOf(m, "g-retry-1", 0).Paused)
		w.produce(retryCopy("g-retry-1", 0, "k", time.Now()))
		after(time.Minute)
		require.Equal(t, 1, j.len())
		m.Resume()
		after(time.Second)
		require.Equal(t, 2, j.len())
		require.NoError(t, m.stop())
	})
}

// Each intake joins a group of its own; ready is who has joined both, and Health
// names the one that is missing.
func TestStagesReadyOnlyWhenBothHaveJoined(t *testing.T) {
	t.Parallel()
	for _, held := range []string{"g", "g-retry"} {
		t.Run(held, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				topic, opts := w.ladder(1)
				stages := w.stages(1, time.Second)
				w.fill(topic, 0, 3, 3)
				on := w.blackhole(func(req kmsg.Request) bool {
					join, ok := req.(*kmsg.JoinGroupRequest)
					return ok && join.Group == held
				})
				on.Store(true)
				m := w.start(handleNothing, append(opts, stages)...)
				after(20 * time.Second)
				require.Equal(t, []string{"not-joined " + held}, reasonsOf(m.Health()))
				require.False(t, m.Health().Ready)
				require.Equal(t, held != "g", m.counts.Snapshot().Processed == 3, "the other goes on")
				on.Store(false)
				w.eventually(func() bool { return m.Health().Ready })
				require.Empty(t, m.Health().Reasons)
				require.NoError(t, m.stop())
			})
		})
	}
}

// The client options of a role reach that client alone, and the retry topics'
// settings are ours, whatever WithFetch says for the main ones.
func TestStagesHaveAClientOfTheirOwn(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		g, grab := grabbing(w, nil)
		m := w.start(handleNothing, append(opts, w.stages(1, time.Second), grab, kstage.WithFetch(kstage.Fetch{MaxWait: 3 * time.Second, MaxPartitionBytes: 5}))...)
		w.eventually(func() bool { return m.Health().Ready })
		require.Equal(t, 250*time.Millisecond, g.opt(kstage.RoleRetry, kgo.FetchMaxWait))
		require.EqualValues(t, 64<<10, g.opt(kstage.RoleRetry, kgo.FetchMaxPartitionBytes))
		require.Equal(t, "g-retry", g.opt(kstage.RoleRetry, kgo.ConsumerGroup))
		require.Equal(t, 3*time.Second, g.opt(kstage.RoleMain, kgo.FetchMaxWait))
		require.NoError(t, m.stop())
	})
}
