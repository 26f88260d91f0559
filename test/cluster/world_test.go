//go:build cluster

package cluster_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kstage/kstage"
)

// world is one test's use of the brokers, as somebody who may do everything.
type world struct {
	t      *testing.T
	prefix string // makes the test's names its own
	cl     *kgo.Client
	adm    *kadm.Client
	log    *zap.Logger
	logs   *observer.ObservedLogs
}

func newWorld(t *testing.T) *world {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	w := &world{t: t, prefix: fmt.Sprintf("t%d-", time.Now().UnixNano()), log: zap.New(core), logs: logs}
	w.cl = w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(250*time.Millisecond))
	w.adm = kadm.NewClient(w.cl)
	t.Cleanup(func() {
		if t.Failed() {
			for _, e := range logs.FilterLevelExact(zap.WarnLevel).All() {
				t.Logf("%s %s %v", e.Time.Format(time.StampMilli), e.Message, e.ContextMap())
			}
		}
	})
	w.allUp()
	return w
}

// client makes a plain client that ends with the test.
func (w *world) client(opts ...kgo.Opt) *kgo.Client {
	w.t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(brokers.Brokers...)}, opts...)...)
	require.NoError(w.t, err)
	w.t.Cleanup(cl.CloseAllowingRebalance)
	return cl
}

// allUp starts what an earlier test has left dead, and waits for full replication.
func (w *world) allUp() {
	w.t.Helper()
	for node := range int32(len(brokers.Brokers)) {
		require.NoError(w.t, brokers.Start(w.t.Context(), node+1))
	}
	w.within(time.Minute, w.replicated)
}

// replicated says that every partition has all its replicas in sync.
func (w *world) replicated() bool {
	ds, err := w.adm.ListTopicsWithInternal(w.t.Context())
	if err != nil {
		return false
	}
	for _, d := range ds {
		for _, p := range d.Partitions {
			if len(p.ISR) < len(p.Replicas) || p.Leader < 0 {
				return false
			}
		}
	}
	return true
}

// name makes a topic's or group's name the test's own.
func (w *world) name(s string) string { return w.prefix + s }

// topic creates one and returns its name. Configs are key, value, key, value.
func (w *world) topic(s string, partitions int32, configs ...string) string {
	w.t.Helper()
	cs := map[string]*string{}
	for i := 0; i < len(configs); i += 2 {
		cs[configs[i]] = &configs[i+1]
	}
	w.within(time.Minute, func() bool { // a topic that is being deleted is still there
		_, err := w.adm.CreateTopic(w.t.Context(), partitions, -1, cs, w.name(s))
		return err == nil
	})
	w.within(time.Minute, func() bool { // brokers learn of it one after the other
		ds, err := w.adm.ListTopics(w.t.Context(), w.name(s))
		return err == nil && ds[w.name(s)].Err == nil && len(ds[w.name(s)].Partitions) == int(partitions)
	})
	w.cl.PurgeTopicsFromClient(w.name(s))
	return w.name(s)
}

// ladder creates the retry topics and the dead-letter topic of group g.
func (w *world) ladder(partitions int32, stages int) {
	w.t.Helper()
	for i := range stages {
		w.topic(fmt.Sprintf("g-retry-%d", i+1), partitions)
	}
	w.topic("g-dlq", partitions)
}

// record makes one for a partition.
func record(topic string, partition int32, key, value string) *kgo.Record {
	return &kgo.Record{Topic: topic, Partition: partition, Key: []byte(key), Value: []byte(value)}
}

// fill writes n records to a partition: key k<i mod 10>, value <i>.
func (w *world) fill(topic string, partition int32, n int) {
	w.t.Helper()
	rs := make([]*kgo.Record, n)
	for i := range rs {
		rs[i] = record(topic, partition, fmt.Sprintf("k%d", i%10), fmt.Sprint(i))
	}
	require.NoError(w.t, w.cl.ProduceSync(w.t.Context(), rs...).FirstErr())
}

// committed is group g's offset of a partition; -1: none.
func (w *world) committed(topic string, partition int32) int64 {
	w.t.Helper()
	os, err := w.adm.FetchOffsets(w.t.Context(), w.name("g"))
	if o, ok := os.Lookup(topic, partition); err == nil && ok {
		return o.At
	}
	return -1
}

// read returns the records of a topic that has n.
func (w *world) read(topic string, n int) (rs []*kgo.Record) {
	w.t.Helper()
	cl := w.client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	limited, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	for len(rs) < n {
		fs := cl.PollFetches(limited)
		require.NoError(w.t, fs.Err())
		rs = append(rs, fs.Records()...)
	}
	return rs
}

// within waits until cond holds, at most limit.
func (w *world) within(limit time.Duration, cond func() bool) {
	w.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); !cond(); <-tick.C {
		if time.Now().After(end) {
			w.t.Fatalf("it did not come true within %v", limit)
		}
	}
}

// after lets time pass.
func after(d time.Duration) { <-time.After(d) }

// coordinator is the node that coordinates a group.
func (w *world) coordinator(group string) (node int32) {
	w.t.Helper()
	w.within(time.Minute, func() bool { // the first question creates the topic of offsets
		c := w.adm.FindGroupCoordinators(w.t.Context(), group)[group]
		node = c.NodeID
		return c.Err == nil
	})
	return node
}

// controller is the node that is the active controller.
func (w *world) controller() int32 {
	w.t.Helper()
	p := kmsg.NewDescribeQuorumRequestTopicPartition()
	topic := kmsg.NewDescribeQuorumRequestTopic()
	topic.Topic, topic.Partitions = "__cluster_metadata", append(topic.Partitions, p)
	req := kmsg.NewPtrDescribeQuorumRequest()
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(w.t.Context(), w.cl)
	require.NoError(w.t, err)
	require.NoError(w.t, kerr.ErrorForCode(resp.ErrorCode))
	return resp.Topics[0].Partitions[0].LeaderID
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
	c, err := kstage.NewConsumer(h, append([]kstage.ConsumerOption{
		kstage.WithBrokers(brokers.Brokers...), kstage.WithGroup(w.name("g")),
		kstage.WithMetrics(m.counts), kstage.WithLogger(w.log),
	}, opts...)...)
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(w.t.Context())
	m.Consumer, m.cancel = c, cancel
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
