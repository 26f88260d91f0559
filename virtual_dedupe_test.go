//go:build synctests

package kstage_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// A second record of one id is finished as a duplicate, and not handled, whatever its
// key. Another group knows nothing of it.
func TestDedupeEachIDOnceInEachGroup(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.topic("h-dlq", 1)
		store := kstage.NewMemoryDedupeStore(time.Hour, 1000)
		for range 3 {
			w.produce(identified(topic, "k", "a"), identified(topic, "k", "b"), identified(topic, "other", "a"))
		}
		var g, h byID
		mg := w.start(func(_ context.Context, m kstage.Message) error { g.note(m); return nil }, append(opts, kstage.WithDedupe(store))...)
		mh := w.start(func(_ context.Context, m kstage.Message) error { h.note(m); return nil }, append(opts, kstage.WithDedupe(store), kstage.WithGroup("h"))...)
		w.eventually(func() bool { return mg.counts.Snapshot().Duplicates == 7 && mh.counts.Snapshot().Duplicates == 7 })
		w.awaitCommit(topic, 9)
		require.NoError(w.t, mg.stop())
		require.NoError(w.t, mh.stop())
		require.Equal(w.t, map[string]int{"a": 1, "b": 1}, g.all())
		require.Equal(w.t, map[string]int{"a": 1, "b": 1}, h.all())
		mg.assertIdentity()
		mh.assertIdentity()
	})
}

// What identifies a record: WithMessageID, else its header, else where it stands; its
// answer may be empty, and may panic.
func TestDedupeGoesByMessageID(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.produce(identified(topic, "k", "a"), identified(topic, "k", "A"), identified(topic, "k", "empty"), identified(topic, "k", "panics"), record(topic, 0, "k", "a"), record(topic, 0, "k", "empty"), record(topic, 0, "k", "empty"))
		var seen byID
		m := w.start(func(_ context.Context, m kstage.Message) error { seen.note(m); return nil },
			append(opts, kstage.WithDedupe(newFickle()), kstage.WithMessageID(func(r *kgo.Record) string {
				switch string(r.Value) {
				case "a", "A":
					return "same"
				case "panics":
					panic("boom")
				}
				return ""
			}))...)
		w.eventually(func() bool { s := m.counts.Snapshot(); return s.Processed+s.Duplicates == 7 })
		ids := seen.all()
		require.Len(w.t, ids, 5, "%v", ids)
		require.Equal(w.t, 1, ids["same"])
		require.Equal(w.t, 1, ids["empty"])
		require.Equal(w.t, 1, ids["panics"])
		_, told := m.reason(kstage.HealthCallbackPanic)
		require.True(w.t, told)
		require.NoError(w.t, m.stop())
		m.assertIdentity()
	})
}

// A retried record is never taken for done, nor is one that died and is published
// again: only success is remembered.
func TestDedupeRetriedAndRepublishedRecordsAreHandled(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		store := newFickle()
		var seen byID
		m := w.start(func(_ context.Context, m kstage.Message) error {
			switch n := seen.note(m); {
			case m.ID() == "dies" && n <= 6:
				return errTest
			case m.ID() == "recovers" && m.Stage() < 2:
				return errTest
			case m.ID() == "snoozes" && n == 1:
				return kstage.Snooze(time.Second)
			}
			return nil
		}, append(opts, w.stages(1, time.Second, time.Minute), kstage.WithDedupe(store), kstage.WithImmediateRetries(1, kstage.Backoff{Min: 1, Max: 1}))...)
		w.produce(identified(topic, "k", "dies"), identified(topic, "k", "recovers"), identified(topic, "k", "snoozes"))
		w.within(time.Hour, func() bool { s := m.counts.Snapshot(); return s.SentToDLQ == 1 && s.Processed == 2 })
		w.produce(identified(topic, "k", "dies"))
		w.within(time.Hour, func() bool { return seen.all()["dies"] == 7 })
		w.produce(identified(topic, "k", "dies"))
		w.eventually(func() bool { return m.counts.Snapshot().Duplicates == 1 })
		require.NoError(w.t, m.stop())
		require.Equal(w.t, 2, seen.all()["snoozes"])
		require.Zero(w.t, store.count("extend"))
		m.assertIdentity()
	})
}

// A topic that was deleted and created again holds other records, on the same offsets.
func TestDedupeARecreatedTopicIsHandledAgain(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		store := newFickle()
		all := append(opts, kstage.WithDedupe(store))
		var j journal
		handle := func(_ context.Context, m kstage.Message) error { j.note(m); return nil }
		w.fill(topic, 0, 5, 5)
		m := w.start(handle, all...)
		w.awaitCommit(topic, 5)
		require.NoError(w.t, m.stop())
		_, err := w.adm.DeleteTopic(w.t.Context(), topic)
		require.NoError(w.t, err)
		_, err = w.adm.DeleteGroup(w.t.Context(), "g")
		require.NoError(w.t, err)
		w.topic("orders", 1)
		w.cl.PurgeTopicsFromProducing(topic)
		w.fill(topic, 0, 5, 5)
		m = w.start(handle, all...)
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 5 })
		require.NoError(w.t, m.stop())
		require.Equal(w.t, 10, j.len())
		require.Zero(w.t, m.counts.Snapshot().Duplicates)
	})
}

// A confirm that fails is tried again alone: the handler is not, its key goes on, and
// nothing past the record is committed until the store has answered.
func TestDedupeAFailingConfirmNeverRunsTheHandlerTwice(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		store := newFickle()
		store.set(refusing("confirm"))
		var seen byID
		m := w.start(func(_ context.Context, m kstage.Message) error { seen.note(m); return nil }, append(opts, kstage.WithDedupe(store))...)
		w.produce(identified(topic, "k", "a"), identified(topic, "k", "b"))
		after(2 * time.Minute)
		require.Equal(w.t, map[string]int{"a": 1, "b": 1}, seen.all(), "the key goes on")
		require.Less(w.t, w.committedOr(topic), int64(1))
		r, failing := m.reason(kstage.HealthDedupeFailing)
		require.True(w.t, failing)
		require.ErrorIs(w.t, r.Err, errStoreDown)
		require.Zero(w.t, m.counts.Snapshot().Processed)
		require.Positive(w.t, store.count("extend"), "what is not confirmed is still held")
		store.set(nil)
		after(5 * time.Second)
		_, failing = m.reason(kstage.HealthDedupeFailing)
		require.False(w.t, failing)
		w.awaitCommit(topic, 2)
		require.EqualValues(w.t, 2, m.counts.Snapshot().Processed)
		require.NoError(w.t, m.stop())
		require.Equal(w.t, map[string]int{"a": 1, "b": 1}, seen.all())
		m.assertIdentity()
	})
}

// A handler that returns nil after its partition has gone is confirmed all the same:
// the next owner finds it done.
func TestDedupeANilAfterTheFenceIsConfirmed(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		store := newFickle()
		all := append(opts, kstage.WithDedupe(store))
		w.produce(identified(topic, "k", "a"))
		begun := make(chan struct{})
		m := w.start(func(ctx context.Context, _ kstage.Message) error {
			close(begun)
			<-ctx.Done()
			return nil
		}, append(all, kstage.WithShutdownTimeout(time.Second, 5*time.Second))...)
		<-begun
		require.NoError(w.t, m.stop())
		require.Equal(w.t, 1, store.count("confirm"))
		m.assertIdentity()
		w.produce(identified(topic, "k", "a"))
		m = w.start(func(context.Context, kstage.Message) error { w.t.Error("it was done"); return nil }, all...)
		w.eventually(func() bool { return m.counts.Snapshot().Duplicates > 0 })
		require.NoError(w.t, m.stop())
	})
}

// The window in which a record is handled twice: a process dies between the handler's
// return and the confirm. Its claim ends with the lease.
func TestDedupeACrashBeforeTheConfirmRepeats(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		store := newFickle()
		w.produce(identified(topic, "k", "a"), identified(topic, "other", "b"))
		var seen byID
		handle := func(_ context.Context, m kstage.Message) error { seen.note(m); return nil }
		store.set(func(ctx context.Context, call, key string) error {
			if call != "claim" && key[len(key)-1] == 'a' {
				<-ctx.Done() // the process is gone: it neither confirms nor releases
				return ctx.Err()
			}
			return nil
		})
		m := w.start(handle, append(opts, kstage.WithDedupe(store), kstage.WithShutdownTimeout(time.Second, 5*time.Second))...)
		w.eventually(func() bool { return len(seen.all()) == 2 })
		_ = m.stop()
		store.set(nil)
		began := time.Now()
		m = w.start(handle, append(opts, kstage.WithDedupe(store))...)
		w.eventually(func() bool { s := m.counts.Snapshot(); return s.Processed == 1 && s.Duplicates == 1 })
		require.Less(w.t, time.Since(began), 17*time.Second, "the lease, and two seconds")
		require.NoError(w.t, m.stop())
		require.Equal(w.t, map[string]int{"a": 2, "b": 1}, seen.all())
	})
}

// Two members meet one id: one handles it, the other waits, and finds it done.
func TestDedupeTwoMembersAndOneID(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(2)
		store := newFickle()
		other := identified(topic, "k", "a")
		other.Partition = 1
		w.produce(identified(topic, "k", "a"), other)
		var calls byID
		handle := func(ctx context.Context, m kstage.Message) error {
			calls.note(m)
			nap := time.NewTimer(40 * time.Second) // longer than a lease
			defer nap.Stop()
			select {
			case <-nap.C:
			case <-ctx.Done():
				return ctx.Err()
			}
			return nil
		}
		var ms []*member
		for range 2 {
			ms = append(ms, w.start(handle, append(opts, kstage.WithDedupe(store), kstage.WithRevokeDrain(0))...))
		}
		count := func() (processed, duplicates uint64) {
			for _, m := range ms {
				s := m.counts.Snapshot()
				processed, duplicates = processed+s.Processed, duplicates+s.Duplicates
			}
			return processed, duplicates
		}
		w.within(10*time.Minute, func() bool { p, d := count(); return p == 1 && d == 1 })
		require.Positive(w.t, store.count("extend"), "the claim of a slow handler is renewed")
		for _, m := range ms {
			require.NoError(w.t, m.stop())
			m.assertIdentity()
		}
	})
}

// What a member gives back is the next one's at once: parked records, and those whose
// handler was cancelled.
func TestDedupeAStoppedMemberKeepsNothing(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"parked", "running"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic, opts := w.ladder(1)
				all := append(opts, kstage.WithDedupe(newFickle()))
				w.produce(identified(topic, key, "a"))
				var calls byID
				m := w.start(func(ctx context.Context, m kstage.Message) error {
					calls.note(m)
					if key == "running" {
						<-ctx.Done()
					}
					return errTest
				}, append(all, kstage.WithImmediateRetries(1, kstage.Backoff{Min: 1_000_000 * time.Hour, Max: 1_000_000 * time.Hour}), kstage.WithShutdownTimeout(time.Second, 5*time.Second))...)
				w.eventually(func() bool { return len(calls.all()) == 1 })
				after(time.Second)
				require.NoError(w.t, m.stop())
				m.assertIdentity()
				began := time.Now()
				m = w.start(func(context.Context, kstage.Message) error { return nil }, all...)
				w.eventually(func() bool { return m.counts.Snapshot().Processed == 1 })
				require.Less(w.t, time.Since(began), 5*time.Second)
				require.NoError(w.t, m.stop())
			})
		})
	}
}

// A member is killed: it leaves no group and releases nothing. From the moment another
// has its partition, the key it had claimed goes on within the lease and two seconds,
// and all others at once.
func TestDedupeAKilledMembersKeyWaitsForItsLease(t *testing.T) {
	t.Parallel()
	wired(t, nil, func(w *world, n *wires) {
		const lease = time.Minute
		topic, opts := w.ladder(1)
		shared := kstage.NewMemoryDedupeStore(time.Hour, 1000)
		stores := []*fickle{{DedupeStore: shared, calls: map[string]int{}}, {DedupeStore: shared, calls: map[string]int{}}}
		session := []kgo.Opt{kgo.SessionTimeout(6 * time.Second), kgo.HeartbeatInterval(time.Second)}
		opts = append(opts, kstage.WithShutdownTimeout(time.Second, 5*time.Second))
		w.produce(identified(topic, "k", "a"))
		var killed byID
		first := w.start(func(ctx context.Context, m kstage.Message) error {
			killed.note(m)
			<-ctx.Done()
			return ctx.Err()
		}, append(opts, over(n, session...), kstage.WithDedupe(stores[0], kstage.DedupeLease(lease)))...)
		w.eventually(func() bool { return len(killed.all()) == 1 })
		after(lease) // its claim has been renewed
		stores[0].set(refusing("claim", "extend", "confirm", "release"))
		n.setCut(everything)

		w.produce(identified(topic, "k", "b"), identified(topic, "other", "c"))
		var mu sync.Mutex
		at := map[string]time.Time{}
		reach := kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return append(slices.Clone(w.reach), session...) })
		second := w.start(func(_ context.Context, m kstage.Message) error {
			mu.Lock()
			defer mu.Unlock()
			at[m.ID()] = time.Now()
			return nil
		}, append(opts, reach, kstage.WithDedupe(stores[1], kstage.DedupeLease(lease)))...)
		w.within(5*time.Minute, func() bool { return second.counts.Snapshot().Processed == 3 })
		assigned := at["c"] // nothing holds it up
		require.Less(w.t, at["a"].Sub(assigned), lease+2*time.Second)
		require.Greater(w.t, at["a"].Sub(assigned), lease/2, "it may still run elsewhere")
		require.False(w.t, at["b"].Before(at["a"]), "the order of a key")
		require.NoError(w.t, second.stop())
		require.Equal(w.t, map[string]int{"a": 1}, killed.all())
		_ = first.stop()
	})
}
