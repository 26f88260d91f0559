package kstage

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/sasl"
)

const (
	mechanismOAuth = "OAUTHBEARER"
	mostRefusal    = 256 // bytes of a broker's answer that are shown
)

// oauthMechanism makes a refused token an authentication error: brokers refuse one by an
// answer and not by an error's code, as they do with passwords, and the client takes the
// answer for a broken one.
type oauthMechanism struct{ sasl.Mechanism }

// refusing is m, such that what brokers refuse is known as that.
func refusing(m sasl.Mechanism) sasl.Mechanism {
	if m.Name() != mechanismOAuth {
		return m
	}
	return oauthMechanism{m}
}

// Authenticate implements sasl.Mechanism.
func (m oauthMechanism) Authenticate(ctx context.Context, host string) (sasl.Session, []byte, error) {
	s, first, err := m.Mechanism.Authenticate(ctx, host)
	if err != nil {
		return nil, nil, err
	}
	return oauthSession{s}, first, nil
}

// Close implements sasl.ClosingMechanism.
func (m oauthMechanism) Close() {
	if c, ok := m.Mechanism.(sasl.ClosingMechanism); ok {
		c.Close()
	}
}

type oauthSession struct{ sasl.Session }

// Challenge implements sasl.Session. A broker that takes the token says nothing.
func (s oauthSession) Challenge(answer []byte) (bool, []byte, error) {
	done, next, err := s.Session.Challenge(answer)
	if err != nil && len(answer) > 0 {
		err = fmt.Errorf("%w: %q", kerr.SaslAuthenticationFailed, answer[:min(len(answer), mostRefusal)])
	}
	return done, next, err
}
