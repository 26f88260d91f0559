//go:build synctests

package kstage_test

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/kstage/kstage"
)

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
		m := w.start(func(context.Context, kstage.Message) error { return kstage.Permanent(errors.New("never")) }, append(opts, over(n), svc("secret"))...)
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
			m := w.start(func(_ context.Context, msg kstage.Message) error { j.note(msg); return nil }, append(opts, over(n), svc("secret"))...)
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
		m := w.start(func(context.Context, kstage.Message) error { return kstage.Permanent(errors.New("never")) }, append(opts, over(n), svc("secret"))...)
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

// A client that was refused a producer's id keeps the refusal for its life.
func TestAMissingWriteThatIsGrantedLaterLetsTheCopiesGo(t *testing.T) {
	t.Parallel()
	describe := allow(kmsg.ACLResourceTypeTopic, "g-dlq", kmsg.ACLOperationDescribe)
	secured(t, []kfake.ACL{least()[0], least()[2], describe}, func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(2)
		w.fill("orders", 0, 3, 3)
		w.fill("orders", 1, 3, 3)
		m := w.start(func(context.Context, kstage.Message) error { return kstage.Permanent(errors.New("never")) }, append(opts, over(n), svc("secret"))...)
		after(2 * time.Minute)
		require.EqualValues(t, -1, w.committed("orders", 0))
		w.grant(topicACL("g-dlq", kadm.OpWrite))
		after(time.Minute)
		require.EqualValues(t, 3, w.committed("orders", 0))
		require.EqualValues(t, 3, w.committed("orders", 1))
		require.Len(t, w.deadLetters(), 6)
		require.Empty(t, m.Health().Reasons)
		require.NoError(t, m.stop())
	})
}

func TestALostWriteOnTheDeadLetterTopicIsTriedUntilItIsGranted(t *testing.T) {
	t.Parallel()
	secured(t, least(), func(w *world, n *wires) {
		t := w.t
		_, opts := w.ladder(1)
		w.fill("orders", 0, 3, 3)
		m := w.start(func(context.Context, kstage.Message) error { return kstage.Permanent(errors.New("never")) }, append(opts, over(n), svc("secret"))...)
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
