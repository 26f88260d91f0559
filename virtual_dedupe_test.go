//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

var errStoreDown = errors.New("the store is down")

// fickle is a dedupe store that does what a test says before it answers.
type fickle struct {
	kstage.DedupeStore
	mu     sync.Mutex // guards before and calls
	before func(ctx context.Context, call, key string) error
	calls  map[string]int
}

func newFickle() *fickle {
	return &fickle{DedupeStore: kstage.NewMemoryDedupeStore(time.Hour, 100_000), calls: map[string]int{}}
}

// set says what to do before each call; nil: nothing.
func (f *fickle) set(before func(ctx context.Context, call, key string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = before
}

func (f *fickle) count(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[call]
}

func (f *fickle) called(ctx context.Context, call, key string) error {
	f.mu.Lock()
	f.calls[call]++
	before := f.before
	f.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(ctx, call, key)
}

func (f *fickle) Claim(ctx context.Context, key string, lease time.Duration) (kstage.Claim, error) {
	if err := f.called(ctx, "claim", key); err != nil {
		return kstage.Claim{}, err
	}
	return f.DedupeStore.Claim(ctx, key, lease)
}

func (f *fickle) Extend(ctx context.Context, c kstage.Claim, lease time.Duration) error {
	if err := f.called(ctx, "extend", c.Key); err != nil {
		return err
	}
	return f.DedupeStore.Extend(ctx, c, lease)
}

func (f *fickle) Confirm(ctx context.Context, c kstage.Claim) error {
	if err := f.called(ctx, "confirm", c.Key); err != nil {
		return err
	}
	return f.DedupeStore.Confirm(ctx, c)
}

func (f *fickle) Release(ctx context.Context, c kstage.Claim) error {
	if err := f.called(ctx, "release", c.Key); err != nil {
		return err
	}
	return f.DedupeStore.Release(ctx, c)
}

// refusing fails the named calls, or all where none is named.
func refusing(calls ...string) func(context.Context, string, string) error {
	return func(_ context.Context, call, _ string) error {
		for _, c := range calls {
			if c == call {
				return errStoreDown
			}
		}
		if len(calls) == 0 {
			return errStoreDown
		}
		return nil
	}
}

// identified makes a record with a message id.
func identified(topic string, key, id string) *kgo.Record {
	r := record(topic, 0, key, id)
	r.Headers = []kgo.RecordHeader{{Key: "message-id", Value: []byte(id)}}
	return r
}

// byID counts the handler calls of each message.
type byID struct {
	mu sync.Mutex
	n  map[string]int
}

func (b *byID) note(m kstage.Message) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n == nil {
		b.n = map[string]int{}
	}
	b.n[m.ID()]++
	return b.n[m.ID()]
}

func (b *byID) all() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := map[string]int{}
	for k, v := range b.n {
		c[k] = v
	}
	return c
}

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

// A store that fails, panics or does not answer for minutes: nothing is handled, and
// nothing lost; Health says so, and takes it back.
func TestDedupeAStoreThatIsDownForMinutes(t *testing.T) {
	t.Parallel()
	for name, down := range map[string]func(ctx context.Context, lifted <-chan struct{}) error{
		"fails":  func(context.Context, <-chan struct{}) error { return errStoreDown },
		"panics": func(context.Context, <-chan struct{}) error { panic("boom") },
		"does not answer": func(ctx context.Context, lifted <-chan struct{}) error {
			select {
			case <-ctx.Done():
			case <-lifted:
			}
			return ctx.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic, opts := w.ladder(1)
				store := newFickle()
				var seen byID
				m := w.start(func(_ context.Context, m kstage.Message) error {
					seen.note(m)
					require.Equal(w.t, 1, m.Attempt(), "waiting for the store is no attempt")
					return nil
				}, append(opts, kstage.WithDedupe(store))...)
				w.produce(identified(topic, "k", "before"))
				w.eventually(func() bool { return m.counts.Snapshot().Processed == 1 })
				lifted := make(chan struct{})
				store.set(func(ctx context.Context, _, _ string) error { return down(ctx, lifted) })
				for i := range 50 {
					w.produce(identified(topic, fmt.Sprint(i%10), fmt.Sprint(i)))
				}
				after(5 * time.Second)
				_, told := m.reason(kstage.HealthDedupeFailing)
				require.True(w.t, told)
				require.True(w.t, m.Health().Ready)
				after(3 * time.Minute)
				require.Len(w.t, seen.all(), 1)
				store.set(nil)
				close(lifted)
				after(5 * time.Second)
				_, told = m.reason(kstage.HealthDedupeFailing)
				require.False(w.t, told)
				w.eventually(func() bool { return m.counts.Snapshot().Processed == 51 })
				require.NoError(w.t, m.stop())
				for id, n := range seen.all() {
					require.Equal(w.t, 1, n, id)
				}
				m.assertIdentity()
			})
		})
	}
}

// DedupeFailOpen handles records without the store, and goes back to it.
func TestDedupeFailOpen(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		store := newFickle()
		store.set(refusing())
		var seen byID
		m := w.start(func(_ context.Context, m kstage.Message) error { seen.note(m); return nil },
			append(opts, kstage.WithDedupe(store, kstage.DedupeFailOpen()))...)
		w.produce(identified(topic, "k", "a"), identified(topic, "k", "a"))
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 2 })
		_, told := m.reason(kstage.HealthDedupeFailing)
		require.True(w.t, told)
		store.set(nil)
		w.produce(identified(topic, "k", "b"), identified(topic, "k", "b"))
		w.eventually(func() bool { return m.counts.Snapshot().Duplicates == 1 })
		_, told = m.reason(kstage.HealthDedupeFailing)
		require.False(w.t, told)
		require.NoError(w.t, m.stop())
		require.Equal(w.t, map[string]int{"a": 2, "b": 1}, seen.all())
	})
}

// A claim that is answered when the partition is on its way out is given back: the
// handler does not begin.
func TestDedupeNothingBeginsBehindTheFence(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		store := newFickle()
		asked := make(chan struct{}, 1)
		store.set(func(_ context.Context, call, _ string) error {
			if call == "claim" {
				asked <- struct{}{}
				after(3 * time.Second) // whatever its context says
			}
			return nil
		})
		m := w.start(func(context.Context, kstage.Message) error { w.t.Error("it must not begin"); return nil }, append(opts, kstage.WithDedupe(store))...)
		w.produce(identified(topic, "k", "a"))
		<-asked
		require.NoError(w.t, m.stop())
		m.assertIdentity()
		require.Equal(w.t, 1, store.count("release"))
	})
}

// A handler that returns when its partition is long gone gives its claim back, too.
func TestDedupeALateHandlerKeepsNothing(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		store := newFickle()
		w.produce(identified(topic, "k", "a"))
		begun, end := make(chan struct{}), make(chan struct{})
		m := w.start(func(context.Context, kstage.Message) error {
			close(begun)
			<-end
			return errTest
		}, append(opts, kstage.WithDedupe(store), kstage.WithRevokeDrain(time.Second))...)
		<-begun
		_, err := w.adm.DeleteTopic(w.t.Context(), topic)
		require.NoError(w.t, err)
		w.topic("orders", 1)
		w.eventually(func() bool { _, recreated := m.reason(kstage.HealthTopicRecreated); return recreated })
		require.Zero(w.t, store.count("release"), "its handler runs")
		close(end)
		w.eventually(func() bool { return store.count("release") == 1 })
		require.NoError(w.t, m.stop())
		m.assertIdentity()
	})
}

// A claim that could not be renewed for its whole lease is taken anew before the next
// call: somebody else may have had the key meanwhile.
func TestDedupeAClaimThatRanOutIsTakenAnew(t *testing.T) {
	t.Parallel()
	for name, fails := range map[string]bool{"renewed": false, "not renewed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic, opts := w.ladder(1)
				store := newFickle()
				if fails {
					store.set(refusing("extend"))
				}
				w.produce(identified(topic, "k", "a"))
				m := w.start(func(_ context.Context, m kstage.Message) error {
					if m.Attempt() == 1 {
						return kstage.RetryAfter(errTest, time.Minute)
					}
					return nil
				}, append(opts, kstage.WithDedupe(store, kstage.DedupeLease(6*time.Second)))...)
				w.eventually(func() bool { return m.counts.Snapshot().Processed == 1 })
				claims := map[bool]int{false: 1, true: 2}[fails]
				require.Equal(w.t, claims, store.count("claim"))
				require.GreaterOrEqual(w.t, store.count("extend"), 25)
				require.NoError(w.t, m.stop())
				m.assertIdentity()
			})
		})
	}
}

// Mistakes of the options are told by name.
func TestDedupeOptionMistakes(t *testing.T) {
	t.Parallel()
	_, err := kstage.NewConsumer(kstage.HandlerFunc(func(context.Context, kstage.Message) error { return nil }),
		kstage.WithBrokers("localhost:9092"), kstage.WithGroup("g"), kstage.WithTopics("orders"),
		kstage.WithDedupe((*kstage.MemoryDedupeStore)(nil), kstage.DedupeLease(time.Millisecond)))
	require.EqualError(t, err, "kstage: WithDedupe: the store is a nil *kstage.MemoryDedupeStore\nkstage: DedupeLease(1ms): at least 1s")
}
