//go:build cluster

package cluster_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

const loadPartitions = 6

// load is a topic under a steady stream of numbered records, group g of two kstage
// members on it, and beside them two plain kgo consumers in a group that the same
// node coordinates: what they see of a fault is the measure.
type load struct {
	w     *world
	topic string
	ours  []*member
	seen  *sightings // by kstage's handlers
	plain *sightings // by the plain consumers

	stopLoad context.CancelFunc
	ended    sync.WaitGroup // of the producing goroutine and the plain consumers
	stopRaw  context.CancelFunc
	produced chan struct{} // closed when every number has its answer
	sent     int64         // numbers given; read after produced
	refused  atomic.Int64  // not acknowledged
}

// sightings is who saw which number, and how long each partition was silent.
type sightings struct {
	mu     sync.Mutex // guards all below
	times  map[int64]int
	last   map[int32]time.Time
	silent map[int32]time.Duration // the longest silence since the last reset
}

func newSightings() *sightings {
	return &sightings{times: map[int64]int{}, last: map[int32]time.Time{}, silent: map[int32]time.Duration{}}
}

func (s *sightings) note(r *kgo.Record) {
	n := int64(-1)
	_, _ = fmt.Sscan(string(r.Value), &n)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if at, ok := s.last[r.Partition]; ok {
		s.silent[r.Partition] = max(s.silent[r.Partition], now.Sub(at))
	}
	s.last[r.Partition] = now
	s.times[n]++
}

// reset begins a new measurement of silences.
func (s *sightings) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.silent)
}

// allSince says that every partition was seen after t.
func (s *sightings) allSince(t time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, last := range s.last {
		if !last.After(t) {
			return false
		}
	}
	return true
}

// worst is the longest silence of the partitions given.
func (s *sightings) worst(partitions []int32) (d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range partitions {
		d = max(d, s.silent[p])
	}
	return d
}

// distinct is how many numbers were seen, repeated how many sightings were not the first.
func (s *sightings) distinct() (distinct, repeated int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.times {
		repeated += n - 1
	}
	return len(s.times), repeated
}

// underLoad begins to produce 1,000 records a second and to consume them, and returns
// when everybody consumes.
func (w *world) underLoad(opts ...kstage.ConsumerOption) *load {
	w.t.Helper()
	l := &load{w: w, topic: w.topic("orders", loadPartitions), seen: newSightings(), plain: newSightings(), produced: make(chan struct{})}
	w.ladder(loadPartitions, 0)
	for range 2 {
		l.ours = append(l.ours, w.start(l.handler, append([]kstage.ConsumerOption{kstage.WithTopics(l.topic)}, opts...)...))
	}
	raw, stopRaw := context.WithCancel(w.t.Context())
	l.stopRaw = stopRaw
	group := w.sameCoordinator(w.name("g"))
	for range 2 {
		l.ended.Go(func() { l.consumePlainly(raw, group) })
	}
	loading, stop := context.WithCancel(w.t.Context())
	l.stopLoad = stop
	l.ended.Go(func() { l.produce(loading) })
	w.t.Cleanup(func() { stop(); stopRaw(); l.ended.Wait() })
	w.within(time.Minute, func() bool { return l.everywhere(l.seen) && l.everywhere(l.plain) })
	after(3 * time.Second)
	return l
}

func (l *load) handler(_ context.Context, msg kstage.Message) error {
	l.seen.note(msg.Record)
	return nil
}

// sameCoordinator finds a group that the same node coordinates.
func (w *world) sameCoordinator(group string) string {
	node := w.coordinator(group)
	for i := 0; ; i++ {
		if other := fmt.Sprintf("%s-plain-%d", group, i); w.coordinator(other) == node {
			return other
		}
	}
}

func (l *load) everywhere(s *sightings) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.last) == loadPartitions
}

// produce publishes 10 records each 10 ms until ctx is done, then waits for all answers.
func (l *load) produce(ctx context.Context) {
	defer close(l.produced)
	p, err := kstage.NewProducer(kstage.WithBrokers(brokers.Brokers...), kstage.WithTopic(l.topic),
		kstage.WithPartitioner(kgo.RoundRobinPartitioner()), kstage.WithDeliveryTimeout(2*time.Minute))
	if err != nil {
		l.w.t.Error(err)
		return
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		for range 10 {
			r := &kgo.Record{Key: fmt.Appendf(nil, "k%d", l.sent%97), Value: fmt.Append(nil, l.sent)}
			l.sent++
			p.PublishAsync(context.WithoutCancel(ctx), r, func(_ *kgo.Record, err error) {
				if err != nil {
					l.refused.Add(1)
					l.w.t.Error(err)
				}
			})
		}
		<-tick.C
	}
	if err := p.Close(context.WithoutCancel(ctx)); err != nil {
		l.w.t.Error(err)
	}
}

// consumePlainly is the raw consumer: a poll loop and a commit each second.
func (l *load) consumePlainly(ctx context.Context, group string) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers.Brokers...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(l.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitInterval(time.Second), kgo.AutoCommitMarks(),
		kgo.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		l.w.t.Error(err)
		return
	}
	defer cl.CloseAllowingRebalance()
	for ctx.Err() == nil {
		fs := cl.PollFetches(ctx)
		fs.EachRecord(l.plain.note)
		cl.MarkCommitRecords(fs.Records()...)
	}
}

// finish ends the stream and checks that everything acknowledged was handled.
func (l *load) finish() {
	l.w.t.Helper()
	l.stopLoad()
	<-l.produced
	l.w.within(2*time.Minute, func() bool {
		distinct, _ := l.seen.distinct()
		return int64(distinct) >= l.sent-l.refused.Load()
	})
	for _, m := range l.ours {
		require.NoError(l.w.t, m.stop())
		m.assertIdentity()
	}
	l.stopRaw()
	l.ended.Wait()
	distinct, repeated := l.seen.distinct()
	_, plainly := l.plain.distinct()
	require.EqualValues(l.w.t, l.sent-l.refused.Load(), distinct)
	l.w.t.Logf("acked=%d handled=%d lost=0 repeated=%d (plain consumer: %d)", l.sent-l.refused.Load(), distinct, repeated, plainly)
}
