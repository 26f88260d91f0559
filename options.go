package kstage

import (
	"context"
	"crypto/tls"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"go.uber.org/zap"
)

type (
	// Option is an option of every kstage constructor.
	Option interface {
		ConsumerOption
		ProducerOption
		applyCommon(*commonConfig)
	}
	// ConsumerOption is an option of NewConsumer. A later option replaces an
	// earlier one of the same name; WithMiddleware appends.
	ConsumerOption interface {
		applyConsumer(*consumerConfig)
	}
)

type commonOption func(*commonConfig)

func (f commonOption) applyCommon(c *commonConfig)     { f(c) }
func (f commonOption) applyConsumer(c *consumerConfig) { f(&c.commonConfig) }
func (f commonOption) applyProducer(c *producerConfig) { f(&c.commonConfig) }

type consumerOption func(*consumerConfig)

func (f consumerOption) applyConsumer(c *consumerConfig) { f(c) }

// commonConfig is what every kind of client needs.
type commonConfig struct {
	brokers      []string
	tls          *tls.Config
	sasl         sasl.Mechanism
	clientID     string
	logger       *zap.Logger
	logFields    func(context.Context) []zap.Field
	keyRedactor  func([]byte) string
	metrics      MetricsCollector
	extraOptions func(ClientRole) []kgo.Opt
	misspelt     []string // what the environment may have meant: logged once
}

func defaultCommonConfig() commonConfig {
	return commonConfig{
		clientID: "kstage",
		logger:   zap.NewNop(),
		metrics:  NopMetrics{},
	}
}

// warn logs what is no mistake, yet may not be meant.
func (c *commonConfig) warn() {
	for _, text := range c.misspelt {
		c.logger.Warn("environment: " + text)
	}
	if c.sasl == nil || c.tls != nil || c.extraOptions != nil { // whose dialer may encrypt
		return
	}
	if name := c.sasl.Name(); name == "PLAIN" || name == "OAUTHBEARER" {
		c.logger.Warn("the credentials of WithSASL are sent unencrypted: there is no WithTLS", zap.String("mechanism", name))
	}
}

// WithBrokers names the brokers to connect to first, as host:port. Required.
func WithBrokers(addrs ...string) Option {
	addrs = slices.Clone(addrs)
	return commonOption(func(c *commonConfig) { c.brokers = addrs })
}

// WithTLS encrypts every connection. The config is cloned for each; its
// ServerName, where empty, becomes the broker's host. Nil, the default: no TLS.
func WithTLS(config *tls.Config) Option {
	return commonOption(func(c *commonConfig) { c.tls = config })
}

// WithSASL authenticates every connection. There is one mechanism and no
// fall-back, since brokers close a connection at the first refused one.
// A mechanism that sends secrets (PLAIN, OAUTHBEARER) should come with WithTLS;
// without, a warning is logged.
func WithSASL(m sasl.Mechanism) Option {
	return commonOption(func(c *commonConfig) { c.sasl = m })
}

// WithClientID sets the name brokers log and set quotas by, of 1 to 256 bytes.
// Default: "kstage".
func WithClientID(id string) Option {
	return commonOption(func(c *commonConfig) { c.clientID = id })
}

// WithLogger sets where kstage and its clients log (by the name "kgo": warnings and
// errors, and everything where debug is enabled). Values of records are never
// logged; keys are, see WithKeyRedactor. What concerns a single record is logged
// at debug, but for a dead one (error); such lines have the keys topic, key and
// message_id, and request_id where the record has a header request-id. Nil and the
// default: nothing is logged.
func WithLogger(l *zap.Logger) Option {
	return commonOption(func(c *commonConfig) {
		if c.logger = l; l == nil {
			c.logger = zap.NewNop()
		}
	})
}

// WithLogFields adds fields to the log lines about a record, taken from the
// context that handlers are given (Run's values are in it, a middleware's are not)
// and, by a Producer, from the one that Publish was called with.
// It is called only for lines that are written, by many goroutines at once; where
// it panics, the line is written without. Nil and the default: none.
func WithLogFields(f func(context.Context) []zap.Field) Option {
	return commonOption(func(c *commonConfig) { c.logFields = f })
}

// WithKeyRedactor sets how a record's key appears in logs; dead letters keep it as
// it is. It is called by many goroutines at once, also with a nil key; where it
// panics, the key is left out. Nil and the default: as it is.
func WithKeyRedactor(f func(key []byte) string) Option {
	return commonOption(func(c *commonConfig) { c.keyRedactor = f })
}

// WithMetrics sets who is told of every event. Nil and the default: nobody. A nil
// pointer in the interface is a mistake.
func WithMetrics(m MetricsCollector) Option {
	return commonOption(func(c *commonConfig) {
		if c.metrics = m; m == nil {
			c.metrics = NopMetrics{}
		}
	})
}

// ClientRole tells WithClientOptions which client is being made.
type ClientRole int

const (
	// RoleMain consumes the main topics.
	RoleMain ClientRole = iota
	// RoleRetry consumes the retry topics.
	RoleRetry
	// RoleHandOff produces the copies of failed records.
	RoleHandOff
	// RoleProducer is a Producer's.
	RoleProducer
)

// WithClientOptions is the way to what kstage has no option for: hooks, dialers,
// rack, metadata age. It is called once for each client; a hook that must not be
// on two clients (kprom's) has to be made anew for each. kstage's own options
// are applied after and win: brokers, group, topics, balancing callbacks,
// commits, offsets, isolation, acks, partitioner, buffers, timeouts. Some cannot be
// taken back: give options of consumers to RoleMain and RoleRetry alone, no mechanism
// by kgo.SASL (see WithSASL), and no transactional id; to RoleProducer neither
// kgo.ManualFlushing nor kgo.DisableIdempotentWrite (NewProducer refuses these).
// A hook that panics while a Producer takes a record makes that record fail.
func WithClientOptions(f func(role ClientRole) []kgo.Opt) Option {
	return commonOption(func(c *commonConfig) { c.extraOptions = f })
}
