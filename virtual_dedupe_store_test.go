//go:build synctests

package kstage_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

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
