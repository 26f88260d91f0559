//go:build cluster

package cluster_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/kstage/kstage"
)

// right is one permission.
type right struct {
	kind string // "topic" or "group"
	name string // without the test's prefix
	op   kadm.ACLOperation
}

func onTopic(name string, op kadm.ACLOperation) right { return right{"topic", name, op} }
func onGroup(name string) right                       { return right{"group", name, kadm.OpRead} }

func (r right) String() string { return fmt.Sprintf("%s on %s %s", r.op, r.kind, r.name) }

// said is the right as kstage's messages name it.
func (w *world) said(r right) string {
	return strings.TrimSuffix(r.String(), r.name) + fmt.Sprintf("%q", w.name(r.name))
}

// consumerRights is all that a consumer with one stage and a dead-letter topic needs.
// SECURITY.md has the list.
func consumerRights() []right {
	return []right{
		onTopic("orders", kadm.OpRead),
		onGroup("g"),
		onTopic("g-retry-1", kadm.OpRead),
		onTopic("g-retry-1", kadm.OpWrite),
		onGroup("g-retry"),
		onTopic("g-dlq", kadm.OpWrite),
	}
}

// user makes one with rights and returns its name; the password is "secret".
func (w *world) user(rights ...right) string {
	w.t.Helper()
	name := w.name("svc")
	w.password(name, "secret")
	for _, r := range rights {
		w.grant(name, r)
	}
	return name
}

func (w *world) password(user, password string) {
	w.t.Helper()
	_, err := w.adm.AlterUserSCRAMs(w.t.Context(), nil, []kadm.UpsertSCRAM{
		{User: user, Mechanism: kadm.ScramSha512, Iterations: 4096, Password: password},
	})
	require.NoError(w.t, err)
	w.within(30*time.Second, func() bool { // each broker learns of it by itself
		for _, addr := range brokers.Secure {
			cl := w.client(append(w.login(user, func() string { return password }), kgo.SeedBrokers(addr))...)
			err := cl.Ping(w.t.Context())
			cl.Close()
			if err != nil {
				return false
			}
		}
		return true
	})
}

func (w *world) acl(user string, r right) *kadm.ACLBuilder {
	b := kadm.NewACLs().Operations(r.op).Allow("User:" + user).AllowHosts("*").ResourcePatternType(kadm.ACLPatternLiteral)
	if r.kind == "group" {
		return b.Groups(w.name(r.name))
	}
	return b.Topics(w.name(r.name))
}

func (w *world) grant(user string, r right) {
	w.t.Helper()
	rs, err := w.adm.CreateACLs(w.t.Context(), w.acl(user, r))
	require.NoError(w.t, err)
	for _, r := range rs {
		require.NoError(w.t, r.Err)
	}
}

// login is how a plain client logs in.
func (w *world) login(user string, password func() string) []kgo.Opt {
	return []kgo.Opt{kgo.SeedBrokers(brokers.Secure...), kgo.DialTLSConfig(w.authority()), kgo.SASL(mechanism(user, password))}
}

func mechanism(user string, password func() string) sasl.Mechanism {
	return scram.Sha512(func(context.Context) (scram.Auth, error) { return scram.Auth{User: user, Pass: password()}, nil })
}

func (w *world) authority() *tls.Config {
	pem, err := os.ReadFile(brokers.CA)
	require.NoError(w.t, err)
	pool := x509.NewCertPool()
	require.True(w.t, pool.AppendCertsFromPEM(pem))
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// as are a consumer's options to log in.
func (w *world) as(user string, password func() string) []kstage.ConsumerOption {
	return []kstage.ConsumerOption{
		kstage.WithBrokers(brokers.Secure...), kstage.WithTLS(w.authority()), kstage.WithSASL(mechanism(user, password)),
	}
}

func secret() string { return "secret" }

// onLadder are the options of a consumer of orders with one stage.
func (w *world) onLadder() []kstage.ConsumerOption {
	return []kstage.ConsumerOption{
		kstage.WithTopics(w.name("orders")), kstage.WithRetryStages(time.Second),
		kstage.WithImmediateRetries(0, kstage.Backoff{}),
	}
}

// ladderHandler sends key k1 through the stage, k2 to the dead-letter topic.
func ladderHandler(_ context.Context, msg kstage.Message) error {
	switch {
	case string(msg.Key()) == "k1" && msg.Stage() == 0:
		return errors.New("not yet")
	case string(msg.Key()) == "k2":
		return kstage.Permanent(errors.New("never"))
	}
	return nil
}

func TestLeastPrivilege(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("orders", 3)
	w.ladder(3, 1)
	m := w.start(ladderHandler, slices.Concat(w.as(w.user(consumerRights()...), secret), w.onLadder())...)
	w.fill(topic, 0, 100)
	w.within(time.Minute, func() bool {
		s := m.counts.Snapshot()
		return s.Processed == 90 && s.Retried == 10 && s.SentToDLQ == 10
	})
	w.within(30*time.Second, func() bool { return w.committed(topic, 0) == 100 })
	require.Empty(t, m.Health().Reasons)
	require.True(t, m.Health().Ready)
	require.Len(t, w.logs.FilterMessageSnippet("settings may not be seen").All(), 1)
	require.NoError(t, m.stop())
	m.assertIdentity()
}

func TestLeastPrivilegeOfAProducer(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("orders", 3)
	user := w.user()
	p, err := kstage.NewProducer(kstage.WithBrokers(brokers.Secure...), kstage.WithTLS(w.authority()),
		kstage.WithSASL(mechanism(user, secret)), kstage.WithTopic(topic), kstage.WithLogger(w.log))
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close(context.WithoutCancel(t.Context()))) }()
	publish := func() error { return p.Publish(t.Context(), &kgo.Record{Value: []byte("v")}) }
	err = publish()
	t.Log(err)
	require.ErrorIs(t, err, kerr.TopicAuthorizationFailed)
	require.ErrorContains(t, err, w.said(onTopic("orders", kadm.OpWrite)))
	w.grant(user, onTopic("orders", kadm.OpWrite))
	w.within(time.Minute, func() bool { return publish() == nil })
}

func TestProvisioningNeedsCreate(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 3)
	user := w.user(consumerRights()...)
	topology := kstage.Topology{
		Group: w.name("g"), RetryGroup: w.name("g-retry"), Topics: []string{w.name("orders")}, DLQ: w.name("g-dlq"),
		Stages: []kstage.StageTopic{{Topic: w.name("g-retry-1"), Delay: time.Second}},
	}
	ensure := func() error {
		return kstage.EnsureTopics(t.Context(), topology, kstage.WithBrokers(brokers.Secure...), kstage.WithTLS(w.authority()),
			kstage.WithSASL(mechanism(user, secret)), kstage.WithLogger(w.log))
	}
	for _, name := range []string{"g-retry-1", "g-dlq"} {
		err := ensure()
		t.Log(err)
		require.ErrorContains(t, err, w.said(onTopic(name, kadm.OpCreate)))
		w.grant(user, onTopic(name, kadm.OpCreate))
	}
	w.within(30*time.Second, func() bool { return ensure() == nil })
}

func TestWrongPassword(t *testing.T) {
	w := newWorld(t)
	w.topic("orders", 1)
	w.ladder(1, 1)
	user := w.user(consumerRights()...)
	wrong := func() string { return "wrong" }
	m := w.start(ladderHandler, slices.Concat(w.as(user, wrong), w.onLadder())...)
	select {
	case <-m.done:
	case <-time.After(30 * time.Second):
		t.Fatal("Run goes on with a wrong password")
	}
	t.Log(m.err)
	require.ErrorIs(t, m.err, kerr.SaslAuthenticationFailed)
	require.ErrorContains(t, m.err, "WithSASL")

	p, err := kstage.NewProducer(kstage.WithBrokers(brokers.Secure...), kstage.WithTLS(w.authority()),
		kstage.WithSASL(mechanism(user, wrong)), kstage.WithTopic(w.name("orders")))
	require.NoError(t, err)
	defer func() { _ = p.Close(context.WithoutCancel(t.Context())) }()
	began := time.Now()
	err = p.Publish(t.Context(), &kgo.Record{Value: []byte("v")})
	t.Log(err)
	require.ErrorIs(t, err, kerr.SaslAuthenticationFailed)
	require.Less(t, time.Since(began), 10*time.Second)
}

// Each right is left out in turn: Health names just it, and granting it cures the
// consumer that runs.
func TestMissingRight(t *testing.T) {
	for _, lacking := range consumerRights() {
		t.Run(lacking.String(), func(t *testing.T) {
			w := newWorld(t)
			topic := w.topic("orders", 1)
			w.ladder(1, 1)
			granted := slices.DeleteFunc(consumerRights(), func(r right) bool { return r == lacking })
			user := w.user(granted...)
			m := w.start(ladderHandler, slices.Concat(w.as(user, secret), w.onLadder())...)
			w.fill(topic, 0, 100)
			var told string
			w.within(45*time.Second, func() bool {
				select {
				case <-m.done:
					t.Fatalf("Run has ended: %v", m.err)
				default:
				}
				told = m.refusal()
				return told != ""
			})
			t.Log(told)
			require.Contains(t, told, w.said(lacking))
			require.False(t, m.Health().Ready)
			w.grant(user, lacking)
			w.within(time.Minute, func() bool {
				s := m.counts.Snapshot()
				return s.Processed == 90 && s.SentToDLQ == 10
			})
			w.within(30*time.Second, func() bool { return len(m.Health().Reasons) == 0 })
			require.NoError(t, m.stop())
			m.assertIdentity()
		})
	}
}

// refusal is the first reason in Health that says what to grant.
func (m *member) refusal() string {
	for _, r := range m.Health().Reasons {
		if r.Err != nil && strings.Contains(r.Err.Error(), "grant") {
			return r.String()
		}
	}
	return ""
}

// The password is changed at the brokers and in the process, which is asked for it at
// each login; sessions end after 3 s.
func TestCredentialsRotated(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("orders", 3)
	w.ladder(3, 1)
	user := w.user(consumerRights()...)
	var password atomic.Value
	password.Store("secret")
	m := w.start(ladderHandler, slices.Concat(w.as(user, func() string { return password.Load().(string) }), w.onLadder())...)
	for i := range 20 {
		if i == 8 {
			w.password(user, "secret-2")
			password.Store("secret-2")
		}
		w.fill(topic, int32(i%3), 10)
		after(time.Second)
	}
	w.within(time.Minute, func() bool {
		s := m.counts.Snapshot()
		return s.Processed == 180 && s.SentToDLQ == 20
	})
	w.within(30*time.Second, func() bool { return len(m.Health().Reasons) == 0 })
	require.NoError(t, m.stop())
	m.assertIdentity()
}
