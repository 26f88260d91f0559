//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// slowly is a handler that takes d and heeds its context.
func slowly(d time.Duration) kstage.HandlerFunc {
	return func(ctx context.Context, _ kstage.Message) error {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(d):
			return nil
		}
	}
}

func nothing(context.Context, kstage.Message) error { return nil }

// Running handlers end before Run does, nothing new starts, what they finished is
// committed, and the group is left: another member has the partition at once.
func TestShutdownDrainsCommitsAndLeaves(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 1)
		w.fill(c.topic, 0, 10, 2)
		first := c.join("first", slowly(20*time.Second), rare())
		w.eventually(func() bool { return len(c.calls("")) == 2 })
		second := c.join("second", nothing)
		w.eventually(func() bool { return second.Health().Ready })
		require.NoError(t, first.stop())
		stopped := time.Now()
		require.Equal(t, 2, c.done(), "what ran ended, what waited did not start")
		require.EqualValues(t, 2, c.stored(0))
		w.eventually(func() bool { return len(second.told(kstage.PartitionsAssigned)) == 1 })
		require.Less(t, time.Since(stopped), 5*time.Second, "without waiting for the session to run out")
		w.eventually(func() bool { return c.done() == 10 })
		require.NoError(t, second.stop())
		require.Len(t, c.calls(""), 10)
		c.right()
		first.assertIdentity()
	})
}

// A static member commits, and does not leave: its partitions wait for it.
func TestShutdownOfAStaticMemberDoesNotLeave(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 1)
		w.fill(c.topic, 0, 10, 2)
		var left atomic.Int32
		w.control(kmsg.LeaveGroup, func(kmsg.Request) (kmsg.Response, error, bool) {
			left.Add(1)
			return nil, nil, false
		})
		first := c.join("first", nothing, rare(), kstage.WithInstanceID("i"))
		w.eventually(func() bool { return c.done() == 10 })
		require.NoError(t, first.stop())
		require.EqualValues(t, 10, c.stored(0))
		require.Zero(t, left.Load())
		require.Len(t, c.memberIDs(), 1)

		again := c.join("again", nothing, kstage.WithInstanceID("i"))
		began := time.Now()
		w.eventually(func() bool { return len(again.told(kstage.PartitionsAssigned)) == 1 })
		require.Less(t, time.Since(began), 5*time.Second)
		require.NoError(t, again.stop())
		require.Empty(t, c.calls("again"))
	})
}

// A rebalance in the middle of the drain: it drains what leaves, and the shutdown
// the rest; nothing is handled twice.
func TestRebalanceDuringShutdownDoesNotSkipTheDrain(t *testing.T) {
	t.Parallel()
	for _, b := range balancings() {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				c := newCrew(w, 2)
				w.fill(c.topic, 0, 1, 1)
				w.fill(c.topic, 1, 1, 1)
				opts := w.mainOptions(b.opts...)
				first := c.join("first", slowly(18*time.Second), opts, kstage.WithRevokeDrain(20*time.Second))
				w.eventually(func() bool { return len(c.calls("")) == 2 })
				first.cancel()
				after(time.Second)
				second := c.join("second", nothing, opts)
				require.NoError(t, first.wait())
				require.NotEmpty(t, first.told(kstage.PartitionsRevoked)[0].Drain, "the rebalance came first")
				require.Equal(t, 2, c.done())
				require.EqualValues(t, 1, c.stored(0))
				require.EqualValues(t, 1, c.stored(1))
				w.eventually(func() bool { return len(second.owns()) == 2 })
				require.NoError(t, second.stop())
				require.Len(t, c.calls(""), 2, "nothing was handled twice")
				require.Len(t, first.told(kstage.PartitionsAssigned), 1, "no partition came while it ended")
				first.assertIdentity()
			})
		})
	}
}

// The soft limit of a shutdown ends the drain of a rebalance, too.
func TestShutdownShortensTheDrainOfARebalance(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 2)
		w.fill(c.topic, 0, 1, 1)
		w.fill(c.topic, 1, 1, 1)
		first := c.join("first", slowly(time.Hour), kstage.WithRevokeDrain(20*time.Second), kstage.WithShutdownTimeout(time.Second, 5*time.Second))
		w.eventually(func() bool { return len(c.calls("")) == 2 })
		second := c.join("second", nothing)
		after(8 * time.Second) // the revoke callback waits
		require.Empty(t, first.told(kstage.PartitionsRevoked))
		first.cancel()
		began := time.Now()
		require.NoError(t, first.wait(), "the handlers heeded their contexts")
		require.Less(t, time.Since(began), 3*time.Second)
		w.eventually(func() bool { return len(second.owns()) == 2 })
		require.Less(t, time.Since(began), 8*time.Second)
		w.eventually(func() bool { return c.done() == 2 })
		require.NoError(t, second.stop())
		first.assertIdentity()
	})
}

// That holds where handlers heed no context: the callback must not wait for them
// when Run has to end.
func TestShutdownEndsTheDrainOfARebalance(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 2)
		w.fill(c.topic, 0, 1, 1)
		w.fill(c.topic, 1, 1, 1)
		release := make(chan struct{})
		first := c.join("first", func(context.Context, kstage.Message) error { <-release; return nil },
			kstage.WithRevokeDrain(20*time.Second), kstage.WithShutdownTimeout(time.Second, 5*time.Second))
		w.eventually(func() bool { return len(c.calls("")) == 2 })
		second := c.join("second", nothing)
		after(4 * time.Second) // the revoke callback waits
		began := time.Now()
		var drain *kstage.DrainError
		require.ErrorAs(t, first.stop(), &drain)
		require.Len(t, drain.Abandoned, 2)
		require.LessOrEqual(t, time.Since(began), 6*time.Second)
		w.eventually(func() bool { return len(second.owns()) == 2 && c.done() == 2 })
		require.Less(t, time.Since(began), 12*time.Second)
		close(release)
		require.NoError(t, second.stop())
		first.assertIdentity()
	})
}

// What a rebalance gives back uncommitted while Run ends is in Run's error, too.
func TestShutdownTellsOfARebalancesFailedCommit(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 2)
		w.fill(c.topic, 0, 1, 1)
		w.fill(c.topic, 1, 1, 1)
		first := c.join("first", slowly(10*time.Second), rare(), kstage.WithRevokeDrain(20*time.Second))
		w.eventually(func() bool { return len(c.calls("first")) == 2 })
		on := w.blackhole(ofKeys(kmsg.OffsetCommit))
		on.Store(true)
		first.cancel()
		second := c.join("second", nothing)
		w.eventually(func() bool { return len(first.told(kstage.PartitionsRevoked)) == 1 })
		on.Store(false)
		went := first.told(kstage.PartitionsRevoked)[0].Partitions
		require.Len(t, went, 1)
		err := first.wait()
		require.ErrorContains(t, err, fmt.Sprintf("%s/%d: offset 1 is not committed", c.topic, went[0]))
		require.NotContains(t, err.Error(), fmt.Sprintf("%s/%d:", c.topic, 1-went[0]))
		require.EqualValues(t, 1, c.stored(1-went[0]))
		w.eventually(func() bool { return len(c.calls("second")) == 1 })
		require.NoError(t, second.stop())
		first.assertIdentity()
	})
}

// Zombies, whose partition has gone while they run, are waited for and named.
func TestShutdownNamesHandlersOfPartitionsThatWent(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 2)
		w.fill(c.topic, 0, 1, 1)
		w.fill(c.topic, 1, 1, 1)
		release := make(chan struct{})
		first := c.join("first", func(context.Context, kstage.Message) error { <-release; return nil },
			kstage.WithShutdownTimeout(2*time.Second, 5*time.Second))
		w.eventually(func() bool { return len(c.calls("")) == 2 })
		second := c.join("second", nothing)
		w.eventually(func() bool { return len(first.told(kstage.PartitionsRevoked)) == 1 && len(second.owns()) == 1 })
		began := time.Now()
		err := first.stop()
		require.LessOrEqual(t, time.Since(began), 7*time.Second)
		var drain *kstage.DrainError
		require.ErrorAs(t, err, &drain)
		require.ElementsMatch(t, []kstage.Coordinates{{Topic: c.topic, Partition: 0}, {Topic: c.topic, Partition: 1}}, drain.Abandoned)
		w.eventually(func() bool { return len(second.owns()) == 2 && c.done() == 2 })
		require.NoError(t, second.stop())
		before := len(c.seen())
		close(release)
		after(time.Second)
		require.Len(t, c.seen(), before, "nothing is committed after Run")
		first.assertIdentity()
		require.EqualValues(t, 2, first.counts.Snapshot().Released)
	})
}

// Whatever brokers do not answer, Run ends within its limits, says what is not
// committed, and leaves nothing behind.
func TestShutdownAgainstSilentBrokers(t *testing.T) {
	t.Parallel()
	const soft, hard = 2 * time.Second, 5 * time.Second
	for _, test := range []struct {
		name      string
		match     func(kmsg.Request) bool
		committed bool
	}{
		{"all", func(kmsg.Request) bool { return true }, false},
		{"commits", ofKeys(kmsg.OffsetCommit), false},
		{"leaving", ofKeys(kmsg.LeaveGroup), true},
		{"coordinator", ofKeys(kmsg.OffsetCommit, kmsg.LeaveGroup, kmsg.Heartbeat, kmsg.FindCoordinator), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				c := newCrew(w, 2)
				w.fill(c.topic, 0, 3, 1)
				m := c.join("m", nothing, rare(), kstage.WithShutdownTimeout(soft, hard))
				w.eventually(func() bool { return c.done() == 3 })
				on := w.blackhole(test.match)
				on.Store(true)
				began := time.Now()
				err := m.stop()
				require.LessOrEqual(t, time.Since(began), soft+hard)
				on.Store(false)
				if test.committed {
					require.NoError(t, err)
					require.EqualValues(t, 3, c.stored(0))
				} else {
					require.ErrorContains(t, err, "offset 3 is not committed")
					require.ErrorContains(t, err, c.topic+"/0")
					require.NotContains(t, err.Error(), c.topic+"/1")
				}
				m.assertIdentity()
			})
		})
	}
}

// A join that is not answered, because the coordinator waits for a slow member or
// is gone, keeps the client from committing and from leaving: not Run from ending.
func TestShutdownDuringAnUnansweredJoin(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 2)
		w.fill(c.topic, 0, 3, 1)
		m := c.join("m", nothing, rare(), kstage.WithShutdownTimeout(2*time.Second, 5*time.Second))
		w.eventually(func() bool { return c.done() == 3 })
		id := c.memberIDs()[0]
		var joins atomic.Int32
		w.blackhole(func(req kmsg.Request) bool {
			if req.Key() != int16(kmsg.JoinGroup) || memberOf(req) != id {
				return false
			}
			joins.Add(1)
			return true
		}).Store(true)
		other := c.join("other", nothing)
		w.eventually(func() bool { return joins.Load() > 0 })
		began := time.Now()
		require.ErrorContains(t, m.stop(), "offset 3 is not committed")
		require.LessOrEqual(t, time.Since(began), 7*time.Second)
		w.eventually(func() bool { return len(other.owns()) == 2 && len(c.calls("other")) == 3 })
		require.NoError(t, other.stop())
		m.assertIdentity()
	})
}

// What fails for a moment does not make the end unclean: it is tried again while
// there is time.
func TestShutdownTriesItsCommitAgain(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 1)
		w.fill(c.topic, 0, 3, 1)
		m := c.join("m", nothing, rare())
		w.eventually(func() bool { return c.done() == 3 })
		on := w.blackhole(ofKeys(kmsg.OffsetCommit))
		on.Store(true)
		m.cancel()
		after(8 * time.Second)
		on.Store(false)
		require.NoError(t, m.wait())
		require.EqualValues(t, 3, c.stored(0))
	})
}

// Run ends with its context also before it has joined, in whatever it is doing,
// and without an error.
func TestRunEndsBeforeItHasJoined(t *testing.T) {
	t.Parallel()
	noBroker := kgo.Dialer(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") })
	for _, test := range []struct {
		name    string
		silence func(kmsg.Request) bool
		opts    []kgo.Opt
		joins   bool
		limit   time.Duration
	}{
		{"no broker", nil, []kgo.Opt{noBroker}, false, time.Second},
		{"a broker that says nothing", func(kmsg.Request) bool { return true }, nil, false, time.Second},
		{"no answer to a join", ofKeys(kmsg.JoinGroup), nil, false, 7 * time.Second},
		{"no answer to a sync", ofKeys(kmsg.SyncGroup), nil, false, 7 * time.Second},
		{"no answer to an offset fetch", ofKeys(kmsg.OffsetFetch), nil, true, 7 * time.Second},
		{"no answer to a fetch", ofKeys(kmsg.Fetch), nil, true, 7 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				c := newCrew(w, 1)
				w.fill(c.topic, 0, 3, 1)
				opts := []kstage.ConsumerOption{kstage.WithShutdownTimeout(2*time.Second, 5*time.Second)}
				if test.silence != nil {
					w.blackhole(test.silence).Store(true)
				}
				if test.opts != nil {
					opts = append(opts, kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return test.opts }))
				}
				for _, d := range []time.Duration{time.Second, 8 * time.Second, 23 * time.Second} {
					m := c.join(d.String(), nothing, opts...)
					after(d)
					require.False(t, m.Health().Ready && !test.joins)
					began := time.Now()
					require.NoError(t, m.stop())
					require.LessOrEqual(t, time.Since(began), test.limit)
				}
				require.Empty(t, c.calls(""))
			})
		})
	}
}

// WithStartTimeout bounds how long a broker is looked for.
func TestStartTimeout(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		c := newCrew(w, 1)
		w.blackhole(func(kmsg.Request) bool { return true }).Store(true)
		began := time.Now()
		m := c.join("m", nothing, kstage.WithStartTimeout(10*time.Second))
		require.ErrorContains(t, m.wait(), "WithStartTimeout")
		require.GreaterOrEqual(t, time.Since(began), 10*time.Second)
		require.Less(t, time.Since(began), 25*time.Second)
		require.False(t, m.Health().Live)
	})
}
