//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap/zapcore"

	"github.com/kstage/kstage"
)

// wires is the network between a consumer and its brokers. It can be cut.
type wires struct {
	kfake.VirtualNetwork

	mu    sync.Mutex
	cut   func(addr string) bool // nil: nothing is cut
	conns []net.Conn

	refused int // dials
}

var errCut = errors.New("connection refused")

func (n *wires) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	cut := n.cut != nil && n.cut(addr)
	if cut {
		n.refused++
	}
	n.mu.Unlock()
	if cut {
		return nil, errCut
	}
	c, err := n.DialContext(ctx, network, addr)
	if err == nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.conns = append(n.conns, c)
	}
	return c, err
}

func (n *wires) refusedDials() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.refused
}

func everything(string) bool { return true }

// setCut cuts the wires to some brokers, or none (nil). All connections end.
func (n *wires) setCut(cut func(addr string) bool) {
	n.mu.Lock()
	n.cut = cut
	conns := n.conns
	n.conns = nil
	n.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// over makes consumers use the wires.
func over(n *wires, more ...kgo.Opt) kstage.ConsumerOption {
	return kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return append([]kgo.Opt{kgo.Dialer(n.dial)}, more...) })
}

// wired is virtual with wires that the test may cut. admin is how its own client logs in.
func wired(t *testing.T, admin []kgo.Opt, test func(w *world, n *wires), opts ...kfake.Opt) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := &wires{}
		reach := append([]kgo.Opt{kgo.Dialer(n.DialContext)}, admin...)
		test(newFakeWorld(t, reach, append([]kfake.Opt{kfake.Ports(9001), kfake.ListenFn(n.Listen)}, opts...)...), n)
	})
}

// warnings counts our own log lines of level warn and above; the client has its own logger.
func (w *world) warnings() (texts []string) {
	for _, e := range w.logs.All() {
		if e.Level >= zapcore.WarnLevel && e.LoggerName == "" {
			texts = append(texts, e.Message)
		}
	}
	return texts
}

func TestAnUnreachableBrokerAtTheStartIsTriedUntilItComes(t *testing.T) {
	t.Parallel()
	wired(t, nil, func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(1)
		w.fill("orders", 0, 3, 1)
		n.setCut(everything)
		m := w.start(handleNothing, append(opts, over(n))...)
		after(5 * time.Minute)
		require.False(t, m.Health().Ready)
		require.True(t, m.Health().Live)
		require.Equal(t, []kstage.ReasonKind{kstage.HealthNotJoined, kstage.HealthDisconnected}, kindsOf(m.Health()))
		r, _ := m.reason(kstage.HealthDisconnected)
		require.ErrorIs(t, r.Err, errCut)
		require.Equal(t, []string{"no broker answers, trying on"}, w.warnings())
		n.setCut(nil)
		after(8 * time.Second)
		require.EqualValues(t, 3, w.committed("orders", 0))
		require.Empty(t, m.Health().Reasons)
		require.Equal(t, 1, w.logs.FilterMessage("a broker answers").Len())
		require.NoError(t, m.stop())
	})
}

func kindsOf(h kstage.Health) (ks []kstage.ReasonKind) {
	for _, r := range h.Reasons {
		ks = append(ks, r.Kind)
	}
	return ks
}

func TestWithStartTimeoutEndsTheTries(t *testing.T) {
	t.Parallel()
	wired(t, nil, func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(1)
		n.setCut(everything)
		start := time.Now()
		m := w.start(handleNothing, append(opts, over(n), kstage.WithStartTimeout(7*time.Second))...)
		err := m.wait()
		require.ErrorContains(t, err, "within 7s (WithStartTimeout)")
		require.ErrorIs(t, err, errCut)
		require.Equal(t, 7*time.Second, time.Since(start))
		require.False(t, m.Health().Live)
	})
}

// A broker that takes connections and never answers is not there, either.
func TestWithStartTimeoutEndsATryThatHangs(t *testing.T) {
	t.Parallel()
	wired(t, nil, func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(1)
		w.fake.ControlKey(int16(kmsg.ApiVersions), func(kmsg.Request) (kmsg.Response, error, bool) {
			w.fake.KeepControl()
			return nil, nil, true
		})
		start := time.Now()
		m := w.start(handleNothing, append(opts, over(n), kstage.WithStartTimeout(7*time.Second))...)
		require.ErrorContains(t, m.wait(), "WithStartTimeout")
		require.Equal(t, 7*time.Second, time.Since(start))
	})
}

func TestTheContextEndsTheTries(t *testing.T) {
	t.Parallel()
	wired(t, nil, func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(1)
		n.setCut(everything)
		m := w.start(handleNothing, append(opts, over(n))...)
		after(time.Minute + 100*time.Millisecond)
		start := time.Now()
		require.NoError(t, m.stop())
		require.Zero(t, time.Since(start))
		require.True(t, m.Health().Live)
	})
}

func TestABrokerThatIsAwayForAMinute(t *testing.T) {
	t.Parallel()
	wired(t, nil, func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(1)
		var told watched
		var j journal
		m := w.start(func(_ context.Context, msg kstage.Message) error { j.note(msg); return nil }, append(opts, over(n), kstage.WithMetrics(&told))...)
		w.fill("orders", 0, 10, 3)
		w.eventually(func() bool { return j.len() == 10 })
		after(2 * time.Second)
		n.setCut(everything)
		after(10 * time.Second)
		require.True(t, m.is(kstage.HealthDisconnected))
		require.False(t, m.Health().Ready)
		after(time.Minute)
		n.setCut(nil)
		w.fill("orders", 0, 10, 3)
		after(20 * time.Second)
		require.EqualValues(t, 20, w.committed("orders", 0))
		require.Equal(t, 20, j.len(), "what was committed is not handled again")
		require.Empty(t, m.Health().Reasons)
		require.Equal(t, 1, told.count("+disconnected: unable to dial: connection refused"), "%v", told.all())
		require.Equal(t, 1, told.count("-disconnected: unable to dial: connection refused"), "%v", told.all())
		require.NoError(t, m.stop())
	})
}

// One broker of three is away: the others answer, the consumer is not disconnected.
func TestOneBrokerOfThreeAway(t *testing.T) {
	t.Parallel()
	wired(t, nil, func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(3)
		var told watched
		m := w.start(handleNothing, append(opts, over(n), kstage.WithMetrics(&told))...)
		w.eventually(func() bool { return m.Health().Ready })
		away := w.brokers[(w.fake.CoordinatorFor("g")+1)%3]
		n.setCut(func(addr string) bool { return addr == away })
		after(time.Minute)
		for _, e := range told.all() {
			require.NotContains(t, e, "disconnected")
		}
		require.NotZero(t, n.refusedDials(), "it was tried")
		require.NoError(t, m.stop())
	}, kfake.NumBrokers(3), kfake.Ports(9001, 9002, 9003))
}

func TestASecondMemberOfOneInstanceIDEndsTheFirst(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		opts = append(opts, kstage.WithInstanceID("pod-1"))
		first := w.start(handleNothing, opts...)
		w.eventually(func() bool { return first.Health().Ready })
		var j journal
		second := w.start(func(_ context.Context, msg kstage.Message) error { j.note(msg); return nil }, opts...)
		start := time.Now()
		err := first.wait()
		require.ErrorContains(t, err, "WithInstanceID")
		require.ErrorIs(t, err, kerr.FencedInstanceID)
		require.Less(t, time.Since(start), 20*time.Second)
		require.False(t, first.Health().Live)
		w.fill("orders", 0, 3, 3)
		w.eventually(func() bool { return w.committed("orders", 0) == 3 })
		require.Equal(t, 3, j.len(), "the first did not take the second with it")
		require.True(t, second.Health().Ready)
		require.NoError(t, second.stop())
	})
}
