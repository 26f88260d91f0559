//go:build synctests

package kstage_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// fetchCount counts the fetch requests of one client.
type fetchCount struct{ n atomic.Int64 }

func (c *fetchCount) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, _ error) {
	if key == int16(kmsg.Fetch) {
		c.n.Add(1)
	}
}

// counting makes a consumer count the fetch requests for its retry topics.
func (c *fetchCount) counting(w *world) kstage.ConsumerOption {
	return kstage.WithClientOptions(func(r kstage.ClientRole) []kgo.Opt {
		if r == kstage.RoleRetry {
			return append([]kgo.Opt{kgo.WithHooks(c)}, w.reach...)
		}
		return w.reach
	})
}

// during counts the fetch requests while some time passes.
func (c *fetchCount) during(d time.Duration) int64 {
	before := c.n.Load()
	after(d)
	return c.n.Load() - before
}

// fetches keeps the largest fetch of a partition, of main and of retry topics.
type fetches struct {
	kstage.Counters

	main, retry, records atomic.Int64
}

func (f *fetches) Received(e kstage.ReceivedEvent) {
	f.Counters.Received(e)
	most := &f.main
	if e.Topic != "orders" {
		most = &f.retry
		f.records.Store(max(f.records.Load(), int64(e.Records)))
	}
	most.Store(max(most.Load(), e.Bytes))
}

// watchMemory samples what both intakes hold until the returned function is called,
// which tells the most.
func watchMemory(m *member) (stop func() (main, retry int64)) {
	var main, retry int64
	sum := func(ls []kstage.Load) (n int64) {
		for _, l := range ls {
			n += l.Bytes
		}
		return n
	}
	end := sampled(m, 20*time.Millisecond, func(ls []kstage.Load) {
		main, retry = max(main, sum(ls)), max(retry, sum(m.RetryLoads()))
	})
	m.w.t.Cleanup(end)
	return func() (int64, int64) { end(); return main, retry }
}

// A thousand records wait in each of three stages, and the main window is full:
// each intake keeps within its own budget and one fetch of each partition; the main
// topic flows, and each record is handled when it is due.
func TestStagesKeepWithinTheBudget(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		const each, parts, budget = 1000, 2, 200_000
		t := w.t
		topic, opts := w.ladder(parts)
		stages := w.stages(parts, 11*time.Minute, 21*time.Minute, 31*time.Minute) // the copies are a minute old, so to say
		began := time.Now()
		value := fmt.Sprintf("%0300d", 0)
		cl := w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(10_000), kgo.ProducerBatchCompression(kgo.NoCompression()))
		for s := 1; s <= 3; s++ {
			due := began.Add(time.Duration(s) * 10 * time.Minute)
			for i := range each {
				r := retryCopy(fmt.Sprintf("g-retry-%d", s), int32(i%parts), fmt.Sprint("k", i%7), due.Add(time.Duration(i)*time.Millisecond))
				r.Value = []byte(value)
				cl.Produce(t.Context(), r, nil)
			}
			require.NoError(t, cl.Flush(t.Context()))
		}
		var f fetches
		stuck := make(chan struct{})
		release := sync.OnceFunc(func() { close(stuck) })
		t.Cleanup(release)
		var mu sync.Mutex
		late, early := time.Duration(0), 0
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			if msg.Stage() == 0 && msg.Record.Partition == 0 {
				<-stuck
			}
			if msg.Stage() > 0 {
				mu.Lock()
				defer mu.Unlock()
				due := began.Add(time.Duration(msg.Stage())*10*time.Minute + time.Duration(msg.Record.Offset*parts+int64(msg.Record.Partition))*time.Millisecond)
				if time.Now().Before(due) {
					early++
				}
				late = max(late, time.Since(due))
			}
			return nil
		}, append(opts, stages, kstage.WithMetrics(&f), kstage.WithMemoryBudget(budget), smallFetches(),
			kstage.WithWindow(kstage.Window{Bytes: 80_000}), kstage.WithWorkers(4))...)
		memory := watchMemory(m)
		for range 600 { // more than the window takes, behind one key
			w.produce(record(topic, 0, "stuck", value))
		}
		w.batches(topic, 1, 60, 10, value)
		w.eventually(func() bool { return f.Snapshot().Processed >= 600 })
		after(time.Minute)
		require.Contains(t, statsOf(m, "g-retry-1", 0).Paused, "delay")
		require.Equal(t, []string{"backpressure"}, statsOf(m, topic, 0).Paused)
		n := f.Snapshot().Processed
		w.batches(topic, 1, 10, 10, value)
		after(2 * time.Second)
		require.Equal(t, n+100, f.Snapshot().Processed, "main flows")
		release()
		after(25 * time.Minute)
		w.within(10*time.Minute, func() bool { return f.Snapshot().Processed == 3*each+600+600+100 })
		main, retry := memory()
		mu.Lock()
		require.Zero(t, early)
		require.Less(t, late, 2*time.Second)
		mu.Unlock()
		require.LessOrEqual(t, main, int64(budget)+parts*f.main.Load())
		require.LessOrEqual(t, retry, int64(budget)+3*parts*f.retry.Load())
		t.Logf("most: main %d, retry %d", main, retry)
		for _, l := range append(m.Loads(), m.RetryLoads()...) {
			require.Zero(t, l.Records+l.Bytes+int64(l.Span), "%+v", l)
		}
		require.NoError(t, m.stop())
		requireIdentity(t, f.Snapshot())
	})
}

// A stage holds far more than fits into memory. It is not asked again and again
// while nothing is due, and all of it is handled in time.
func TestStagesWithFarMoreThanFits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		records, size int
		window        kstage.Window
		spread        time.Duration // between the due times of two records
	}{
		"many small":            {30_000, 10, kstage.Window{Records: 1000}, 0},
		"many small, spread":    {30_000, 10, kstage.Window{Records: 1000}, time.Millisecond},
		"few large":             {300, 200_000, kstage.Window{Bytes: 2_000_000}, 0},
		"few large, spread":     {300, 200_000, kstage.Window{Bytes: 2_000_000}, 100 * time.Millisecond},
		"slow, past the window": {5_000, 10, kstage.Window{Records: 100}, 100 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) { moreThanFits(w, c.records, c.size, c.window, c.spread) })
		})
	}
}

func moreThanFits(w *world, records, size int, window kstage.Window, spread time.Duration) {
	const delay = time.Hour
	t := w.t
	topic, opts := w.ladder(1)
	stages := w.stages(1, delay)
	began := time.Now()
	dueOf := func(i int64) time.Time { return began.Add(delay - 10*time.Minute + time.Duration(i)*spread) }
	value := noise(size)
	cl := w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(max(16_000, int32(size)+1000)), kgo.ProducerBatchCompression(kgo.NoCompression()))
	for i := range records {
		r := retryCopy("g-retry-1", 0, fmt.Sprint("k", i%100), dueOf(int64(i)))
		r.Value = value
		cl.Produce(t.Context(), r, nil)
		if i%1000 == 999 || i == records-1 {
			require.NoError(t, cl.Flush(t.Context()))
		}
	}
	var count fetchCount
	var f fetches
	var mu sync.Mutex
	late, early := time.Duration(0), 0
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		if msg.Stage() == 0 {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		d := time.Since(dueOf(msg.Record.Offset))
		if d < 0 {
			early++
		}
		late = max(late, d)
		return nil
	}, append(opts, stages, kstage.WithMetrics(&f), kstage.WithWindow(window), count.counting(w))...)
	w.eventually(func() bool { return slices.Contains(statsOrNone(m, "g-retry-1").Paused, "delay") })
	memory := watchMemory(m)
	after(10 * time.Second)
	require.LessOrEqual(t, count.during(10*time.Minute), int64(0), "nothing is due, and nothing else is open")
	s := statsOf(m, "g-retry-1", 0)
	require.WithinDuration(t, dueOf(0), s.NextDue, time.Millisecond)
	require.Positive(t, s.Waiting)
	require.LessOrEqual(t, int64(s.Waiting), int64(orMany(window.Records))+f.records.Load())
	require.EqualValues(t, records, s.Lag)
	w.fill(topic, 0, 100, 10)
	w.eventually(func() bool { return f.Snapshot().Processed == 100 })

	after(time.Until(dueOf(0)) - time.Second)
	w.within(time.Until(dueOf(int64(records)).Add(10*time.Second)), func() bool { return f.Snapshot().Processed == uint64(records)+100 })
	_, most := memory()
	mu.Lock()
	defer mu.Unlock()
	require.Zero(t, early)
	require.Less(t, late, 3*time.Second)
	bound := int64(8 << 20)
	if window.Bytes > 0 {
		bound = window.Bytes
	}
	require.LessOrEqual(t, most, bound+f.retry.Load())
	require.Less(t, f.retry.Load(), max(300_000, 2*int64(size)), "a fetch")
	t.Logf("late at most %v, held at most %d of %d bytes, %d fetches", late, most, records*size, count.n.Load())
	require.NoError(t, m.stop())
	requireIdentity(t, f.Snapshot())
}

func orMany(n int) int {
	if n == 0 {
		return 50_000
	}
	return n
}

// statsOrNone is statsOf, before the assignment, too.
func statsOrNone(m *member, topic string) kstage.PartitionStats {
	for _, s := range m.Stats().Partitions {
		if s.Topic == topic {
			return s
		}
	}
	return kstage.PartitionStats{}
}

// While some stages wait and others are empty, they are asked no more often than
// the broker may take to answer.
func TestStagesThatWaitAreNotPolledHot(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		_, opts := w.ladder(1)
		stages := w.stages(2, time.Minute, time.Hour)
		for p := range int32(2) {
			w.produce(retryCopy("g-retry-2", p, "k", time.Now().Add(time.Hour)))
		}
		w.produce(retryCopy("g-retry-1", 0, "k", time.Now().Add(time.Minute)))
		var count fetchCount
		m := w.start(handleNothing, append(opts, stages, count.counting(w))...)
		after(5 * time.Second)
		require.LessOrEqual(t, count.during(30*time.Second), int64(5*30), "of one partition that is empty")
		after(time.Minute)
		require.EqualValues(t, 1, m.counts.Snapshot().Processed)
		require.LessOrEqual(t, count.during(30*time.Second), int64(5*30), "of two")
		w.within(time.Hour, func() bool { return m.counts.Snapshot().Processed == 3 })
	})
}
