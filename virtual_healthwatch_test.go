//go:build synctests

package kstage_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// transitions notes what a watch has seen.
type transitions struct {
	mu   sync.Mutex
	seen []kstage.Transition
	at   []time.Time
	then func(kstage.Transition)
}

func (s *transitions) see(t kstage.Transition) {
	s.mu.Lock()
	s.seen = append(s.seen, t)
	s.at = append(s.at, time.Now())
	s.mu.Unlock()
	if s.then != nil {
		s.then(t)
	}
}

func (s *transitions) all() []kstage.Transition {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]kstage.Transition(nil), s.seen...)
}

// changes are what was seen after the first look.
func (s *transitions) changes() []kstage.Transition {
	all := s.all()
	return all[min(len(all), 1):]
}

func (s *transitions) reconnected() (n int) {
	for _, t := range s.all() {
		if t.Reconnected() {
			n++
		}
	}
	return n
}

// watchable is what WatchHealth is on.
type watchable interface {
	WatchHealth(ctx context.Context, every time.Duration, f func(kstage.Transition))
	HealthCheck(ctx context.Context) error
	Health() kstage.Health
}

// watch watches until the func it returns is called.
func watch(t *testing.T, h watchable, every time.Duration, f func(kstage.Transition)) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { h.WatchHealth(ctx, every, f) })
	return func() { cancel(); watching.Wait() }
}

// awayForAMinute cuts the wires for a minute and asks for what was seen.
func awayForAMinute(t *testing.T, h watchable, n *wires) {
	t.Helper()
	var seen transitions
	end := watch(t, h, 10*time.Second, seen.see)
	defer end()
	after(time.Minute)
	require.Len(t, seen.all(), 1, "nothing has changed")
	require.True(t, seen.all()[0].After.Ready)
	require.NoError(t, h.HealthCheck(t.Context()))

	n.setCut(everything)
	cut := time.Now()
	after(30 * time.Second)
	require.NotEmpty(t, seen.changes())
	gone := seen.changes()[0]
	require.True(t, gone.Before.Ready)
	require.False(t, gone.After.Ready)
	require.False(t, gone.Reconnected())
	require.Contains(t, fmt.Sprint(reasonsOf(gone.After)), "disconnected: ")
	require.Less(t, seen.at[1].Sub(cut), 11*time.Second)
	limited, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.ErrorContains(t, h.HealthCheck(limited), "kstage: no broker answers")

	after(30 * time.Second)
	n.setCut(nil)
	after(5 * time.Minute)
	require.Equal(t, 1, seen.reconnected(), "%v", seen.all())
	require.Empty(t, h.Health().Reasons)
	last := seen.all()[len(seen.all())-1]
	require.True(t, last.After.Ready)
	for _, s := range seen.changes() {
		require.NotEqual(t, reasonsOf(s.Before), reasonsOf(s.After), "only changes are told")
	}
}

func TestReconnectedIsSeenOnceByAConsumer(t *testing.T) {
	t.Parallel()
	wired(t, nil, func(w *world, n *wires) {
		_, opts := w.ladder(1)
		m := w.start(handleNothing, append(opts, over(n))...)
		w.eventually(func() bool { return m.Health().Ready })
		awayForAMinute(w.t, m, n)
		require.NoError(w.t, m.stop())
	})
}

// An idle producer's client would not notice that the broker is away.
func TestReconnectedIsSeenOnceByAProducer(t *testing.T) {
	t.Parallel()
	wired(t, nil, func(w *world, n *wires) {
		p, err := kstage.NewProducer(kstage.WithBrokers(w.brokers...), kstage.WithTopic(w.topic("orders", 1)),
			kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return []kgo.Opt{kgo.Dialer(n.dial)} }))
		require.NoError(w.t, err)
		w.eventually(func() bool { return p.Health().Ready })
		awayForAMinute(w.t, p, n)
		require.NoError(w.t, p.Close(w.t.Context()))
		require.ErrorIs(w.t, p.HealthCheck(w.t.Context()), kstage.ErrClosed)
	})
}

// A broker that takes connections and answers nothing is no broker: nothing but the
// watch would say so of an idle producer.
func TestAWatchNoticesASilentBroker(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		p := w.producer(kstage.WithTopic(w.topic("orders", 1)))
		w.eventually(func() bool { return p.Health().Ready })
		silent := w.blackhole(func(kmsg.Request) bool { return true })
		var seen transitions
		end := watch(t, p, 10*time.Second, seen.see)
		defer end()
		after(30 * time.Second)
		require.Empty(t, seen.changes())
		silent.Store(true)
		after(40 * time.Second)
		require.Len(t, seen.changes(), 1)
		require.Equal(t, kstage.HealthDisconnected, seen.changes()[0].After.Reasons[0].Kind)
		silent.Store(false)
		after(time.Minute)
		require.Equal(t, 1, seen.reconnected())
		require.True(t, p.Health().Ready)
	})
}

// Whoever has never been connected cannot be connected again; a broker that is away at
// the start and comes is the one case.
func TestTheFirstConnectionIsNoReconnection(t *testing.T) {
	t.Parallel()
	for _, away := range []bool{false, true} {
		wired(t, nil, func(w *world, n *wires) {
			t := w.t
			topic := w.topic("orders", 1)
			if away {
				n.setCut(everything)
			}
			p, err := kstage.NewProducer(kstage.WithBrokers(w.brokers...), kstage.WithTopic(topic),
				kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return []kgo.Opt{kgo.Dialer(n.dial)} }))
			require.NoError(t, err)
			var seen transitions
			end := watch(t, p, 10*time.Second, seen.see)
			after(time.Minute)
			n.setCut(nil)
			after(time.Minute)
			end()
			require.True(t, p.Health().Ready)
			require.Equal(t, away, seen.reconnected() == 1, "%v", seen.all())
			require.Equal(t, away, len(seen.changes()) == 1, "%v", seen.all())
			require.NoError(t, p.Close(t.Context()))
		})
	}
}

func TestHealthCheckSaysWhatHindersTheConsumer(t *testing.T) {
	t.Parallel()
	secured(t, least(), func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(1)
		c, err := kstage.NewConsumer(kstage.HandlerFunc(handleNothing), append(opts, kstage.WithBrokers(w.brokers...), kstage.WithGroup("g"))...)
		require.NoError(t, err)
		require.ErrorIs(t, c.HealthCheck(t.Context()), kstage.ErrNotRunning)

		m := w.start(handleNothing, append(opts, over(n), svc("secret"))...)
		w.eventually(func() bool { return m.Health().Ready })
		require.NoError(t, m.HealthCheck(t.Context()))
		w.revoke(topicACL("orders", kadm.OpRead))
		w.fill("orders", 0, 1, 1)
		after(10 * time.Second)
		err = m.HealthCheck(t.Context())
		require.ErrorContains(t, err, "kstage: not ready")
		require.ErrorContains(t, err, `auth-failing orders: kstage: not authorized: grant READ on topic "orders"`)
		require.ErrorIs(t, err, kerr.TopicAuthorizationFailed)
		w.grant(topicACL("orders", kadm.OpRead))
		after(30 * time.Second)
		require.NoError(t, m.HealthCheck(t.Context()))
		require.NoError(t, m.stop())
		require.ErrorIs(t, m.HealthCheck(t.Context()), kstage.ErrNotRunning)
	})
}

// A watch goes on through a panic of its function, and ends with its context, also
// while no broker answers.
func TestAWatchEndsWithItsContextAndNotBefore(t *testing.T) {
	t.Parallel()
	wired(t, nil, func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(1)
		seen := transitions{then: func(kstage.Transition) { panic("oops") }}
		m := w.start(handleNothing, append(opts, over(n))...)
		end := watch(t, m, 0, seen.see) // 30 s
		w.eventually(func() bool { return m.Health().Ready })
		after(time.Minute)
		require.NotEmpty(t, seen.all())
		r, ok := m.reason(kstage.HealthCallbackPanic)
		require.True(t, ok)
		require.ErrorContains(t, r.Err, "WatchHealth's function panicked: oops")
		before := len(seen.all())
		m.Pause()
		after(31 * time.Second)
		require.Greater(t, len(seen.all()), before)

		n.setCut(everything)
		after(31 * time.Second)
		start := time.Now()
		end()
		require.Zero(t, time.Since(start))
		require.NoError(t, m.stop())
	})
}

// The notices that end by themselves: another group's records, a topic made again.
func TestForeignRecordsAreShownForFiveMinutes(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		w.topic("shared-1", 1)
		var told watched
		m := w.start(handleNothing, append(opts, kstage.WithTopics(topic), kstage.WithRetryTopicPrefix("shared"),
			kstage.WithRetryStages(time.Second), kstage.WithMetrics(&told))...)
		w.eventually(func() bool { return m.Health().Ready })
		w.produce(copied(record("shared-1", 0, "k", "v"), "kstage-group", "somebody-else"))
		w.eventually(func() bool { return m.is(kstage.HealthForeignRecords) })
		r, _ := m.reason(kstage.HealthForeignRecords)
		require.Equal(t, "shared-1", r.Topic)
		require.True(t, m.Health().Ready)
		after(4 * time.Minute)
		require.True(t, m.is(kstage.HealthForeignRecords))
		w.produce(copied(record("shared-1", 0, "k", "v"), "kstage-group", "somebody-else"))
		after(4 * time.Minute)
		require.True(t, m.is(kstage.HealthForeignRecords), "for five minutes after the last")
		after(2 * time.Minute)
		require.Empty(t, m.Health().Reasons)
		require.Equal(t, 1, told.count("-"+r.String()))
		require.NoError(t, m.stop())
	})
}

func TestARecreatedTopicIsShownForFiveMinutes(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		m := w.start(handleNothing, opts...)
		w.eventually(func() bool { return m.Health().Ready })
		after(2 * time.Minute)
		_, err := w.adm.DeleteTopic(t.Context(), topic)
		require.NoError(t, err)
		w.topic("orders", 1)
		w.eventually(func() bool { return m.is(kstage.HealthTopicRecreated) })
		require.True(t, m.Health().Ready)
		after(4 * time.Minute)
		require.True(t, m.is(kstage.HealthTopicRecreated))
		after(2 * time.Minute)
		require.Empty(t, m.Health().Reasons)
		require.NoError(t, m.stop())
	})
}
