package kstage

import (
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	minDeliveryTimeout = time.Second
	maxLinger          = time.Minute // of the client
	unlimitedRetries   = math.MaxInt
)

// ProducerOption is an option of NewProducer. A later option replaces an earlier
// one of the same name.
type ProducerOption interface {
	applyProducer(*producerConfig)
}

type producerOption func(*producerConfig)

func (f producerOption) applyProducer(c *producerConfig) { f(c) }

// producerConfig is everything that the options of a Producer say.
// It is immutable once validate accepted it.
type producerConfig struct {
	commonConfig

	topic    string // of records that name none
	topicSet bool

	acks           Acks
	idempotent     bool
	idempotenceSet bool

	retries         int
	retryBackoff    Backoff
	deliveryTimeout time.Duration
	linger          time.Duration
	compression     []kgo.CompressionCodec
	partitioner     kgo.Partitioner // nil: the client's
	bufferRecords   int
	bufferBytes     int64
	bufferFull      BufferPolicy
	ownIDs          bool // message ids are UUIDs
	messageIDs      func() string
}

// defaultProducerConfig is the table of defaults in README.md.
func defaultProducerConfig() producerConfig {
	return producerConfig{
		commonConfig:    defaultCommonConfig(),
		idempotent:      true,
		retries:         unlimitedRetries,
		retryBackoff:    Backoff{Min: 250 * time.Millisecond, Max: 2500 * time.Millisecond},
		deliveryTimeout: 30 * time.Second,
		compression:     []kgo.CompressionCodec{kgo.SnappyCompression(), kgo.NoCompression()},
		bufferRecords:   50_000,
		bufferBytes:     64 << 20,
		ownIDs:          true,
	}
}

// newProducerConfig applies opts to the defaults and checks the result.
// The error joins every mistake.
func newProducerConfig(opts []ProducerOption) (producerConfig, error) {
	c := defaultProducerConfig()
	for _, o := range opts {
		if o != nil {
			o.applyProducer(&c)
		}
	}
	var errs mistakes
	c.commonConfig.validate(&errs)
	c.validate(&errs)
	if c.acks != AcksAll {
		c.idempotent = false
	}
	return c, errs.join()
}

// WithTopic sets the topic of records that name none. Default: none, a record
// without a topic is an error.
func WithTopic(name string) ProducerOption {
	return producerOption(func(c *producerConfig) { c.topic, c.topicSet = name, true })
}

// Topic is that of records that name none; empty: there is none.
func (p *Producer) Topic() string { return p.cfg.topic }

// Acks says which brokers must have a record before it counts as published.
type Acks int

const (
	// AcksAll waits for all replicas that are in sync: with a replication factor of 3
	// and min.insync.replicas of 2, what was acknowledged survives the loss of a broker.
	AcksAll Acks = iota
	// AcksLeader waits for the partition's leader alone: an acknowledged record is
	// lost where the leader is, before others have copied it.
	AcksLeader
	// AcksNone waits for nothing: a record counts as published when it was sent. Its
	// offset is not known, errors of the broker are not noticed: what it is not ready for, as
	// in the moment after a topic was created, is lost without a word.
	AcksNone
)

// WithAcks sets when a record counts as published. AcksLeader and AcksNone turn
// idempotence off; with WithIdempotence(true) they are a mistake. Default: AcksAll.
func WithAcks(a Acks) ProducerOption {
	return producerOption(func(c *producerConfig) { c.acks = a })
}

// WithIdempotence sets whether the broker drops what the client sends twice after a
// lost answer, and keeps the order of a partition through retries. It needs AcksAll
// and a permission to WRITE on some topic. Default: on, with AcksAll.
func WithIdempotence(on bool) ProducerOption {
	return producerOption(func(c *producerConfig) { c.idempotent, c.idempotenceSet = on, true })
}

// WithRetries bounds how often a record is sent again after a failure that may pass.
// Zero: it is sent once. Default: no limit but the delivery timeout.
func WithRetries(n int) ProducerOption {
	return producerOption(func(c *producerConfig) { c.retries = n })
}

// WithRetryBackoff sets the wait before each retry, of records and of every other
// request. It holds for a broker, not for a record. Default: from 250 ms to 2.5 s.
func WithRetryBackoff(b Backoff) ProducerOption {
	return producerOption(func(c *producerConfig) { c.retryBackoff = b })
}

// WithDeliveryTimeout bounds the time from Publish to the broker's answer: the wait
// for room in the buffer, and from there on all retries. Then the record fails with an
// *UnconfirmedError, late by at most a fiftieth of d. Younger records of its
// partition that wait behind it fail with it, or they would overtake it when it is
// published again. At least 1 s. Default: 30 s.
func WithDeliveryTimeout(d time.Duration) ProducerOption {
	return producerOption(func(c *producerConfig) { c.deliveryTimeout = d })
}

// WithLinger makes a batch wait for more records; every Publish that is alone waits
// for so long. At most 1 minute, and less than the delivery timeout. Default: 0;
// records still share a batch while the one before is on its way.
func WithLinger(d time.Duration) ProducerOption {
	return producerOption(func(c *producerConfig) { c.linger = d })
}

// WithCompression sets the codecs in order of preference; a broker too old for one
// gets the next. Default: snappy, then none.
func WithCompression(codecs ...kgo.CompressionCodec) ProducerOption {
	codecs = slices.Clone(codecs)
	return producerOption(func(c *producerConfig) { c.compression = codecs })
}

// WithPartitioner sets who chooses a record's partition. With kgo.ManualPartitioner it
// is the record's own. A panic in it fails the record and shows in Health. Nil and the
// default: by key, as the Java client hashes it; records without a key go to one
// partition until 64 KiB are sent, then to the one with the fewest waiting.
func WithPartitioner(p kgo.Partitioner) ProducerOption {
	return producerOption(func(c *producerConfig) { c.partitioner = p })
}

// WithBuffer bounds what was accepted and is not answered, in records and in bytes of
// keys, values and headers. A record larger than all of it fails. Records cost some
// 300 bytes each beside. At most 16,777,215 records and 1 TiB. Default: 50,000 records, 64 MiB.
func WithBuffer(records int, bytes int64) ProducerOption {
	return producerOption(func(c *producerConfig) { c.bufferRecords, c.bufferBytes = records, bytes })
}

// BufferPolicy says what happens to a record that the buffer has no room for.
type BufferPolicy int

const (
	// BlockWhenFull waits until there is room, the caller's context ends, or the
	// delivery timeout has passed. Who waits longest comes first.
	BlockWhenFull BufferPolicy = iota
	// FailWhenFull fails with ErrBufferFull at once.
	FailWhenFull
)

// WithBufferFull sets what happens when the buffer is full. Default: BlockWhenFull.
func WithBufferFull(p BufferPolicy) ProducerOption {
	return producerOption(func(c *producerConfig) { c.bufferFull = p })
}

// WithMessageIDs sets who makes the message-id header of records that have none. It is
// called by many goroutines at once; a panic in it fails the record, an empty id adds
// no header. Nil: no header is added. Default: a UUID of version 7.
func WithMessageIDs(f func() string) ProducerOption {
	return producerOption(func(c *producerConfig) { c.ownIDs, c.messageIDs = false, f })
}

func (c *producerConfig) validate(m *mistakes) {
	if c.topicSet {
		if err := checkTopicName(c.topic); err != nil {
			m.add("WithTopic: %w", err)
		}
	}
	c.validateDelivery(m)
	c.validateBuffer(m)
	m.check(c.partitioner == nil || !isNil(c.partitioner), "WithPartitioner: it is a nil %T", c.partitioner)
	m.check(len(c.compression) > 0, "WithCompression: no codec; kgo.NoCompression is one")
}

func (c *producerConfig) validateDelivery(m *mistakes) {
	b := c.retryBackoff
	m.check(c.acks >= AcksAll && c.acks <= AcksNone, "WithAcks(%d): unknown", c.acks)
	m.check(c.acks == AcksAll || !c.idempotenceSet || !c.idempotent,
		"WithAcks and WithIdempotence contradict each other: idempotence needs AcksAll")
	m.check(c.retries >= 0, "WithRetries(%d): not negative", c.retries)
	m.check(b.Min > 0 && b.Min <= b.Max, "WithRetryBackoff: from %v to %v: Min more than 0, Max at least Min", b.Min, b.Max)
	m.check(c.deliveryTimeout >= minDeliveryTimeout, "WithDeliveryTimeout(%v): at least %v", c.deliveryTimeout, minDeliveryTimeout)
	m.check(c.linger >= 0 && c.linger <= maxLinger, "WithLinger(%v): from 0 to %v", c.linger, maxLinger)
	m.check(c.linger < max(c.deliveryTimeout, minDeliveryTimeout) || c.linger > maxLinger,
		"WithLinger(%v): less than WithDeliveryTimeout, %v", c.linger, c.deliveryTimeout)
}

func (c *producerConfig) validateBuffer(m *mistakes) {
	m.check(c.bufferRecords > 0 && c.bufferBytes > 0, "WithBuffer(%d, %d): both more than 0", c.bufferRecords, c.bufferBytes)
	m.check(c.bufferRecords <= mostRecords && c.bufferBytes <= mostBytes, "WithBuffer(%d, %d): at most %d and %d", c.bufferRecords, c.bufferBytes, mostRecords, mostBytes)
	m.check(c.bufferFull >= BlockWhenFull && c.bufferFull <= FailWhenFull, "WithBufferFull(%d): unknown", c.bufferFull)
}
