//go:build synctests

package kstage_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
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
		m := w.start(func(_ context.Context, msg *kstage.Message) error { j.note(msg); return nil }, append(opts, over(n), kstage.WithMetrics(&told))...)
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
		require.NotZero(t, n.refused, "it was tried")
		require.NoError(t, m.stop())
	}, kfake.NumBrokers(3), kfake.Ports(9001, 9002, 9003))
}

// svc is the user a consumer logs in as; admin may do everything.
func svc(password string) kstage.ConsumerOption {
	return kstage.WithSASL(plain.Auth{User: "svc", Pass: password}.AsMechanism())
}

// refuse makes the broker answer a wrong password as a real one does: the
// embedded one closes the connection.
func (w *world) refuse() {
	w.fake.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		r := req.(*kmsg.SASLAuthenticateRequest)
		if !bytes.Contains(r.SASLAuthBytes, []byte("wrong")) {
			return nil, nil, false
		}
		resp := r.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		resp.ErrorCode = kerr.SaslAuthenticationFailed.Code
		return resp, nil, true
	})
}

// secured is wired on a broker that asks for a login and, with rights, for permissions.
func secured(t *testing.T, rights []kfake.ACL, test func(w *world, n *wires), opts ...kfake.Opt) {
	t.Helper()
	all := append([]kfake.Opt{
		kfake.EnableSASL(), kfake.Superuser("PLAIN", "admin", "admin"), kfake.User("PLAIN", "svc", "secret", rights...),
	}, opts...)
	if rights != nil {
		all = append(all, kfake.EnableACLs())
	}
	admin := []kgo.Opt{kgo.SASL(plain.Auth{User: "admin", Pass: "admin"}.AsMechanism())}
	wired(t, admin, func(w *world, n *wires) { w.refuse(); test(w, n) }, all...)
}

func TestWrongCredentialsEndRunAtOnce(t *testing.T) {
	t.Parallel()
	secured(t, nil, func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(1)
		start := time.Now()
		err := w.start(handleNothing, append(opts, over(n), svc("wrong"))...).wait()
		require.ErrorContains(t, err, "WithSASL")
		require.ErrorIs(t, err, kerr.SaslAuthenticationFailed)
		require.Less(t, time.Since(start), time.Second)
		right := w.start(handleNothing, append(opts, over(n), svc("secret"))...)
		w.eventually(func() bool { return right.Health().Ready })
		require.NoError(t, right.stop())
	})
}

// The broker that refuses is asked first; the one asked last cannot be reached.
func TestWrongCredentialsEndRunAtOnceWhereOneBrokerCannotBeReached(t *testing.T) {
	t.Parallel()
	secured(t, nil, func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(1)
		for _, brokers := range [][]string{{w.brokers[0], "localhost:1"}, {"localhost:1", w.brokers[0]}} {
			start := time.Now()
			err := w.start(handleNothing, append(opts, over(n), svc("wrong"), kstage.WithBrokers(brokers...))...).wait()
			require.ErrorContains(t, err, "WithSASL")
			require.Less(t, time.Since(start), time.Second)
		}
	})
}

// Credentials that are changed under a running consumer: it keeps trying, and says why.
func TestCredentialsThatAreRefusedLater(t *testing.T) {
	t.Parallel()
	secured(t, nil, func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(1)
		password := atomic.Pointer[string]{}
		set := func(s string) { password.Store(&s) }
		set("secret")
		var told watched
		m := w.start(handleNothing, append(opts, over(n), kstage.WithMetrics(&told), kstage.WithSASL(plain.Plain(func(context.Context) (plain.Auth, error) {
			return plain.Auth{User: "svc", Pass: *password.Load()}, nil
		})))...)
		w.eventually(func() bool { return m.Health().Ready })
		set("wrong")
		n.setCut(everything)
		n.setCut(nil)
		after(5 * time.Minute)
		r, ok := m.reason(kstage.HealthDisconnected)
		require.True(t, ok, "%v", m.Health().Reasons)
		require.ErrorContains(t, r.Err, "WithSASL")
		set("secret")
		after(20 * time.Second)
		require.Empty(t, m.Health().Reasons)
		require.Equal(t, 1, told.count("+"+r.String()), "raised once: %v", told.all())
		require.NoError(t, m.stop())
	})
}

func TestEnsureTopicsNamesWrongCredentials(t *testing.T) {
	t.Parallel()
	secured(t, nil, func(w *world, n *wires) {
		err := kstage.EnsureTopics(w.t.Context(), kstage.Topology{Group: "g", Topics: []string{"orders"}},
			kstage.WithBrokers(w.brokers...), kstage.WithSASL(plain.Auth{User: "svc", Pass: "wrong"}.AsMechanism()),
			kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return []kgo.Opt{kgo.Dialer(n.dial)} }))
		require.ErrorContains(w.t, err, "WithSASL")
	})
}

func allow(resource kmsg.ACLResourceType, name string, op kmsg.ACLOperation) kfake.ACL {
	return kfake.ACL{Resource: resource, Name: name, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
}

// least is what README tells to grant.
func least() []kfake.ACL {
	return []kfake.ACL{
		allow(kmsg.ACLResourceTypeTopic, "orders", kmsg.ACLOperationRead),
		allow(kmsg.ACLResourceTypeTopic, "g-dlq", kmsg.ACLOperationWrite),
		allow(kmsg.ACLResourceTypeGroup, "g", kmsg.ACLOperationRead),
	}
}

func topicACL(topic string, op kadm.ACLOperation) *kadm.ACLBuilder {
	return kadm.NewACLs().Topics(topic).Operations(op).Allow("User:svc").AllowHosts("*").ResourcePatternType(kadm.ACLPatternLiteral)
}

func groupACL(group string) *kadm.ACLBuilder {
	return kadm.NewACLs().Groups(group).Operations(kadm.OpRead).Allow("User:svc").AllowHosts("*").ResourcePatternType(kadm.ACLPatternLiteral)
}

func (w *world) grant(b *kadm.ACLBuilder) {
	w.t.Helper()
	_, err := w.adm.CreateACLs(w.t.Context(), b)
	require.NoError(w.t, err)
}

func (w *world) revoke(b *kadm.ACLBuilder) {
	w.t.Helper()
	rs, err := w.adm.DeleteACLs(w.t.Context(), b)
	require.NoError(w.t, err)
	require.NotEmpty(w.t, rs)
	require.NotEmpty(w.t, rs[0].Deleted)
}

// Least privilege is enough for everything; the settings may not be seen, which is one warning.
func TestLeastPrivilegeIsEnough(t *testing.T) {
	t.Parallel()
	secured(t, least(), func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(1)
		w.fill("orders", 0, 3, 3)
		m := w.start(func(context.Context, *kstage.Message) error { return kstage.Permanent(errors.New("never")) }, append(opts, over(n), svc("secret"))...)
		after(3 * time.Minute)
		require.EqualValues(t, 3, w.committed("orders", 0))
		require.Len(t, w.deadLetters(), 3)
		require.Empty(t, m.Health().Reasons)
		require.Len(t, w.logs.FilterMessageSnippet("settings may not be seen").All(), 1)
		require.NoError(t, m.stop())
	})
}

// lost takes a permission away from a running consumer.
func lost(t *testing.T, acl func() *kadm.ACLBuilder, grant string) {
	t.Helper()
	t.Run("ends Run after a minute", func(t *testing.T) {
		t.Parallel()
		secured(t, least(), func(w *world, n *wires) {
			t := w.t
			_, opts := w.ladder(1)
			m := w.start(handleNothing, append(opts, over(n), svc("secret"))...)
			w.eventually(func() bool { return m.Health().Ready })
			after(10 * time.Second)
			w.revoke(acl())
			w.fill("orders", 0, 3, 3)
			start := time.Now()
			after(20 * time.Second)
			r, ok := m.reason(kstage.HealthAuthFailing)
			require.True(t, ok, "%v", m.Health().Reasons)
			require.ErrorContains(t, r.Err, grant)
			require.False(t, m.Health().Ready)
			require.True(t, m.Health().Live)
			require.ErrorContains(t, m.wait(), grant)
			took := time.Since(start)
			require.GreaterOrEqual(t, took, time.Minute)
			require.Less(t, took, 75*time.Second)
			require.False(t, m.Health().Live)
		})
	})
	t.Run("granted again within the minute", func(t *testing.T) {
		t.Parallel()
		secured(t, least(), func(w *world, n *wires) {
			t := w.t
			_, opts := w.ladder(1)
			var j journal
			m := w.start(func(_ context.Context, msg *kstage.Message) error { j.note(msg); return nil }, append(opts, over(n), svc("secret"))...)
			w.eventually(func() bool { return m.Health().Ready })
			after(10 * time.Second)
			for range 3 { // what is granted again begins a new minute
				w.revoke(acl())
				after(45 * time.Second)
				require.True(t, m.is(kstage.HealthAuthFailing))
				w.grant(acl())
				after(20 * time.Second)
				require.Empty(t, m.Health().Reasons)
			}
			w.fill("orders", 0, 3, 3)
			w.eventually(func() bool { return w.committed("orders", 0) == 3 })
			require.Equal(t, 3, j.len())
			require.NoError(t, m.stop())
		})
	})
}

func TestLosingReadOnTheTopic(t *testing.T) {
	t.Parallel()
	lost(t, func() *kadm.ACLBuilder { return topicACL("orders", kadm.OpRead) }, `grant READ on topic "orders"`)
}

func TestLosingReadOnTheGroup(t *testing.T) {
	t.Parallel()
	lost(t, func() *kadm.ACLBuilder { return groupACL("g") }, `grant READ on group "g"`)
}

// The broker does not tell whether the topic is missing or only forbidden.
func TestATopicThatMayNotBeSeenIsOneWarningAtTheStart(t *testing.T) {
	t.Parallel()
	secured(t, least()[1:], func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(1)
		w.fill("orders", 0, 3, 3)
		m := w.start(handleNothing, append(opts, over(n), svc("secret"))...)
		after(10 * time.Second)
		require.Len(t, w.logs.FilterMessageSnippet("may not be seen, or does not exist").All(), 1)
		require.True(t, m.is(kstage.HealthAuthFailing))
		w.grant(topicACL("orders", kadm.OpRead))
		after(20 * time.Second)
		require.EqualValues(t, 3, w.committed("orders", 0))
		require.Empty(t, m.Health().Reasons)
		require.NoError(t, m.stop())
	})
}

func TestAMissingWriteOnTheDeadLetterTopicIsExplained(t *testing.T) {
	t.Parallel()
	describe := allow(kmsg.ACLResourceTypeTopic, "g-dlq", kmsg.ACLOperationDescribe)
	secured(t, []kfake.ACL{least()[0], least()[2], describe}, func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(1)
		w.fill("orders", 0, 3, 3)
		m := w.start(func(context.Context, *kstage.Message) error { return kstage.Permanent(errors.New("never")) }, append(opts, over(n), svc("secret"))...)
		after(2 * time.Minute)
		r, ok := m.reason(kstage.HealthHandOffFailing)
		require.True(t, ok, "%v", m.Health().Reasons)
		require.ErrorContains(t, r.Err, `grant WRITE on topic "g-dlq"`)
		require.EqualValues(t, -1, w.committed("orders", 0))
		var de *kstage.DrainError
		require.ErrorAs(t, m.stop(), &de, "the copies are still owed")
		require.Len(t, de.Abandoned, 3)
	})
}

func TestALostWriteOnTheDeadLetterTopicIsTriedUntilItIsGranted(t *testing.T) {
	t.Parallel()
	secured(t, least(), func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(1)
		w.fill("orders", 0, 3, 3)
		m := w.start(func(context.Context, *kstage.Message) error { return kstage.Permanent(errors.New("never")) }, append(opts, over(n), svc("secret"))...)
		w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 3 })
		w.revoke(topicACL("g-dlq", kadm.OpWrite))
		w.grant(topicACL("g-dlq", kadm.OpDescribe))
		w.fill("orders", 0, 3, 3)
		after(2 * time.Minute)
		r, ok := m.reason(kstage.HealthHandOffFailing)
		require.True(t, ok, "%v", m.Health().Reasons)
		require.ErrorContains(t, r.Err, `grant WRITE on topic "g-dlq"`)
		require.EqualValues(t, 3, w.committed("orders", 0))
		w.grant(topicACL("g-dlq", kadm.OpWrite))
		after(time.Minute)
		require.EqualValues(t, 6, w.committed("orders", 0))
		require.Len(t, w.deadLetters(), 6)
		require.Empty(t, m.Health().Reasons)
		require.NoError(t, m.stop())
	})
}

func TestCreationThatIsNotAllowedSaysWhatToGrant(t *testing.T) {
	t.Parallel()
	secured(t, append(least(), allow(kmsg.ACLResourceTypeTopic, "g-dlq", kmsg.ACLOperationDescribe)), func(w *world, n *wires) {
		w.topic("orders", 1)
		m := w.start(handleNothing, kstage.WithTopics("orders"), kstage.WithTopicProvisioning(kstage.CreateTopics), over(n), svc("secret"))
		require.ErrorContains(w.t, m.wait(), `grant CREATE on topic "g-dlq"`)
	})
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
		second := w.start(func(_ context.Context, msg *kstage.Message) error { j.note(msg); return nil }, opts...)
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
