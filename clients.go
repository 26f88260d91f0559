package kstage

import (
	"net"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/plugin/kzap"
	"go.uber.org/zap"
)

// metadataAge bounds how long added partitions, and topics that a pattern
// matches, stay unnoticed.
const metadataAge = 30 * time.Second

// clientOptions are those of every client. The user's come after what may be
// changed; the caller puts after them what may not.
func (c *commonConfig) clientOptions(role ClientRole) []kgo.Opt {
	opts := []kgo.Opt{
		kgo.ClientID(c.clientID),
		kgo.WithLogger(kzap.New(c.logger.Named("kgo"))),
		kgo.MetadataMaxAge(metadataAge),
	}
	if c.extraOptions != nil {
		opts = append(opts, c.extraOptions(role)...)
	}
	opts = append(opts, kgo.SeedBrokers(c.brokers...))
	if c.tls != nil {
		opts = append(opts, kgo.DialTLSConfig(c.tls))
	}
	if c.sasl != nil {
		opts = append(opts, kgo.SASL(c.sasl))
	}
	return opts
}

// connections makes Health say HealthDisconnected while a client has no
// connection and cannot make one.
type connections struct {
	board *healthBoard
	log   *zap.Logger
	open  atomic.Int32
}

// OnBrokerConnect implements kgo.HookBrokerConnect. One that fails after the dial
// comes with its connection, and after its disconnect.
func (c *connections) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, conn net.Conn, err error) {
	if conn != nil {
		c.open.Add(1)
	}
	if err == nil {
		if c.board.clear(HealthDisconnected, "", -1) {
			c.log.Info("connected again")
		}
		return
	}
	if c.open.Load() == 0 && c.board.raise(HealthReason{Kind: HealthDisconnected, Partition: -1, Err: explain(err, "")}) {
		c.log.Warn("disconnected: no broker can be reached", zap.Error(err))
	}
}

// OnBrokerDisconnect implements kgo.HookBrokerDisconnect.
func (c *connections) OnBrokerDisconnect(kgo.BrokerMetadata, net.Conn) { c.open.Add(-1) }
