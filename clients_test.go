package kstage_test

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// grabbed keeps the clients that are made, by role.
type grabbed struct {
	mu      sync.Mutex
	clients map[kstage.ClientRole]*kgo.Client
}

type grab struct {
	g    *grabbed
	role kstage.ClientRole
}

// OnNewClient implements kgo.HookNewClient.
func (h grab) OnNewClient(cl *kgo.Client) {
	h.g.mu.Lock()
	defer h.g.mu.Unlock()
	h.g.clients[h.role] = cl
}

func (g *grabbed) opt(role kstage.ClientRole, opt any) any {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.clients[role].OptValue(opt)
}

func grabbing(w *world, more map[kstage.ClientRole][]kgo.Opt) (*grabbed, kstage.ConsumerOption) {
	g := &grabbed{clients: map[kstage.ClientRole]*kgo.Client{}}
	return g, kstage.WithClientOptions(func(role kstage.ClientRole) []kgo.Opt {
		return append(append([]kgo.Opt{kgo.WithHooks(grab{g, role})}, w.reach...), more[role]...)
	})
}

func TestWhatClientsAreMadeWith(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, opts := w.ladder(1)
	g, option := grabbing(w, nil)
	m := w.start(handleNothing, append(opts, option, kstage.WithClientID("billing-7"))...)
	w.eventually(func() bool { return m.Health().Ready })
	for _, role := range []kstage.ClientRole{kstage.RoleMain, kstage.RoleHandOff} {
		require.Equal(t, "billing-7", g.opt(role, kgo.ClientID))
		require.Equal(t, 30*time.Second, g.opt(role, kgo.MetadataMaxAge))
	}
	require.Len(t, g.clients, 2, "no client that is not needed")
	require.NoError(t, m.stop())
}

// A user may change what is not ours to decide; what kstage lives by stays.
func TestTheUsersClientOptionsComeBeforeOurs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(1)
	g, option := grabbing(w, map[kstage.ClientRole][]kgo.Opt{
		kstage.RoleMain: {
			kgo.MetadataMaxAge(7 * time.Second), kgo.ClientID("mine"), kgo.Rack("r1"),
			kgo.SeedBrokers("nowhere:1"), kgo.ConsumerGroup("theirs"), kgo.ConsumeTopics("theirs"),
			kgo.FetchMaxWait(time.Hour), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()), kgo.FetchIsolationLevel(kgo.ReadUncommitted()),
			kgo.RebalanceTimeout(time.Hour),
		},
		kstage.RoleHandOff: {kgo.SeedBrokers("nowhere:1"), kgo.RequiredAcks(kgo.LeaderAck()), kgo.ProducerLinger(time.Hour)},
	})
	m := w.start(handleNothing, append(opts, option)...)
	w.eventually(func() bool { return m.Health().Ready })
	want := map[kstage.ClientRole][]struct {
		name  string
		opt   any
		value any
	}{
		kstage.RoleMain: {
			{"MetadataMaxAge", kgo.MetadataMaxAge, 7 * time.Second},
			{"ClientID", kgo.ClientID, "mine"},
			{"Rack", kgo.Rack, "r1"},
			{"SeedBrokers", kgo.SeedBrokers, w.brokers},
			{"ConsumerGroup", kgo.ConsumerGroup, w.name("g")},
			{"FetchMaxWait", kgo.FetchMaxWait, 500 * time.Millisecond},
			{"RebalanceTimeout", kgo.RebalanceTimeout, time.Minute},
			{"DisableAutoCommit", kgo.DisableAutoCommit, true},
			{"BlockRebalanceOnPoll", kgo.BlockRebalanceOnPoll, true},
			{"FetchIsolationLevel", kgo.FetchIsolationLevel, int8(1)},
			{"ConsumeResetOffset", kgo.ConsumeResetOffset, kgo.NewOffset().AtStart()},
		},
		kstage.RoleHandOff: {
			{"RequiredAcks", kgo.RequiredAcks, kgo.AllISRAcks()},
			{"ProducerLinger", kgo.ProducerLinger, time.Duration(0)},
			{"RecordDeliveryTimeout", kgo.RecordDeliveryTimeout, 30 * time.Second},
			{"SeedBrokers", kgo.SeedBrokers, w.brokers},
		},
	}
	for role, options := range want {
		for _, o := range options {
			require.Equal(t, o.value, g.opt(role, o.opt), "%v %s", role, o.name)
		}
	}
	require.Equal(t, []string{topic}, m.client(g).GetConsumeTopics())
	require.NoError(t, m.stop())
}

func (*member) client(g *grabbed) *kgo.Client {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.clients[kstage.RoleMain]
}

// onceHook refuses to be on two clients, as kprom's does.
type onceHook struct{ used bool }

// OnNewClient implements kgo.HookNewClient.
func (h *onceHook) OnNewClient(*kgo.Client) {
	if h.used {
		panic("this hook is on two clients")
	}
	h.used = true
}

func TestAPanicWhileAClientIsMadeIsAnError(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, opts := w.ladder(1)
	hook := &onceHook{}
	options := map[string]func(kstage.ClientRole) []kgo.Opt{
		"a hook on two clients": func(kstage.ClientRole) []kgo.Opt { return append([]kgo.Opt{kgo.WithHooks(hook)}, w.reach...) },
		"the user's function":   func(kstage.ClientRole) []kgo.Opt { panic("oops") },
	}
	for name, f := range options {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := w.start(handleNothing, append(slices.Clone(opts), kstage.WithClientOptions(f))...)
			require.ErrorContains(t, m.wait(), "see WithClientOptions")
			require.False(t, m.Health().Live)
		})
	}
}

// TLS to a broker without is no wrong password: it may be the broker's mistake. Health says why.
func TestATLSMismatchIsTriedOn(t *testing.T) {
	t.Parallel()
	w := newFakeWorld(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for { // as a broker does that reads no request in what it gets
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 64<<10))
			_ = c.Close()
		}
	})
	t.Cleanup(func() { _ = l.Close(); accepting.Wait() })
	m := w.start(handleNothing, kstage.WithTopics("orders"),
		kstage.WithBrokers(l.Addr().String()), kstage.WithTLS(&tls.Config{MinVersion: tls.VersionTLS12}))
	w.eventually(func() bool { return m.is(kstage.HealthDisconnected) })
	r, _ := m.reason(kstage.HealthDisconnected)
	require.ErrorContains(t, r.Err, "TLS")
	select {
	case <-m.done:
		t.Fatal("Run has ended", m.err)
	case <-time.After(300 * time.Millisecond): // it tries again after 250 ms
	}
	require.NoError(t, m.stop())
}

// A start that runs out of time says what kept it from an answer.
func TestTheStartTimeoutTellsWhy(t *testing.T) {
	t.Parallel()
	w := newFakeWorld(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for n := 0; ; n++ { // as a broker answers that speaks TLS alone, and then not at all
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 64<<10))
			if n == 0 {
				_, _ = c.Write([]byte{0x15, 3, 3, 0, 2, 2, 40})
			} else {
				_, _ = c.Read(make([]byte, 1))
			}
			_ = c.Close()
		}
	})
	t.Cleanup(func() { _ = l.Close(); accepting.Wait() })
	m := w.start(handleNothing, kstage.WithTopics("orders"), kstage.WithBrokers(l.Addr().String()), kstage.WithStartTimeout(100*time.Millisecond))
	err = m.wait()
	require.ErrorContains(t, err, "kstage: no broker answered within 100ms (WithStartTimeout): ")
	require.ErrorContains(t, err, "is this a plaintext connection speaking to a tls endpoint?")
}

func handleNothing(context.Context, kstage.Message) error { return nil }

// is says whether Health has a reason of a kind.
func (m *member) is(k kstage.ReasonKind) bool {
	_, ok := m.reason(k)
	return ok
}
