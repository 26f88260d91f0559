package kstage_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kstage/kstage"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.cert, a.key = a.sign("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return a
}

// sign makes a certificate and writes it and its key to files of that name.
func (a *authority) sign(name string, c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	c.SerialNumber, c.Subject = big.NewInt(time.Now().UnixNano()), pkix.Name{CommonName: name}
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	require.NoError(a.t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(a.t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(a.t, err)
	a.write(name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	a.write(name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
	return cert, key
}

func (a *authority) write(name string, text []byte) string {
	a.t.Helper()
	require.NoError(a.t, os.WriteFile(a.file(name), text, 0o600))
	return a.file(name)
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// broker is the TLS of one on loopback, called kafka.internal.
func (a *authority) broker(clients tls.ClientAuthType) *tls.Config {
	a.t.Helper()
	a.sign("broker", &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"kafka.internal"}})
	pair, err := tls.LoadX509KeyPair(a.file("broker.pem"), a.file("broker.key"))
	require.NoError(a.t, err)
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientCAs: a.pool(), ClientAuth: clients}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

const secretWord = "correct-horse-battery"

// secureWorld is a broker that speaks TLS alone and asks for a login, with the topics of
// the environment's defaults, and the environment that it is reached by.
func secureWorld(t *testing.T, clients tls.ClientAuthType, mechanism string) (*world, *authority, kstage.Env) {
	t.Helper()
	a := newAuthority(t)
	a.sign("client", &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	admin, err := tls.LoadX509KeyPair(a.file("client.pem"), a.file("client.key"))
	require.NoError(t, err)
	reach := []kgo.Opt{
		kgo.DialTLSConfig(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: a.pool(), Certificates: []tls.Certificate{admin}}),
		kgo.SASL(scram.Auth{User: "admin", Pass: "admin"}.AsSha512Mechanism()),
	}
	w := newFakeWorld(t, reach, kfake.TLS(a.broker(clients)), kfake.EnableSASL(),
		kfake.Superuser("SCRAM-SHA-512", "admin", "admin"), kfake.Superuser(mechanism, "svc", secretWord))
	w.topic("events", 1)
	w.topic("events-retry-1", 1)
	w.topic("events-dlq", 1)
	return w, a, kstage.Env{
		"KAFKA_BROKERS": w.brokers[0], "KAFKA_TLS_CA_FILE": a.file("ca.pem"), "KAFKA_CONSUMER_RETRY_DELAYS": "10ms",
		"KAFKA_SASL_MECHANISM": mechanism, "KAFKA_SASL_USERNAME": "svc", "KAFKA_SASL_PASSWORD": secretWord,
	}
}

// service publishes one record and handles it through retry topic and dead-letter topic:
// by every client there is. It returns all that was logged.
func (w *world) service(env kstage.Env) *observer.ObservedLogs {
	t := w.t
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	opts, err := env.Producer()
	require.NoError(t, err)
	p, err := kstage.NewProducer(append(opts, kstage.WithLogger(zap.New(core)))...)
	require.NoError(t, err)
	require.NoError(t, p.Publish(t.Context(), &kgo.Record{Key: []byte("k"), Value: []byte("v")}))
	require.NoError(t, p.HealthCheck(t.Context()))
	require.NoError(t, p.Close(t.Context()))

	m := w.secureMember(env, kstage.WithLogger(zap.New(core)))
	w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 1 })
	require.EqualValues(t, 1, m.counts.Snapshot().Retried)
	require.NoError(t, m.stop())
	return logs
}

// secureMember is reached as the environment says, and no other way.
func (w *world) secureMember(env kstage.Env, more ...kstage.ConsumerOption) *member {
	w.t.Helper()
	opts, err := env.Consumer()
	require.NoError(w.t, err)
	opts = append(opts, once(), kstage.WithClientOptions(nil))
	return w.start(func(context.Context, kstage.Message) error { return errors.New("never") }, append(opts, more...)...)
}

func TestTLSAndSASLReachEveryClient(t *testing.T) {
	t.Parallel()
	for _, mechanism := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			w, _, env := secureWorld(t, tls.NoClientCert, mechanism)
			logs := w.service(env)
			for _, e := range logs.All() {
				require.NotContains(t, fmt.Sprint(e.Message, e.ContextMap()), secretWord)
			}
			require.Zero(t, logs.FilterMessageSnippet("unencrypted").Len())
		})
	}
}

// A broker may ask for the client's certificate, too.
func TestTheClientsCertificate(t *testing.T) {
	t.Parallel()
	w, a, env := secureWorld(t, tls.RequireAndVerifyClientCert, "PLAIN")
	m := w.secureMember(env)
	w.eventually(func() bool { return m.is(kstage.HealthDisconnected) })
	r, _ := m.reason(kstage.HealthDisconnected)
	require.ErrorContains(t, r.Err, "tls: certificate required")
	require.NoError(t, m.stop())

	env["KAFKA_TLS_CERT_FILE"], env["KAFKA_TLS_KEY_FILE"] = a.file("client.pem"), a.file("client.key")
	w.service(env)
}

// Certificates are checked: the authority, and the name.
func TestTheBrokersCertificate(t *testing.T) {
	t.Parallel()
	w, a, env := secureWorld(t, tls.NoClientCert, "PLAIN")
	other := newAuthority(t)
	for want, change := range map[string]map[string]string{
		"certificate signed by unknown authority": {"KAFKA_TLS_CA_FILE": other.file("ca.pem")},
		"not elsewhere.internal":                  {"KAFKA_TLS_SERVER_NAME": "elsewhere.internal"},
	} {
		changed := maps.Clone(env)
		maps.Copy(changed, change)
		m := w.secureMember(changed)
		w.eventually(func() bool { return m.is(kstage.HealthDisconnected) })
		r, _ := m.reason(kstage.HealthDisconnected)
		require.ErrorContains(t, r.Err, want)
		require.NoError(t, m.stop())
	}
	env["KAFKA_TLS_SERVER_NAME"] = "kafka.internal"
	w.service(env)
	_ = a
}

// Who looks at options, consumers, producers and errors sees no secret.
func TestSecretsAreNeverShown(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte(secretWord+"\n"), 0o600))
	for _, env := range []kstage.Env{
		{"KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "svc", "KAFKA_SASL_PASSWORD": secretWord},
		{"KAFKA_SASL_MECHANISM": "SCRAM-SHA-256", "KAFKA_SASL_USERNAME": "svc", "KAFKA_SASL_PASSWORD": secretWord},
		{"KAFKA_SASL_MECHANISM": "SCRAM-SHA-512", "KAFKA_SASL_USERNAME": "svc", "KAFKA_SASL_PASSWORD_FILE": file},
		{"KAFKA_SASL_MECHANISM": "OAUTHBEARER", "KAFKA_SASL_TOKEN": secretWord},
	} {
		core, logs := observer.New(zap.DebugLevel)
		consumer, err := env.Consumer()
		require.NoError(t, err)
		producer, err := env.Producer()
		require.NoError(t, err)
		c, err := kstage.NewConsumer(kstage.HandlerFunc(handleNothing), append(consumer, kstage.WithLogger(zap.New(core)))...)
		require.NoError(t, err)
		p, err := kstage.NewProducer(append(producer, kstage.WithLogger(zap.New(core)))...)
		require.NoError(t, err)
		closed, cancel := context.WithCancel(t.Context())
		cancel()
		_ = p.Close(closed)
		for _, shown := range []any{consumer, producer, c, p} {
			for _, verb := range []string{"%v", "%+v", "%#v"} {
				require.NotContains(t, fmt.Sprintf(verb, shown), secretWord)
			}
		}
		for _, o := range consumer {
			require.NotContains(t, fmt.Sprintf("%+v %#v", o, o), secretWord)
		}
		for _, e := range logs.All() {
			require.NotContains(t, fmt.Sprint(e.Message, e.ContextMap()), secretWord)
		}
		// Both of what is wrong: neither shows it.
		env["KAFKA_SASL_PASSWORD"], env["KAFKA_SASL_TOKEN"] = secretWord, secretWord
		env["KAFKA_SASL_USERNAME"] = "svc"
		require.NotContains(t, errorsOf(env), secretWord)
		require.Contains(t, errorsOf(env), "KAFKA_SASL_")
	}
	// A value that is refused is not shown either.
	for _, name := range []string{"KAFKA_SASL_PASSWORD", "KAFKA_SASL_TOKEN"} {
		text := errorsOf(kstage.Env{name: secretWord + "\xff"})
		require.Contains(t, text, "kstage: "+name+": it takes the ")
		require.NotContains(t, text, secretWord)
	}
}

// A wrong password is one clear error, which does not show it.
func TestAWrongPasswordIsNotShown(t *testing.T) {
	t.Parallel()
	w, _, env := secureWorld(t, tls.NoClientCert, "SCRAM-SHA-256")
	env["KAFKA_SASL_PASSWORD"] = "wrong-" + secretWord
	w.refuseScram()
	m := w.secureMember(env)
	err := m.wait()
	require.ErrorIs(t, err, kerr.SaslAuthenticationFailed)
	require.ErrorContains(t, err, "the brokers refuse the credentials of WithSASL")
	require.NotContains(t, err.Error(), secretWord)
	require.NotContains(t, fmt.Sprintf("%+v", m.Health()), secretWord)
}

// refuseScram makes the broker answer the second step of SCRAM as a real one does when
// the password is wrong.
func (w *world) refuseScram() {
	w.fake.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		resp := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		resp.ErrorCode = kerr.SaslAuthenticationFailed.Code
		return resp, nil, true
	})
}

// The embedded broker does not know OAUTHBEARER: this one takes a single token.
func TestOAuthBearer(t *testing.T) {
	t.Parallel()
	w := newFakeWorld(t, nil)
	w.topic("events", 1)
	w.fake.ControlKey(int16(kmsg.SASLHandshake), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		resp := req.ResponseKind().(*kmsg.SASLHandshakeResponse)
		resp.SupportedMechanisms = []string{"OAUTHBEARER"}
		return resp, nil, true
	})
	var mu sync.Mutex
	var sent []string
	w.fake.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		mu.Lock()
		defer mu.Unlock()
		sent = append(sent, string(req.(*kmsg.SASLAuthenticateRequest).SASLAuthBytes))
		return req.ResponseKind(), nil, true
	})
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(secretWord+"\n"), 0o600))
	opts, err := kstage.Env{"KAFKA_BROKERS": w.brokers[0], "KAFKA_SASL_MECHANISM": "oauthbearer", "KAFKA_SASL_TOKEN_FILE": file}.Producer()
	require.NoError(t, err)
	p, err := kstage.NewProducer(append(opts, kstage.WithLogger(w.log))...)
	require.NoError(t, err)
	require.NoError(t, p.Publish(t.Context(), &kgo.Record{Value: []byte("v")}))
	require.NoError(t, p.Close(t.Context()))
	mu.Lock()
	defer mu.Unlock()
	require.NotEmpty(t, sent)
	require.Equal(t, "n,,\x01auth=Bearer "+secretWord+"\x01\x01", sent[0])
	require.Equal(t, 1, w.logs.FilterMessageSnippet("sent unencrypted").Len(), "once for each producer")
}

// Secrets and certificates in files may be replaced while a program runs.
func TestFilesAreReadForEachConnection(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	a.sign("client", &x509.Certificate{})
	password := a.write("password", []byte("first\r\n"))
	opts, err := kstage.Env{
		"KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "svc", "KAFKA_SASL_PASSWORD_FILE": password,
		"KAFKA_TLS_CERT_FILE": a.file("client.pem"), "KAFKA_TLS_KEY_FILE": a.file("client.key"),
	}.Consumer()
	require.NoError(t, err)
	config, mechanism := kstage.Security(opts)
	_, hello, err := mechanism.Authenticate(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, "\x00svc\x00first", string(hello))
	before, err := config.GetClientCertificate(nil)
	require.NoError(t, err)

	a.write("password", []byte("second"))
	a.sign("client", &x509.Certificate{})
	_, hello, err = mechanism.Authenticate(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, "\x00svc\x00second", string(hello))
	after, err := config.GetClientCertificate(nil)
	require.NoError(t, err)
	require.False(t, slices.Equal(before.Certificate[0], after.Certificate[0]))

	require.NoError(t, os.Remove(password))
	_, _, err = mechanism.Authenticate(t.Context(), "")
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestPairsOfFilesAndOfSecrets(t *testing.T) {
	t.Parallel()
	a, b := newAuthority(t), newAuthority(t)
	for want, env := range map[string]kstage.Env{
		"they take a PEM certificate and its key":      {"KAFKA_TLS_CERT_FILE": a.file("ca.pem"), "KAFKA_TLS_KEY_FILE": b.file("ca.key")},
		"without TLS it means nothing":                 {"KAFKA_TLS_ENABLED": "false", "KAFKA_TLS_CA_FILE": a.file("ca.pem")},
		"PLAIN does not use it":                        {"KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD": "p", "KAFKA_SASL_TOKEN": "t"},
		"KAFKA_SASL_PASSWORD or KAFKA_SASL_PASSWORD_F": {"KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "u", "KAFKA_SASL_PASSWORD": "p", "KAFKA_SASL_PASSWORD_FILE": a.file("ca.pem")},
		"OAUTHBEARER does not use it":                  {"KAFKA_SASL_MECHANISM": "OAUTHBEARER", "KAFKA_SASL_TOKEN": "t", "KAFKA_SASL_USERNAME": "u"},
	} {
		_, err := env.Consumer()
		require.ErrorContains(t, err, want)
	}
}
