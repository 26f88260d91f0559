//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

func TestAMissingTopicEndsRunAfter30s(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		w.topic("g-dlq", 1, "retention.ms", "-1", "max.message.bytes", "2000000")
		start := time.Now()
		m := w.start(handleNothing, kstage.WithTopics("orders", "events"))
		after(15 * time.Second)
		require.Equal(t, []string{"not-joined g", "topic-missing events", "topic-missing orders"}, reasonsOf(m.Health()))
		require.False(t, m.Health().Ready)
		var te *kstage.TopologyError
		require.ErrorAs(t, m.wait(), &te)
		require.Len(t, te.Problems, 2, "all at once")
		require.ErrorContains(t, te, "CreateTopics")
		require.GreaterOrEqual(t, time.Since(start), 30*time.Second)
		require.Less(t, time.Since(start), 32*time.Second)
		require.False(t, m.Health().Live)
		require.Equal(t, 2, w.logs.FilterMessage("a topic does not exist").Len(), "once for each topic")
	})
}

func TestATopicThatIsNotFitEndsRunAtOnce(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		w.topic("g-dlq", 1, "cleanup.policy", "compact")
		start := time.Now()
		m := w.start(handleNothing, kstage.WithTopics("orders"))
		err := m.wait()
		require.ErrorContains(t, err, "orders: it does not exist")
		require.ErrorContains(t, err, "g-dlq: cleanup.policy is compact")
		require.Less(t, time.Since(start), time.Second)
	})
}

func TestStartGoesOnWhenAMissingTopicAppears(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		w.topic("g-dlq", 1, "retention.ms", "1000")
		m := w.start(handleNothing, kstage.WithTopics("orders"))
		after(20 * time.Second)
		require.True(t, m.is(kstage.HealthTopicMissing))
		w.topic("orders", 1)
		w.fill("orders", 0, 3, 1)
		after(5 * time.Second)
		require.EqualValues(t, 3, w.committed("orders", 0))
		require.Empty(t, m.Health().Reasons)
		require.Equal(t, 1, w.logs.FilterMessageSnippet("retention.ms").Len(), "a warning is logged once")
		require.NoError(t, m.stop())
	})
}

func TestStartCreatesTopicsWhereItMay(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		w.topic("orders", 4)
		m := w.start(handleNothing, kstage.WithTopics("orders", "events"), kstage.WithTopicProvisioning(kstage.CreateTopics))
		w.eventually(func() bool { return m.Health().Ready })
		n, _ := w.partitions("events")
		require.Equal(t, 10, n, "the broker's default")
		n, _ = w.partitions("g-dlq")
		require.Equal(t, 10, n, "as the largest main topic")
		require.NoError(t, m.stop())
	})
}

func TestTrustedTopicsAreNotLookedAtBeforeTheStart(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		w.topic("orders", 1)
		w.fill("orders", 0, 3, 1)
		m := w.start(handleNothing, kstage.WithTopics("orders"), kstage.WithTopicProvisioning(kstage.TrustTopics))
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 3 })
		w.eventually(func() bool { return m.is(kstage.HealthTopicMissing) }) // the watcher does look
		require.NoError(t, m.stop())
	})
}

func TestTheContextEndsAStartThatWaits(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		m := w.start(handleNothing, kstage.WithTopics("orders"))
		after(10*time.Second + 300*time.Millisecond)
		start := time.Now()
		require.NoError(t, m.stop())
		require.Less(t, time.Since(start), 100*time.Millisecond)
	})
}

// subscriptions are the ways to subscribe: each has its own way to miss a new topic.
var subscriptions = map[string]struct {
	opts    []kstage.ConsumerOption
	notices bool          // the client gives a deleted topic back by itself
	silent  bool          // and nobody misses it
	within  time.Duration // a topic that is another one at once is found
}{
	"by name":    {opts: []kstage.ConsumerOption{kstage.WithTopics("orders")}, within: 15 * time.Second},
	"by pattern": {opts: []kstage.ConsumerOption{kstage.WithTopicPattern("^orders$")}, notices: true, silent: true, within: 15 * time.Second},
	"KIP-848":    {opts: []kstage.ConsumerOption{kstage.WithTopics("orders"), kstage.WithNextGenGroup()}, notices: true, within: time.Minute},
}

func TestARecreatedTopicIsReadFromItsStart(t *testing.T) {
	t.Parallel()
	for name, s := range subscriptions {
		t.Run(name+" at once", func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) { recreate(w, s.opts, kstage.ErrLost, s.within, func(*member) {}) })
		})
		t.Run(name+" after two minutes", func(t *testing.T) {
			t.Parallel()
			cause := kstage.ErrLost
			if s.notices {
				cause = kstage.ErrRevoked
			}
			virtual(t, func(w *world) {
				recreate(w, s.opts, cause, time.Minute, func(m *member) {
					after(2 * time.Minute)
					require.Equal(w.t, !s.silent, m.is(kstage.HealthTopicMissing))
					require.Equal(w.t, !s.silent, w.logs.FilterMessage("topic does not exist any more").Len() == 1, "told once")
				})
			})
		})
	}
}

// recreate deletes and creates a topic while two of its handlers run, which end for
// cause; the new records are to be handled within a time.
func recreate(w *world, opts []kstage.ConsumerOption, cause error, within time.Duration, meanwhile func(*member)) {
	t := w.t
	w.topic("orders", 2)
	w.topic("g-dlq", 2)
	var mu sync.Mutex
	ids, causes := map[string]int{}, []error{}
	hold := "k0" // the key whose handler waits for its context's end, in the old topic
	m := w.start(func(ctx context.Context, msg kstage.Message) error {
		mu.Lock()
		ids[msg.ID()]++
		wait := string(msg.Key()) == hold
		mu.Unlock()
		if wait {
			<-ctx.Done()
			mu.Lock()
			defer mu.Unlock()
			causes = append(causes, context.Cause(ctx))
			return ctx.Err()
		}
		return nil
	}, opts...)
	handled := func() int { mu.Lock(); defer mu.Unlock(); return len(ids) }
	w.fill("orders", 0, 10, 10)
	w.fill("orders", 1, 10, 10)
	w.eventually(func() bool { return handled() == 20 })
	after(5*time.Second + 300*time.Millisecond) // no heartbeat at this instant: one between the two would give the topic back

	require.NoError(t, w.fake.DeleteTopic("orders"))
	meanwhile(m)
	mu.Lock()
	hold = ""
	mu.Unlock()
	require.NoError(t, w.fake.CreateTopic("orders", 2, nil))
	w.cl.PurgeTopicsFromClient("orders")
	w.fill("orders", 0, 5, 5)
	w.fill("orders", 1, 5, 5)
	created := time.Now()
	w.eventually(func() bool { return handled() == 30 })
	require.LessOrEqual(t, time.Since(created), within)
	after(65 * time.Second)

	require.Equal(t, 30, handled(), "exactly the new records, under ids of their own")
	mu.Lock()
	for id, n := range ids {
		require.Equal(t, 1, n, id)
	}
	require.Equal(t, []error{cause, cause}, causes)
	mu.Unlock()
	require.Equal(t, []string{"topic-recreated orders"}, reasonsOf(m.Health()))
	require.True(t, m.Health().Ready)
	require.EqualValues(t, 5, w.committed("orders", 0))
	require.EqualValues(t, 5, w.committed("orders", 1))
	require.Equal(t, 1, w.logs.FilterMessageSnippet("deleted and created again").Len())
	after(5 * time.Minute)
	require.Empty(t, m.Health().Reasons)
	m.assertIdentity()
	require.NoError(t, m.stop())
}

// Each member starts over by itself, and each makes the group rebalance.
func TestARecreatedTopicOfTwoMembers(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(4)
		var j journal
		handle := func(_ context.Context, msg kstage.Message) error { j.note(msg); return nil }
		first := w.start(handle, opts...)
		w.eventually(func() bool { return first.Health().Ready })
		after(20 * time.Second)
		second := w.start(handle, opts...)
		after(10 * time.Second)
		for p := range int32(4) {
			w.fill("orders", p, 10, 3)
		}
		w.eventually(func() bool { return j.len() == 40 })
		require.NoError(t, w.fake.DeleteTopic("orders"))
		require.NoError(t, w.fake.CreateTopic("orders", 4, nil))
		w.cl.PurgeTopicsFromClient("orders")
		for p := range int32(4) {
			w.fill("orders", p, 5, 5)
		}
		after(2 * time.Minute)
		for p := range int32(4) {
			require.EqualValues(t, 5, w.committed("orders", p))
		}
		require.Equal(t, 60, j.len())
		for _, m := range []*member{first, second} {
			require.Equal(t, []string{"topic-recreated orders"}, reasonsOf(m.Health()))
			require.Len(t, m.Stats().Partitions, 2)
			require.NoError(t, m.stop())
		}
	})
}

func TestCopiesArriveInARecreatedDeadLetterTopic(t *testing.T) {
	t.Parallel()
	for gap, gone := range map[string]time.Duration{"at once": 0, "after two minutes": 2 * time.Minute} {
		t.Run(gap, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				_, opts := w.ladder(2)
				m := w.start(func(context.Context, kstage.Message) error { return kstage.Permanent(errors.New("never")) }, opts...)
				w.fill("orders", 0, 3, 3)
				w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 3 })
				require.NoError(t, w.fake.DeleteTopic("g-dlq"))
				after(gone)
				w.fill("orders", 1, 3, 3)
				after(gone)
				if gone > 0 {
					require.True(t, m.is(kstage.HealthTopicMissing))
					require.True(t, m.is(kstage.HealthHandOffFailing))
				}
				require.NoError(t, w.fake.CreateTopic("g-dlq", 2, nil))
				w.cl.PurgeTopicsFromClient("g-dlq")
				after(2 * time.Minute)
				w.fill("orders", 1, 3, 3)
				after(10 * time.Second)
				require.Len(t, w.deadLetters(), 6)
				require.EqualValues(t, 6, w.committed("orders", 1))
				require.Equal(t, []string{"topic-recreated g-dlq"}, reasonsOf(m.Health()))
				m.assertIdentity()
				require.NoError(t, m.stop())
			})
		})
	}
}

// The dead-letter topic is created again while no copy was sent to the old one, and copies
// go to the new one before it is noticed: a client that was made to forget the topic would
// count its batches anew, and the broker acknowledge the next without writing it.
func TestCopiesToARecreatedDeadLetterTopicBeforeItIsNoticed(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		m := w.start(func(context.Context, kstage.Message) error { return kstage.Permanent(errors.New("never")) }, opts...)
		w.eventually(func() bool { return m.Health().Ready })
		require.NoError(t, w.fake.DeleteTopic("g-dlq"))
		require.NoError(t, w.fake.CreateTopic("g-dlq", 1, nil))
		for range 5 {
			w.fill("orders", 0, 1, 1)
			after(time.Second)
		}
		require.EqualValues(t, 5, m.counts.Snapshot().SentToDLQ)
		after(2 * time.Minute) // noticed
		require.True(t, m.is(kstage.HealthTopicRecreated))
		for range 5 {
			w.fill("orders", 0, 1, 1)
			after(time.Second)
		}
		require.EqualValues(t, 10, w.committed("orders", 0))
		require.Len(t, w.deadLetters(), 10)
		require.NoError(t, m.stop())
	})
}

func TestAddedPartitionsAreConsumedWithin31s(t *testing.T) {
	t.Parallel()
	for name, s := range subscriptions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				w.topic("orders", 1)
				w.topic("g-dlq", 1)
				var j journal
				m := w.start(func(_ context.Context, msg kstage.Message) error { j.note(msg); return nil }, s.opts...)
				w.eventually(func() bool { return m.Health().Ready })
				after(42 * time.Second)
				_, err := w.adm.CreatePartitions(t.Context(), 2, "orders")
				require.NoError(t, err)
				w.cl.PurgeTopicsFromClient("orders")
				w.fill("orders", 2, 3, 1)
				added := time.Now()
				w.eventually(func() bool { return j.len() == 3 })
				require.LessOrEqual(t, time.Since(added), 31*time.Second)
				require.NoError(t, m.stop())
			})
		})
	}
}

// A topic that matches later is found as added partitions are; our own never match.
func TestATopicThatMatchesThePatternLaterIsConsumed(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		w.topic("g-dlq", 1)
		var j journal
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			j.note(msg)
			return kstage.Permanent(errors.New("never"))
		}, kstage.WithTopicPattern(".*"))
		after(42 * time.Second)
		require.Equal(t, 1, w.logs.FilterMessageSnippet("no topic matches").Len())
		w.topic("orders", 1)
		w.topic("g-retry-1", 1)
		w.fill("orders", 0, 3, 1)
		w.fill("g-retry-1", 0, 3, 1)
		after(31 * time.Second)
		require.Equal(t, 3, j.len())
		after(2 * time.Minute)
		require.Equal(t, 3, j.len())
		require.Len(t, w.deadLetters(), 3)
		require.Empty(t, m.Health().Reasons)
		require.NoError(t, m.stop())
	})
}

// The client answers each poll at once with the same error: nothing but our own
// pause keeps the loop from spinning.
func TestPollsThatHoldOnlyErrorsAreBackedOff(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		m := w.start(handleNothing, opts...)
		w.eventually(func() bool { return m.Health().Ready })
		fetches := w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Count: -1})
		after(time.Minute)
		require.LessOrEqual(t, fetches.Hits(), 70)
		require.GreaterOrEqual(t, fetches.Hits(), 30, "it does go on")
		require.NoError(t, m.stop())
	})
}
