package kstage

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// security is TLS and SASL.
func (e *environment) security() (opts []Option) {
	if config := e.tls(); config != nil {
		opts = append(opts, WithTLS(config))
	}
	if mechanism := e.sasl(); mechanism != nil {
		opts = append(opts, WithSASL(mechanism))
	}
	return opts
}

// tls is nil where nothing asks for it.
func (e *environment) tls() *tls.Config {
	enabled := variable{name: "KAFKA_TLS_ENABLED", unset: "false", told: "false; true where another KAFKA_TLS_ variable is set", takes: "true or false"}
	ca := variable{name: "KAFKA_TLS_CA_FILE", told: "the system's", takes: "a file of PEM certificates: the authorities to trust"}
	cert := variable{name: "KAFKA_TLS_CERT_FILE", told: "none", takes: "a file: the client's PEM certificate, with KAFKA_TLS_KEY_FILE"}
	key := variable{name: "KAFKA_TLS_KEY_FILE", told: "none", takes: "a file: the PEM key of KAFKA_TLS_CERT_FILE"}
	server := variable{name: "KAFKA_TLS_SERVER_NAME", told: "the broker's host", takes: "the name that the brokers' certificates are checked for"}

	on := value(e, enabled, trueOrFalse)
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		RootCAs:    value(e, ca, certPool),
		ServerName: value(e, server, textWithin(maxTopicName)),
	}
	files := keyFiles{value(e, cert, fileName), value(e, key, fileName)}
	e.clientCertificate(config, files, cert, key)
	for _, v := range []variable{ca, cert, key, server} {
		if e.isSet(v) && e.isSet(enabled) && !on && e.isRight(enabled) {
			e.wrong.add("%s and %s: without TLS it means nothing; unset one of the two", e.shown(enabled), e.shown(v))
		}
		on = on || e.isSet(v) && !e.isSet(enabled)
	}
	if !on {
		return nil
	}
	return config
}

// clientCertificate makes the files' key pair the client's.
func (e *environment) clientCertificate(config *tls.Config, files keyFiles, cert, key variable) {
	switch {
	case e.isSet(cert) != e.isSet(key):
		e.wrong.add("%s and %s: both or none", e.shown(cert), e.shown(key))
	case files.cert != "" && files.key != "":
		if _, err := files.load(nil); err != nil {
			e.wrong.add("%s and %s: they take a PEM certificate and its key: %w", e.shown(cert), e.shown(key), err)
		}
		config.GetClientCertificate = files.load
	}
}

// keyFiles are a client's certificate and key.
type keyFiles struct{ cert, key string }

// load reads them: once for each connection, since they may be replaced.
func (f keyFiles) load(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	return &pair, err
}

func certPool(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("there is no PEM certificate in it")
	}
	return pool, nil
}

// fileName is that of a file that can be read.
func fileName(file string) (string, error) {
	_, err := os.ReadFile(file)
	return file, err
}

// credentials are the variables of SASL.
type credentials struct {
	mechanism, user, password, passwordFile, token, tokenFile variable
}

func newCredentials() credentials {
	return credentials{
		mechanism:    variable{name: "KAFKA_SASL_MECHANISM", told: "none", takes: "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"},
		user:         variable{name: "KAFKA_SASL_USERNAME", told: "none", takes: "the user of PLAIN and SCRAM"},
		password:     variable{name: "KAFKA_SASL_PASSWORD", told: "none", takes: "the user's password", secret: true},
		passwordFile: variable{name: "KAFKA_SASL_PASSWORD_FILE", told: "none", takes: "a file with the user's password"},
		token:        variable{name: "KAFKA_SASL_TOKEN", told: "none", takes: "the token of OAUTHBEARER", secret: true},
		tokenFile:    variable{name: "KAFKA_SASL_TOKEN_FILE", told: "none", takes: "a file with the token of OAUTHBEARER"},
	}
}

// sasl is nil where no mechanism is set.
func (e *environment) sasl() sasl.Mechanism {
	c := newCredentials()
	name := value(e, c.mechanism, oneOf(map[string]string{
		"plain": "PLAIN", "scram-sha-256": "SCRAM-SHA-256", "scram-sha-512": "SCRAM-SHA-512", "oauthbearer": "OAUTHBEARER",
	}))
	user := value(e, c.user, textWithin(maxSecret))
	password := e.secret(c.password, c.passwordFile)
	token := e.secret(c.token, c.tokenFile)
	if !e.fits(c, name) {
		return nil
	}
	switch name {
	case "PLAIN":
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			pass, err := password()
			return plain.Auth{User: user, Pass: pass}, err
		})
	case "SCRAM-SHA-256":
		return scram.Sha256(scramAuth(user, password))
	case "SCRAM-SHA-512":
		return scram.Sha512(scramAuth(user, password))
	case "OAUTHBEARER":
		return oauth.Oauth(func(context.Context) (oauth.Auth, error) {
			t, err := token()
			return oauth.Auth{Token: t}, err
		})
	}
	return nil
}

func scramAuth(user string, password func() (string, error)) func(context.Context) (scram.Auth, error) {
	return func(context.Context) (scram.Auth, error) {
		pass, err := password()
		return scram.Auth{User: user, Pass: pass}, err
	}
}

// fits says whether what is set makes sense together.
func (e *environment) fits(c credentials, mechanism string) bool {
	if !e.isRight(c.mechanism) {
		return false // what belongs to it is not known
	}
	before := len(e.wrong)
	needs, other := []variable{c.user, c.password, c.passwordFile}, []variable{c.token, c.tokenFile}
	if mechanism == "OAUTHBEARER" {
		needs, other = other, needs
	}
	if e.lookup(c.mechanism.name+"S") != "" {
		e.wrong.add("%sS is not read: set %s to the one mechanism", c.mechanism.name, c.mechanism.name)
	}
	if mechanism == "" {
		e.pointless(append(needs, other...), "without "+c.mechanism.name+" it means nothing: "+c.mechanism.name+" takes "+c.mechanism.takes)
		return false
	}
	e.pointless(other, c.mechanism.name+"="+mechanism+" does not use it")
	if needs[0] == c.user && !e.isSet(c.user) {
		e.wrong.add("%s: %s=%s needs it", c.user.name, c.mechanism.name, mechanism)
	}
	if set, file := needs[len(needs)-2], needs[len(needs)-1]; e.isSet(set) == e.isSet(file) {
		e.wrong.add("%s or %s: %s=%s needs one of the two", set.name, file.name, c.mechanism.name, mechanism)
	}
	return len(e.wrong) == before
}

// pointless refuses variables that are set to no effect.
func (e *environment) pointless(vs []variable, why string) {
	for _, v := range vs {
		if e.isSet(v) {
			e.wrong.add("%s is set: %s", v.name, why)
		}
	}
}

const maxSecret = 64 << 10

// secret is a variable's value, or a file's, which is read anew each time.
func (e *environment) secret(v, file variable) func() (string, error) {
	set := value(e, v, textWithin(maxSecret))
	name := value(e, file, func(s string) (string, error) { _, err := readSecret(s); return s, err })
	if name == "" {
		return func() (string, error) { return set, nil }
	}
	return func() (string, error) { return readSecret(name) }
}

// readSecret is a file's text without the end of its line.
func readSecret(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	s := strings.TrimRight(string(text), "\r\n")
	if s == "" {
		return "", fmt.Errorf("file %q is empty", file)
	}
	return s, nil
}
