//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

func TestAReasonExpiresAfterItsLastTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var e events
		b := kstage.NewBoard(e.hear)
		end := b.Tell()
		gap := kstage.HealthReason{Kind: kstage.HealthTopicRecreated, Topic: "orders", Partition: -1}
		b.RaiseFor(5*time.Minute, gap)
		since := time.Now()
		after(4 * time.Minute)
		require.False(t, b.RaiseFor(5*time.Minute, gap))
		after(5 * time.Minute)
		require.Len(t, b.Health(true).Reasons, 1)
		require.Equal(t, since, b.Health(true).Reasons[0].Since)
		after(time.Millisecond)
		require.Empty(t, b.Health(true).Reasons)
		end()
		require.Equal(t, []string{"+topic-recreated orders", "-topic-recreated orders"}, e.all())
	})
}

func TestAListenerThatHangsDoesNotKeepRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		b := kstage.NewBoard(func(kstage.StateEvent) { <-release })
		end := b.Tell()
		b.End(nil)
		start := time.Now()
		end()
		require.LessOrEqual(t, time.Since(start), time.Second)
		close(release)
	})
}

// A collector whose StateChanged hangs costs the end of Run a second, no more.
func TestAHangingStateChangedDoesNotHoldTheEndOfRun(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		release := make(chan struct{})
		defer close(release)
		hanging := watched{then: func(kstage.StateEvent) { <-release }}
		m := w.start(handleNothing, append(opts, kstage.WithMetrics(&hanging))...)
		w.eventually(func() bool { return m.Health().Ready })
		start := time.Now()
		m.cancel()
		select {
		case <-m.done:
		case <-time.After(time.Minute):
			t.Fatal("Run has not ended")
		}
		require.NoError(t, m.err)
		require.LessOrEqual(t, time.Since(start), 1500*time.Millisecond)
	})
}

// watched is a collector that keeps the changes of Health.
type watched struct {
	kstage.NopMetrics
	events
	counts kstage.Counters
	then   func(kstage.StateEvent)
}

func (w *watched) StateChanged(e kstage.StateEvent) {
	w.hear(e)
	if w.then != nil {
		w.then(e)
	}
}

func (w *watched) Handled(e kstage.HandledEvent) { w.counts.Handled(e) }

func TestReadyFromTheFirstAssignmentToTheEndOfRun(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		var events watched
		blocked := make(chan struct{})
		w.fill("orders", 0, 1, 1)
		m := w.start(func(context.Context, kstage.Message) error { <-blocked; return nil }, append(opts, kstage.WithMetrics(&events))...)
		require.False(t, m.Health().Ready)
		require.True(t, m.Health().Live)
		w.eventually(func() bool { return m.Health().Ready })
		require.Empty(t, m.Health().Reasons)
		m.cancel()
		w.eventually(func() bool { return m.is(kstage.HealthDraining) })
		require.False(t, m.Health().Ready)
		close(blocked)
		require.NoError(t, m.wait())
		require.True(t, m.Health().Live)
		require.False(t, m.Health().Ready)
		require.Equal(t, []string{"+not-joined g", "-not-joined g", "+draining", "-draining", "+not-joined g"}, events.all())
	})
}

// The listener may use the Consumer, and hears of what it causes.
func TestStateChangedMayCallTheConsumer(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		var m *member
		started := make(chan struct{})
		events := watched{then: func(e kstage.StateEvent) {
			<-started
			m.Stats()
			if e.Reason.Kind == kstage.HealthDraining && !e.Cleared {
				m.Pause("orders")
			}
		}}
		m = w.start(handleNothing, append(opts, kstage.WithMetrics(&events))...)
		close(started)
		w.eventually(func() bool { return m.Health().Ready })
		require.NoError(t, m.stop())
		require.Equal(t, 1, events.count("+paused orders"))
	})
}

func TestHealthPaused(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		m := w.start(handleNothing, opts...)
		w.eventually(func() bool { return m.Health().Ready })
		m.Pause()
		m.Pause("orders")
		require.Equal(t, []string{"paused", "paused orders"}, reasonsOf(m.Health()))
		require.True(t, m.Health().Ready)
		m.Resume("orders")
		require.Equal(t, []string{"paused"}, reasonsOf(m.Health()))
		m.Resume()
		require.Empty(t, m.Health().Reasons)
	})
}

func TestHealthCommitFailing(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		var events watched
		m := w.start(handleNothing, append(opts, kstage.WithMetrics(&events))...)
		w.eventually(func() bool { return m.Health().Ready })
		fault := w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: kerr.UnknownServerError, Count: -1})
		w.fill("orders", 0, 3, 1)
		w.eventually(func() bool { return m.is(kstage.HealthCommitFailing) })
		r, _ := m.reason(kstage.HealthCommitFailing)
		require.ErrorIs(t, r.Err, kerr.UnknownServerError)
		require.Equal(t, "orders", r.Topic)
		require.True(t, m.Health().Ready, "records are consumed as they should be")
		after(time.Minute)
		fault.Remove()
		after(2 * time.Second)
		require.Empty(t, m.Health().Reasons)
		require.EqualValues(t, 3, w.committed("orders", 0))
		require.Equal(t, 1, events.count("-"+r.String()), "raised and cleared once")
	})
}

func TestHealthFetchFailing(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(2)
		var events watched
		m := w.start(handleNothing, append(opts, kstage.WithMetrics(&events))...)
		w.eventually(func() bool { return m.Health().Ready })
		fault := w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Partitions: []int32{1}, Err: kerr.UnknownServerError, Count: -1})
		w.eventually(func() bool { return m.is(kstage.HealthFetchFailing) })
		r, _ := m.reason(kstage.HealthFetchFailing)
		require.EqualValues(t, 1, r.Partition)
		require.ErrorIs(t, r.Err, kerr.UnknownServerError)
		require.True(t, m.Health().Ready)
		w.fill("orders", 0, 3, 1)
		w.fill("orders", 1, 3, 1)
		w.eventually(func() bool { return w.committed("orders", 0) == 3 })
		require.True(t, m.is(kstage.HealthFetchFailing), "another partition's records say nothing of this one")
		fault.Remove()
		w.eventually(func() bool { return w.committed("orders", 1) == 3 })
		require.Empty(t, m.Health().Reasons)
		require.Equal(t, 1, events.count("+"+r.String()))
	})
}

func TestHealthCallbackPanicStays(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		w.fill("orders", 0, 1, 1)
		m := w.start(func(context.Context, kstage.Message) error { return errors.New("no") },
			append(opts, kstage.WithClassifier(func(error) kstage.Class { panic("oops") }))...)
		w.eventually(func() bool { return m.is(kstage.HealthCallbackPanic) })
		r, _ := m.reason(kstage.HealthCallbackPanic)
		require.ErrorContains(t, r.Err, "WithClassifier panicked: oops")
		require.True(t, m.Health().Ready)
		require.NoError(t, m.stop())
		require.True(t, m.is(kstage.HealthCallbackPanic))
	})
}

func TestACollectorThatPanicsInStateChangedIsReported(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		events := watched{then: func(kstage.StateEvent) { panic("oops") }}
		m := w.start(handleNothing, append(opts, kstage.WithMetrics(&events))...)
		w.eventually(func() bool { return m.is(kstage.HealthCallbackPanic) && !m.is(kstage.HealthNotJoined) })
		require.NoError(t, m.stop())
	})
}
