package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kstage/kstage"
)

// world is a broker and what a test does with it: an embedded one on loopback
// (newWorld), in virtual time (virtual), or a real one (KSTAGE_TEST_BROKERS).
type world struct {
	t       *testing.T
	fake    *kfake.Cluster // nil: a real broker
	brokers []string
	reach   []kgo.Opt // how clients reach the brokers
	cl      *kgo.Client
	adm     *kadm.Client
	prefix  string // makes names unique on a broker that outlives the test
	logs    *observer.ObservedLogs
	log     *zap.Logger
}

var worlds atomic.Int64

// newWorld is in real time: on the real broker where there is one.
func newWorld(t *testing.T, opts ...kfake.Opt) *world {
	t.Helper()
	if addrs := os.Getenv("KSTAGE_TEST_BROKERS"); addrs != "" {
		w := &world{t: t, brokers: strings.Split(addrs, ","), prefix: fmt.Sprintf("t%d-%d-", time.Now().UnixNano(), worlds.Add(1))}
		w.connect()
		return w
	}
	return newFakeWorld(t, nil, opts...)
}

// newFakeWorld is on an embedded broker, reached as reach says.
func newFakeWorld(t *testing.T, reach []kgo.Opt, opts ...kfake.Opt) *world {
	t.Helper()
	fake, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(fake.Close)
	w := &world{t: t, fake: fake, brokers: fake.ListenAddrs(), reach: reach}
	w.connect()
	return w
}

func (w *world) connect() {
	core, logs := observer.New(zap.InfoLevel)
	w.log, w.logs = zap.New(core), logs
	w.cl = w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	w.adm = kadm.NewClient(w.cl)
}

// client makes a plain client that ends with the test.
func (w *world) client(opts ...kgo.Opt) *kgo.Client {
	w.t.Helper()
	cl, err := kgo.NewClient(append(append([]kgo.Opt{kgo.SeedBrokers(w.brokers...)}, w.reach...), opts...)...)
	require.NoError(w.t, err)
	w.t.Cleanup(cl.Close)
	return cl
}

// name makes a topic's or group's name unique.
func (w *world) name(s string) string { return w.prefix + s }

// topic creates a topic and returns its name. Configs are key, value, key, value.
func (w *world) topic(s string, partitions int32, configs ...string) string {
	w.t.Helper()
	cs := map[string]*string{}
	for i := 0; i < len(configs); i += 2 {
		cs[configs[i]] = &configs[i+1]
	}
	_, err := w.adm.CreateTopic(w.t.Context(), partitions, -1, cs, w.name(s))
	require.NoError(w.t, err)
	w.eventually(func() bool { // brokers learn of it one after the other
		ds, err := w.adm.ListTopics(w.t.Context(), w.name(s))
		return err == nil && len(ds[w.name(s)].Partitions) == int(partitions) && ds[w.name(s)].Err == nil
	})
	return w.name(s)
}

// ladder creates a main topic and the dead-letter topic of its group, and
// returns the options of a consumer of them.
func (w *world) ladder(partitions int32) (topic string, opts []kstage.ConsumerOption) {
	w.t.Helper()
	topic = w.topic("orders", partitions)
	w.topic("g-dlq", partitions)
	return topic, []kstage.ConsumerOption{kstage.WithTopics(topic)}
}

// stages creates the retry topics of group g's ladder and returns the option for them.
func (w *world) stages(partitions int32, delays ...time.Duration) kstage.ConsumerOption {
	w.t.Helper()
	for i := range delays {
		w.topic(fmt.Sprintf("g-retry-%d", i+1), partitions)
	}
	return kstage.WithRetryStages(delays...)
}

// once makes no immediate retries.
func once() kstage.ConsumerOption { return kstage.WithImmediateRetries(0, kstage.Backoff{}) }

// record makes one for a partition.
func record(topic string, partition int32, key, value string) *kgo.Record {
	return &kgo.Record{Topic: topic, Partition: partition, Key: []byte(key), Value: []byte(value)}
}

// produce publishes records to the partitions they name, without ids, and waits for
// their acknowledgements. Each time by a new producer: a topic may have been created
// again since.
func (w *world) produce(rs ...*kgo.Record) {
	w.t.Helper()
	p, err := kstage.NewProducer(kstage.WithBrokers(w.brokers...), kstage.WithPartitioner(kgo.ManualPartitioner()),
		kstage.WithMessageIDs(nil),
		kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return w.reach }))
	require.NoError(w.t, err)
	require.NoError(w.t, p.PublishBatch(w.t.Context(), rs...))
	require.NoError(w.t, p.Close(w.t.Context()))
}

// fill writes n records to a partition: key k<i mod keys>, value <i>.
func (w *world) fill(topic string, partition int32, n, keys int) {
	w.t.Helper()
	rs := make([]*kgo.Record, n)
	for i := range rs {
		rs[i] = record(topic, partition, fmt.Sprintf("k%d", i%keys), fmt.Sprint(i))
	}
	w.produce(rs...)
}

// read returns all records of a topic, by partition, in offset order.
func (w *world) read(topic string) map[int32][]*kgo.Record {
	w.t.Helper()
	ends, err := w.adm.ListEndOffsets(w.t.Context(), topic)
	require.NoError(w.t, err)
	starts, err := w.adm.ListStartOffsets(w.t.Context(), topic)
	require.NoError(w.t, err)
	want := int64(0)
	ends.Each(func(o kadm.ListedOffset) {
		s, _ := starts.Lookup(o.Topic, o.Partition)
		want += o.Offset - s.Offset
	})
	cl := w.client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	out := map[int32][]*kgo.Record{}
	for got := int64(0); got < want; {
		fs := cl.PollFetches(w.t.Context())
		require.NoError(w.t, fs.Err())
		fs.EachRecord(func(r *kgo.Record) {
			out[r.Partition] = append(out[r.Partition], r)
			got++
		})
	}
	return out
}

// deadLetters decodes all records of the group's dead-letter topic.
func (w *world) deadLetters() (ds []kstage.DeadLetter) {
	w.t.Helper()
	for _, rs := range w.read(w.name("g-dlq")) {
		for _, r := range rs {
			d, err := kstage.DecodeDeadLetter(r)
			require.NoError(w.t, err)
			ds = append(ds, d)
		}
	}
	return ds
}

// committed is the group's offset of a partition; -1: none.
func (w *world) committed(topic string, partition int32) int64 {
	w.t.Helper()
	os, err := w.adm.FetchOffsets(w.t.Context(), w.name("g"))
	require.NoError(w.t, err)
	if o, ok := os.Lookup(topic, partition); ok {
		return o.At
	}
	return -1
}

// member is a running Consumer.
type member struct {
	*kstage.Consumer
	w      *world
	cancel context.CancelFunc
	done   chan struct{} // closed after err is set
	err    error
	counts *kstage.Counters
}

// start runs a Consumer of group g until stop, or the test's end.
func (w *world) start(h kstage.HandlerFunc, opts ...kstage.ConsumerOption) *member {
	w.t.Helper()
	m := &member{w: w, done: make(chan struct{}), counts: &kstage.Counters{}}
	all := append([]kstage.ConsumerOption{
		kstage.WithBrokers(w.brokers...),
		kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return w.reach }),
		kstage.WithGroup(w.name("g")),
		kstage.WithMetrics(m.counts),
		kstage.WithLogger(w.log),
	}, opts...)
	c, err := kstage.NewConsumer(h, all...)
	require.NoError(w.t, err)
	m.Consumer = c
	ctx, cancel := context.WithCancel(w.t.Context())
	m.cancel = cancel
	go func() {
		defer close(m.done)
		m.err = c.Run(ctx)
	}()
	w.t.Cleanup(func() { _ = m.stop() })
	return m
}

// stop ends Run and returns its error.
func (m *member) stop() error {
	m.cancel()
	return m.wait()
}

// wait waits for Run to end by itself.
func (m *member) wait() error {
	<-m.done
	return m.err
}

// reason returns the first reason of a kind in Health.
func (m *member) reason(k kstage.ReasonKind) (kstage.HealthReason, bool) {
	for _, r := range m.Health().Reasons {
		if r.Kind == k {
			return r, true
		}
	}
	return kstage.HealthReason{}, false
}

// assertIdentity checks that each received record is counted once.
func (m *member) assertIdentity() {
	m.w.t.Helper()
	s := m.counts.Snapshot()
	require.Equal(m.w.t, s.Received, s.Processed+s.Retried+s.SentToDLQ+s.Skipped+s.Dropped+s.Duplicates+s.Released+s.Foreign, "%+v", s)
}

// eventually waits until cond holds.
func (w *world) eventually(cond func() bool) {
	w.t.Helper()
	w.within(2*time.Minute, cond)
}

// within waits until cond holds, at most limit. In virtual time waiting costs
// nothing.
func (w *world) within(limit time.Duration, cond func() bool) {
	w.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); !cond(); {
		if time.Now().After(end) {
			w.t.Fatalf("it did not come true within %v", limit)
		}
		<-tick.C
	}
}

// after lets time pass.
func after(d time.Duration) { <-time.After(d) }

// everySecond waits until cond holds, at most limit: for what takes an hour.
func (w *world) everySecond(limit time.Duration, cond func() bool) {
	w.t.Helper()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for end := time.Now().Add(limit); !cond(); {
		if time.Now().After(end) {
			w.t.Fatalf("it did not come true within %v", limit)
		}
		<-tick.C
	}
}

// stat is where a member's partition stands; zero where it is not assigned.
func (m *member) stat(topic string, partition int32) kstage.PartitionStats {
	for _, s := range m.Stats().Partitions {
		if s.Topic == topic && s.Partition == partition {
			return s
		}
	}
	return kstage.PartitionStats{}
}

// waiting counts the records in line in a member's retry partitions.
func (m *member) waiting() (n int) {
	for _, s := range m.Stats().Partitions {
		n += s.Waiting
	}
	return n
}

// copied adds headers to a record, as a copy has them, or a forged one. Key, value,
// key, value.
func copied(r *kgo.Record, headers ...string) *kgo.Record {
	for i := 0; i < len(headers); i += 2 {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: headers[i], Value: []byte(headers[i+1])})
	}
	return r
}

// facts are the headers of a copy that are ours.
func facts(r *kgo.Record) map[string]string {
	fs := map[string]string{}
	for _, h := range r.Headers {
		if strings.HasPrefix(h.Key, "kstage-") {
			fs[strings.TrimPrefix(h.Key, "kstage-")] = string(h.Value)
		}
	}
	return fs
}

// firstRead is where the record of a copy was first read.
func firstRead(r *kgo.Record) (co kstage.Coordinates) {
	fs := facts(r)
	co.Topic = fs["origin-topic"]
	_, _ = fmt.Sscan(fs["origin-partition"], &co.Partition)
	_, _ = fmt.Sscan(fs["origin-offset"], &co.Offset)
	return co
}

// originOf is where a message's record was first read.
func originOf(m kstage.Message) kstage.Coordinates {
	o := m.Origin()
	return kstage.Coordinates{Topic: o.Topic, Partition: o.Partition, Offset: o.Offset}
}

// committedBy is a group's offset of a partition; -1: none.
func (w *world) committedBy(group, topic string, partition int32) int64 {
	w.t.Helper()
	os, err := w.adm.FetchOffsets(w.t.Context(), group)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return -1
	}
	require.NoError(w.t, err)
	if o, ok := os.Lookup(topic, partition); ok {
		return o.At
	}
	return -1
}

// millis is a time as our headers tell it.
func millis(t time.Time) string { return fmt.Sprint(t.UnixMilli()) }
