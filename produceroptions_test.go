package kstage_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// grabbingProducer keeps the client of a producer.
func grabbingProducer(w *world, more ...kgo.Opt) (*grabbed, kstage.ProducerOption) {
	g := &grabbed{clients: map[kstage.ClientRole]*kgo.Client{}}
	return g, kstage.WithClientOptions(func(role kstage.ClientRole) []kgo.Opt {
		return append(append([]kgo.Opt{kgo.WithHooks(grab{g, role})}, w.reach...), more...)
	})
}

func TestWhatTheProducersClientIsMadeWith(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g, option := grabbingProducer(w, kgo.ProducerLinger(time.Hour), kgo.RequiredAcks(kgo.NoAck()), kgo.RecordDeliveryTimeout(time.Hour),
		kgo.MaxBufferedRecords(1), kgo.MaxBufferedBytes(1), kgo.RecordRetries(1), kgo.ProducerBatchCompression(kgo.ZstdCompression()),
		kgo.ProducerBatchMaxBytes(12345), kgo.DefaultProduceTopic("theirs"), kgo.ProduceRequestTimeout(time.Hour))
	w.producer(option)
	for _, c := range []struct {
		opt   any
		value any
	}{
		{kgo.RequiredAcks, kgo.AllISRAcks()},
		{kgo.DisableIdempotentWrite, false},
		{kgo.AllowIdempotentProduceCancellation, true},
		{kgo.ProducerLinger, time.Duration(0)},
		{kgo.ProducerBatchCompression, []kgo.CompressionCodec{kgo.SnappyCompression(), kgo.NoCompression()}},
		{kgo.RecordDeliveryTimeout, time.Duration(0)},
		{kgo.MaxBufferedBytes, int64(0)},
		{kgo.ProduceRequestTimeout, 5 * time.Second},
		{kgo.DefaultProduceTopic, ""},
		{kgo.ProducerBatchMaxBytes, int32(12345)}, // the user's
	} {
		require.Equal(t, c.value, g.opt(kstage.RoleProducer, c.opt))
	}
	require.Greater(t, g.opt(kstage.RoleProducer, kgo.RecordRetries), int64(1<<60))

	g, option = grabbingProducer(w)
	w.producer(option, kstage.WithAcks(kstage.AcksLeader), kstage.WithLinger(time.Second), kstage.WithRetries(3), kstage.WithCompression(kgo.Lz4Compression()),
		kstage.WithRetryBackoff(kstage.Backoff{Min: time.Second, Max: time.Minute}))
	require.Equal(t, kgo.LeaderAck(), g.opt(kstage.RoleProducer, kgo.RequiredAcks))
	require.Equal(t, true, g.opt(kstage.RoleProducer, kgo.DisableIdempotentWrite))
	require.Equal(t, time.Second, g.opt(kstage.RoleProducer, kgo.ProducerLinger))
	require.Equal(t, int64(3), g.opt(kstage.RoleProducer, kgo.RecordRetries))
	require.Equal(t, []kgo.CompressionCodec{kgo.Lz4Compression()}, g.opt(kstage.RoleProducer, kgo.ProducerBatchCompression))
	backoff := g.opt(kstage.RoleProducer, kgo.RetryBackoffFn).(func(int) time.Duration)
	var first, tenth []time.Duration
	for range 1000 {
		first, tenth = append(first, backoff(1)), append(tenth, backoff(10))
	}
	require.LessOrEqual(t, slices.Max(first), time.Second+1)
	require.LessOrEqual(t, slices.Max(tenth), time.Minute+1)
	require.Greater(t, slices.Max(tenth), 40*time.Second)
	require.Less(t, slices.Min(tenth), 10*time.Second)
}

func TestClientOptionsThatAProducerCannotTakeBack(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]kgo.Opt{
		"ManualFlushing":                 kgo.ManualFlushing(),
		"StopProducerOnDataLossDetected": kgo.StopProducerOnDataLossDetected(),
		"TransactionalID":                kgo.TransactionalID("tx"),
		"WithClientOptions":              kgo.MaxProduceRequestsInflightPerBroker(7),
	} {
		_, err := kstage.NewProducer(kstage.WithBrokers("localhost:1"), kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return []kgo.Opt{opt} }))
		require.ErrorContains(t, err, "WithClientOptions", name)
	}
	_, err := kstage.NewProducer(kstage.WithBrokers("localhost:1"), kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt {
		return []kgo.Opt{kgo.DisableIdempotentWrite()}
	}))
	require.ErrorContains(t, err, "WithIdempotence(false)")
	_, err = kstage.NewProducer(kstage.WithBrokers("localhost:1"), kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt {
		return []kgo.Opt{kgo.DefaultProduceTopic("t"), kgo.DefaultProduceTopicAlways()}
	}))
	require.ErrorContains(t, err, "WithClientOptions")
}

// producerMistakes are the values an option refuses; the message names the option.
var producerMistakes = []struct {
	name   string
	option kstage.ProducerOption
	says   string
}{
	{"no brokers", kstage.WithBrokers(), "WithBrokers"},
	{"empty broker", kstage.WithBrokers("a:1", ""), "WithBrokers"},
	{"client id", kstage.WithClientID(""), "WithClientID"},
	{"nil counters", kstage.WithMetrics((*kstage.Counters)(nil)), "WithMetrics"},
	{"empty topic", kstage.WithTopic(""), "WithTopic"},
	{"illegal topic", kstage.WithTopic("a b"), "WithTopic"},
	{"long topic", kstage.WithTopic(strings.Repeat("x", 250)), "WithTopic"},
	{"acks", kstage.WithAcks(3), "WithAcks"},
	{"negative acks", kstage.WithAcks(-1), "WithAcks"},
	{"retries", kstage.WithRetries(-1), "WithRetries"},
	{"no back-off", kstage.WithRetryBackoff(kstage.Backoff{}), "WithRetryBackoff"},
	{"back-off upside down", kstage.WithRetryBackoff(kstage.Backoff{Min: 2, Max: 1}), "WithRetryBackoff"},
	{"delivery timeout", kstage.WithDeliveryTimeout(0), "WithDeliveryTimeout"},
	{"short delivery timeout", kstage.WithDeliveryTimeout(time.Second - 1), "WithDeliveryTimeout"},
	{"linger", kstage.WithLinger(-1), "WithLinger"},
	{"long linger", kstage.WithLinger(time.Minute + 1), "WithLinger"},
	{"linger as long as the timeout", kstage.WithLinger(30 * time.Second), "WithLinger"},
	{"no codec", kstage.WithCompression(), "WithCompression"},
	{"nil partitioner", kstage.WithPartitioner((*nilPartitioner)(nil)), "WithPartitioner"},
	{"buffer records", kstage.WithBuffer(0, 1), "WithBuffer"},
	{"buffer bytes", kstage.WithBuffer(1, 0), "WithBuffer"},
	{"too many buffer records", kstage.WithBuffer(1<<24, 1), "WithBuffer"},
	{"too many buffer bytes", kstage.WithBuffer(1, 1<<40), "WithBuffer"},
	{"buffer policy", kstage.WithBufferFull(2), "WithBufferFull"},
	{"negative buffer policy", kstage.WithBufferFull(-1), "WithBufferFull"},
}

type nilPartitioner struct{ kgo.Partitioner }

func TestEachProducerMistake(t *testing.T) {
	t.Parallel()
	for _, tt := range producerMistakes {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := kstage.NewProducer(kstage.WithBrokers("localhost:9092"), tt.option)
			require.Nil(t, p)
			require.ErrorContains(t, err, "kstage: ")
			require.ErrorContains(t, err, tt.says)
			require.Len(t, unjoin(err), 1, "one mistake, one message: %v", err)
		})
	}
}

func TestAllProducerMistakesTogether(t *testing.T) {
	t.Parallel()
	_, err := kstage.NewProducer(kstage.WithBrokers(), kstage.WithClientID(""), kstage.WithMetrics((*kstage.Counters)(nil)), kstage.WithTopic("a b"),
		kstage.WithAcks(9), kstage.WithIdempotence(true), kstage.WithRetries(-1), kstage.WithRetryBackoff(kstage.Backoff{}), kstage.WithDeliveryTimeout(0),
		kstage.WithLinger(-1), kstage.WithCompression(), kstage.WithPartitioner((*nilPartitioner)(nil)), kstage.WithBuffer(0, 0), kstage.WithBufferFull(9))
	for _, name := range []string{
		"WithBrokers", "WithClientID", "WithMetrics", "WithTopic", "WithAcks", "WithIdempotence", "WithRetries", "WithRetryBackoff",
		"WithDeliveryTimeout", "WithLinger", "WithCompression", "WithPartitioner", "WithBuffer", "WithBufferFull",
	} {
		require.ErrorContains(t, err, name)
	}
}

// Acks below all turn idempotence off, unless somebody has asked for it.
func TestProducerIdempotenceRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		opts []kstage.ProducerOption
		want bool // idempotent
		err  bool
	}{
		{nil, true, false},
		{[]kstage.ProducerOption{kstage.WithAcks(kstage.AcksAll)}, true, false},
		{[]kstage.ProducerOption{kstage.WithIdempotence(false)}, false, false},
		{[]kstage.ProducerOption{kstage.WithAcks(kstage.AcksLeader)}, false, false},
		{[]kstage.ProducerOption{kstage.WithAcks(kstage.AcksNone)}, false, false},
		{[]kstage.ProducerOption{kstage.WithAcks(kstage.AcksLeader), kstage.WithIdempotence(false)}, false, false},
		{[]kstage.ProducerOption{kstage.WithAcks(kstage.AcksLeader), kstage.WithIdempotence(true)}, false, true},
		{[]kstage.ProducerOption{kstage.WithIdempotence(true), kstage.WithAcks(kstage.AcksNone)}, false, true},
		{[]kstage.ProducerOption{kstage.WithIdempotence(true), kstage.WithAcks(kstage.AcksNone), kstage.WithAcks(kstage.AcksAll)}, true, false},
	} {
		idempotent, err := kstage.Idempotent(append(tt.opts, kstage.WithBrokers("localhost:1"))...)
		if tt.err {
			require.ErrorContains(t, err, "WithAcks")
			require.ErrorContains(t, err, "WithIdempotence")
			continue
		}
		require.NoError(t, err)
		require.Equal(t, tt.want, idempotent, "%d", len(tt.opts))
	}
}
