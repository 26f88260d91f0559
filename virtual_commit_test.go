//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// A commit that fails is tried again until it succeeds: Health says so meanwhile,
// unless it is but a rebalance, and only of the partition that fails. Offsets
// never go back.
func TestFailedCommitsAreTriedAgain(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		err   *kerr.Error
		parts []int32 // nil: both
		told  bool    // Health says so
	}{
		{"coordinator moved", kerr.NotCoordinator, nil, false}, // the client itself tries again
		{"coordinator loads", kerr.CoordinatorLoadInProgress, nil, false},
		{"rebalance", kerr.RebalanceInProgress, nil, false},
		{"unknown", kerr.UnknownServerError, []int32{1}, true},
		{"metadata too large", kerr.OffsetMetadataTooLarge, []int32{1}, true},
		{"unknown topic", kerr.UnknownTopicOrPartition, []int32{1}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				c := newCrew(w, 2)
				m := c.join("m", nothing)
				w.eventually(func() bool { return m.Health().Ready })
				fault := w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Topic: c.topic, Partitions: test.parts, Err: test.err, Count: 2})
				w.fill(c.topic, 0, 3, 1)
				w.fill(c.topic, 1, 3, 1)
				w.eventually(func() bool { return fault.Hits() > 0 })
				if test.told {
					w.eventually(func() bool { return c.stored(0) == 3 })
					r, ok := m.reason(kstage.HealthCommitFailing)
					require.True(t, ok)
					require.EqualValues(t, 1, r.Partition)
					require.ErrorIs(t, r.Err, test.err)
					require.True(t, m.Health().Ready, "records are still handled")
				}
				w.eventually(func() bool { return c.stored(0) == 3 && c.stored(1) == 3 })
				w.eventually(func() bool { return len(m.Health().Reasons) == 0 })
				if !test.told {
					require.Empty(t, m.changes(kstage.HealthCommitFailing))
				}
				require.NoError(t, m.stop())
				forwardOnly(t, c.seen())
				c.right()
			})
		})
	}
}

// forwardOnly requires that no member's commits of a partition go back.
func forwardOnly(t *testing.T, commits []committing) {
	t.Helper()
	type of struct {
		member    string
		partition int32
	}
	last := map[of]int64{}
	for _, m := range commits {
		k := of{m.member, m.partition}
		require.GreaterOrEqual(t, m.offset, last[k], "%+v", m)
		last[k] = m.offset
	}
}

// Connections that break at each commit, and a coordinator that answers none for
// a minute: the offset stays to be committed, and Health says so.
func TestUnansweredCommitsAreTriedAgain(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		error error // nil: no answer
	}{
		{"connections break", errors.New("broken")},
		{"no answer", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				c := newCrew(w, 1)
				var failing atomic.Bool
				w.control(kmsg.OffsetCommit, func(kmsg.Request) (kmsg.Response, error, bool) {
					return nil, test.error, failing.Load()
				})
				m := c.join("m", nothing)
				w.fill(c.topic, 0, 3, 1)
				w.eventually(func() bool { return c.stored(0) == 3 })
				failing.Store(true)
				w.fill(c.topic, 0, 3, 1)
				after(time.Minute)
				r, ok := m.reason(kstage.HealthCommitFailing)
				require.True(t, ok)
				require.EqualValues(t, 0, r.Partition)
				require.EqualValues(t, 3, m.Stats().Partitions[0].Committed)
				w.fill(c.topic, 0, 3, 1)
				w.eventually(func() bool { return c.done() == 9 }) // records are still handled
				failing.Store(false)
				w.eventually(func() bool { return c.stored(0) == 9 && len(m.Health().Reasons) == 0 })
				require.EqualValues(t, 9, m.Stats().Partitions[0].Committed)
				require.NoError(t, m.stop())
				require.Equal(t, 9, len(c.calls("")))
				forwardOnly(t, c.seen())
				c.right()
			})
		})
	}
}

// Commits are marked as ours and carry the leader epoch of the record before them,
// whatever became of the leader since.
func TestCommitsCarryTheRecordsEpoch(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 1)
		move := func(times int) {
			for range times {
				node := (w.fake.LeaderFor(c.topic, 0) + 1) % 3
				require.NoError(t, w.fake.MoveTopicPartition(c.topic, 0, node))
			}
		}
		m := c.join("m", nothing)
		epochs := map[int64]int32{}
		for i := range int64(4) {
			move(2)
			w.fill(c.topic, 0, 5, 1)
			epochs[5*(i+1)] = w.fake.PartitionInfo(c.topic, 0).Epoch
			if i == 2 {
				move(3) // nothing is written in these epochs
			}
			w.eventually(func() bool { return c.stored(0) == 5*(i+1) })
		}
		require.NoError(t, m.stop())
		for _, s := range c.seen() {
			require.Equal(t, "kstage/1", s.metadata)
			require.Equal(t, epochs[s.offset], s.epoch, "%+v", s)
			require.NotZero(t, s.epoch)
			delete(epochs, s.offset)
		}
		require.Empty(t, epochs, "each was committed")
		require.Equal(t, "kstage/1", w.fake.GroupInfo(w.name("g")).Commits[c.topic][0].Metadata)
	}, threeBrokers()...)
}

// Where nothing has moved nothing is committed, neither in idle minutes, nor at
// a rebalance, nor at the end; the committed offset a member finds counts.
func TestNothingIsCommittedWhereNothingMoved(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 2)
		w.fill(c.topic, 0, 5, 5)
		first := c.join("first", nothing)
		w.eventually(func() bool { return c.stored(0) == 5 })
		after(2 * time.Second)
		n := len(c.seen())
		require.Equal(t, 1, n)
		after(10 * time.Minute)
		second := c.join("second", nothing)
		w.eventually(func() bool { return len(second.owns()) == 1 })
		after(10 * time.Minute)
		for _, p := range append(first.Stats().Partitions, second.Stats().Partitions...) {
			if p.Partition == 0 {
				require.EqualValues(t, 5, p.Committed)
			}
		}
		require.NoError(t, first.stop())
		require.NoError(t, second.stop())
		require.Len(t, c.seen(), n)
	})
}

// Nothing past the oldest unfinished record is ever committed, and it is
// committed as soon as that has moved.
func TestCommitsStopAtTheOldestUnfinishedRecord(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 1)
		release := make(chan struct{})
		w.fill(c.topic, 0, 100, 100)
		m := c.join("m", func(_ context.Context, msg kstage.Message) error {
			if msg.Record.Offset == 40 {
				<-release
			}
			return nil
		})
		w.eventually(func() bool { return c.stored(0) == 40 && c.done() == 99 })
		after(time.Minute)
		require.EqualValues(t, 40, c.stored(0))
		s := m.Stats().Partitions[0]
		require.EqualValues(t, 40, s.Committed)
		require.EqualValues(t, 40, s.Head)
		close(release)
		w.eventually(func() bool { return c.stored(0) == 100 })
		require.NoError(t, m.stop())
		c.right()
	})
}

// Another process that uses this member's instance id ends Run with an error
// that says so; it commits nothing more.
func TestFencedInstanceEndsRun(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 1)
		w.fill(c.topic, 0, 5, 1)
		first := c.join("first", slowly(time.Second), kstage.WithInstanceID("i"))
		w.eventually(func() bool { return c.done() > 0 })
		second := c.join("second", slowly(time.Second), kstage.WithInstanceID("i"))
		began := time.Now()
		require.ErrorContains(t, first.wait(), "WithInstanceID")
		require.Less(t, time.Since(began), 30*time.Second)
		require.False(t, first.Health().Live)
		w.eventually(func() bool { return c.stored(0) == 5 })
		require.NoError(t, second.stop())
		c.neverPast()
	})
}

// Commits that take their time, and rebalances in their middle: none is sent for a
// partition that was given up, however they meet.
func TestNoCommitAfterAGiveUp(t *testing.T) {
	t.Parallel()
	for _, b := range balancings() {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				c := newCrew(w, 4)
				w.control(kmsg.OffsetCommit, func(kmsg.Request) (kmsg.Response, error, bool) {
					w.fake.SleepControl(func() { after(700 * time.Millisecond) })
					return nil, nil, false
				})
				opts := []kstage.ConsumerOption{w.mainOptions(b.opts...), kstage.WithCommitInterval(50 * time.Millisecond)}
				for p := range int32(4) {
					w.fill(c.topic, p, 400, 40)
				}
				first := c.join("first", slowly(300*time.Millisecond), opts...)
				after(3 * time.Second)
				second := c.join("second", slowly(300*time.Millisecond), opts...)
				after(9 * time.Second)
				third := c.join("third", slowly(300*time.Millisecond), opts...)
				after(9 * time.Second)
				w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Err: kerr.UnknownMemberID, Count: 2})
				after(9 * time.Second)
				for _, h := range []*hand{first, second, third} {
					require.NoError(t, h.stop())
					require.NotEmpty(t, h.told(kstage.PartitionsRevoked))
					h.assertIdentity()
				}
				c.neverPast()
			})
		})
	}
}

// The same, told by the answer to a commit.
func TestFencedCommitEndsRun(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 1)
		w.fill(c.topic, 0, 5, 1)
		w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.FencedInstanceID, Count: -1})
		m := c.join("m", nothing, kstage.WithInstanceID("i"))
		began := time.Now()
		err := m.wait()
		require.ErrorContains(t, err, "WithInstanceID")
		require.ErrorContains(t, err, "offset 5 is not committed")
		require.Less(t, time.Since(began), 10*time.Second, "no try again can help")
	})
}

// A coordinator that moves again and again costs time, no offset.
func TestCoordinatorMoves(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 3)
		for p := range int32(3) {
			w.fill(c.topic, p, 50, 5)
		}
		first := c.join("first", slowly(500*time.Millisecond))
		second := c.join("second", slowly(500*time.Millisecond))
		for range 10 {
			after(3 * time.Second)
			w.fake.RehashCoordinators()
		}
		w.eventually(func() bool { return c.done() == 150 })
		for p := range int32(3) {
			w.eventually(func() bool { return c.stored(p) == 50 })
		}
		require.NoError(t, first.stop())
		require.NoError(t, second.stop())
		c.right()
		first.assertIdentity()
		second.assertIdentity()
	}, threeBrokers()...)
}
