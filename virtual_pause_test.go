//go:build synctests

package kstage_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// Pausing before Run, all or single topics, means that nothing is fetched, and
// Health and Stats say so; Resume goes on at once.
func TestVirtualPause(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		pause, resume []string
		free          int // records of topics that are not paused
		reasons       []string
	}{
		{"all", nil, nil, 0, []string{""}},
		{"one topic", []string{"orders"}, []string{"orders"}, 5, []string{"orders"}},
		{"one topic, all resumed", []string{"orders"}, nil, 5, []string{"orders"}},
		{"both topics", []string{"orders", "bills"}, nil, 0, []string{"bills", "orders"}},
		{"all, but only a topic resumed", nil, []string{"orders"}, 0, []string{""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				for _, topic := range []string{"orders", "bills"} {
					w.topic(topic, 1)
					w.fill(topic, 0, 5, 5)
				}
				w.topic("g-dlq", 1)
				var j journal
				m := w.start(j.noting, kstage.WithTopics("orders", "bills"))
				m.Pause(c.pause...)
				m.Pause(c.pause...) // changes nothing
				w.eventually(func() bool { return len(m.Stats().Partitions) == 2 })
				after(time.Minute)
				require.Equal(t, c.free, j.len())
				require.Equal(t, c.reasons, pausedTopics(m))
				for _, s := range m.Stats().Partitions {
					paused := c.pause == nil || len(c.pause) == 2 || s.Topic == c.pause[0]
					require.Equal(t, paused, len(s.Paused) == 1 && s.Paused[0] == "user", "%+v", s)
				}
				require.True(t, m.Health().Live)
				require.True(t, m.Health().Ready)

				m.Resume(c.resume...)
				if c.name == "all, but only a topic resumed" {
					after(time.Minute)
					require.Zero(t, j.len(), "of a pause of all, single topics cannot be resumed")
					m.Resume()
				}
				after(600 * time.Millisecond) // no more than a fetch's wait
				require.Equal(t, 10, j.len())
				require.Empty(t, pausedTopics(m))
				require.NoError(t, m.stop())
				m.assertIdentity()
			})
		})
	}
}

func pausedTopics(m *member) (topics []string) {
	for _, r := range m.Health().Reasons {
		if r.Kind == kstage.HealthPaused {
			topics = append(topics, r.Topic)
		}
	}
	return topics
}

// What was fetched before the pause is still handled; nothing after.
func TestVirtualPauseLetsTheFetchedEnd(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.fill(topic, 0, 50, 50)
		started := make(chan struct{}, 100)
		release := make(chan struct{})
		var j journal
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			started <- struct{}{}
			<-release
			j.note(msg)
			return nil
		}, append(opts, kstage.WithWorkers(2))...)
		<-started
		m.Pause()
		w.fill(topic, 0, 50, 50)
		close(release)
		after(time.Minute)
		require.Equal(t, 50, j.len())
		require.EqualValues(t, 50, w.groupOffset(topic, 0))
		m.Resume()
		after(600 * time.Millisecond)
		require.Equal(t, 100, j.len())
	})
}

// The user's pause is the consumer's, not an assignment's: a rebalance does not
// end it, be it cooperative or eager.
func TestVirtualPauseSurvivesRebalances(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		opts []kgo.Opt
	}{{"cooperative", nil}, {"eager", []kgo.Opt{kgo.Balancers(kgo.RangeBalancer())}}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				const parts = 4
				topic, opts := w.ladder(parts)
				opts = append(opts, kstage.WithClientOptions(func(role kstage.ClientRole) []kgo.Opt {
					if role == kstage.RoleMain {
						return append(append([]kgo.Opt{}, w.reach...), c.opts...)
					}
					return w.reach
				}))
				var first, second journal
				m := w.start(first.noting, opts...)
				m.Pause()
				w.eventually(func() bool { return len(m.Stats().Partitions) == parts })
				other := w.start(second.noting, opts...)
				w.eventually(func() bool { return len(m.Stats().Partitions) == parts/2 && len(other.Stats().Partitions) == parts/2 })
				for p := range int32(parts) {
					w.fill(topic, p, 3, 3)
				}
				w.eventually(func() bool { return second.len() == 3*parts/2 })
				after(time.Minute)
				require.Zero(t, first.len())

				require.NoError(t, other.stop())
				w.eventually(func() bool { return len(m.Stats().Partitions) == parts })
				after(time.Minute)
				require.Zero(t, first.len())
				for _, s := range m.Stats().Partitions {
					require.Equal(t, []string{"user"}, s.Paused)
				}
				m.Resume()
				after(600 * time.Millisecond)
				require.Equal(t, 3*parts/2, first.len())
			})
		})
	}
}

// Each reason for a pause ends by itself: what the user paused stays so when the
// window empties, and what is full stays so when the user resumes.
func TestVirtualPauseReasonsAreASet(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.batches(topic, 0, 10, 10, "v")
		release := make(chan struct{}, 100)
		w.t.Cleanup(func() { close(release) })
		m := w.start(func(context.Context, kstage.Message) error { <-release; return nil },
			append(opts, kstage.WithWindow(kstage.Window{Records: 20}), smallFetches(), kstage.WithWorkers(1))...)
		paused := func() []string { return m.Stats().Partitions[0].Paused }
		let := func(n int) {
			for range n {
				release <- struct{}{}
			}
			after(time.Second)
		}
		w.eventually(func() bool { return len(m.Stats().Partitions) == 1 && len(paused()) == 1 })
		m.Pause(topic)
		require.Equal(t, []string{"backpressure", "user"}, paused())
		m.Resume(topic)
		after(time.Second)
		require.Equal(t, []string{"backpressure"}, paused())
		held := m.Loads()[0].Records

		m.Pause(topic)
		let(int(held))
		require.Equal(t, []string{"user"}, paused())
		require.Zero(t, m.Pressed())
		require.Zero(t, m.Loads()[0].Records)
		m.Resume(topic)
		after(time.Second)
		require.Equal(t, []string{"backpressure"}, paused(), "it has filled again")
	})
}

// Backpressure dies with the assignment: a partition that went while it was full,
// and comes back, is fetched.
func TestVirtualBackpressureDiesWithTheAssignment(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(2)
		for p := range int32(2) {
			w.batches(topic, p, 6, 10, "v")
		}
		opts = append(opts, kstage.WithWindow(kstage.Window{Records: 20}), smallFetches(), kstage.WithRevokeDrain(time.Second))
		release := make(chan struct{})
		held := func(ctx context.Context, _ kstage.Message) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		m := w.start(held, opts...)
		w.eventually(func() bool { return m.Pressed() == 2 })
		other := w.start(held, opts...)
		w.eventually(func() bool { return other.Pressed() == 1 && m.Pressed() == 1 })
		other.cancel()
		w.eventually(func() bool { return m.Pressed() == 2 })
		close(release)
		w.eventually(func() bool { return w.groupOffset(topic, 0) == 60 && w.groupOffset(topic, 1) == 60 })
		require.Zero(t, m.Pressed())
	})
}
