package kstage

import (
	"fmt"
	"math"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// NewUUIDs makes message ids.
func NewUUIDs() func() []byte { return newUUIDs().next }

// GuardedPartitioner is what the client gets of a user's.
func GuardedPartitioner(p kgo.Partitioner) kgo.Partitioner {
	return &guardedPartitioner{p: p, guard: &guard{log: zap.NewNop(), board: newHealthBoard(nil)}}
}

// Idempotent says what becomes of the options.
func Idempotent(opts ...ProducerOption) (bool, error) {
	c, err := newProducerConfig(opts)
	return c.idempotent, err
}

// ProducerDefaults are the defaults of a Producer's options, as README.md's table says them.
func ProducerDefaults() map[string]string {
	c := defaultProducerConfig()
	say := func(when bool, text string) string {
		if when {
			return text
		}
		return "something else"
	}
	snappy := slices.Equal(c.compression, []kgo.CompressionCodec{kgo.SnappyCompression(), kgo.NoCompression()})
	return map[string]string{
		"WithTopic":           say(c.topic == "", "none"),
		"WithAcks":            say(c.acks == AcksAll, "`AcksAll`"),
		"WithIdempotence":     say(c.idempotent, "on"),
		"WithRetries":         say(c.retries == math.MaxInt, "unlimited"),
		"WithRetryBackoff":    fmt.Sprintf("from %v to %v, full jitter", c.retryBackoff.Min, c.retryBackoff.Max),
		"WithDeliveryTimeout": fmt.Sprint(c.deliveryTimeout),
		"WithLinger":          fmt.Sprint(c.linger),
		"WithCompression":     say(snappy, "snappy, none"),
		"WithPartitioner":     say(c.partitioner == nil, "by key"),
		"WithBuffer":          fmt.Sprintf("%d records, %d MiB", c.bufferRecords, c.bufferBytes>>20),
		"WithBufferFull":      say(c.bufferFull == BlockWhenFull, "`BlockWhenFull`"),
		"WithMessageIDs":      say(c.ownIDs, "UUIDv7"),
	}
}
