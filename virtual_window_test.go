//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

var errNotNow = errors.New("not now")

// tally counts as Counters does and remembers the largest fetch.
type tally struct {
	kstage.Counters
	records, bytes atomic.Int64 // of the largest fetch of one partition
}

func (c *tally) Received(e kstage.ReceivedEvent) {
	c.records.Store(max(c.records.Load(), int64(e.Records)))
	c.bytes.Store(max(c.bytes.Load(), e.Bytes))
	c.Counters.Received(e)
}

// sampled samples what the windows of m hold, each step, until the returned
// function is called.
func sampled(m *member, step time.Duration, look func([]kstage.Load)) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(step)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				look(m.Loads())
			}
		}
	}()
	return sync.OnceFunc(func() { close(done); <-ended })
}

// Bounds hold in any state: what a window holds, copies of waiting records not
// counted, is at most its bound and one fetch. A record that waits is kept once
// more, in its batch, until the batch is drained, hence twice with copies. All is given back in the end.
func TestVirtualBounds(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) { boundsHold(w, rand.New(rand.NewPCG(seed, 7))) })
		})
	}
}

func boundsHold(w *world, r *rand.Rand) {
	t, parts, each := w.t, 1+r.Int32N(4), 100+r.IntN(150)
	topic, opts := w.ladder(parts)
	for p := range parts {
		for left := each; left > 0; {
			n := min(left, 1+r.IntN(40))
			w.batches(topic, p, 1, n, fmt.Sprintf("%0*d", 1+r.IntN(60), 0))
			left -= n
		}
	}
	bound := kstage.Window{Records: 1 + r.IntN(120), Bytes: 1 + r.Int64N(6_000), Span: 1 + r.IntN(200)}
	budget := 1 + r.Int64N(12_000)
	failing, slow, stuck := r.IntN(4) == 0, r.IntN(2) == 0, r.IntN(2) == 0
	var c tally
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		at := msg.Record.Offset
		switch {
		case stuck && at%61 == 0:
			after(400 * time.Millisecond)
		case slow:
			after(time.Duration(at%5) * time.Millisecond)
		}
		if (failing || at%23 == 0) && msg.Attempt() < 3 {
			return errNotNow
		}
		return nil
	}, append(opts, kstage.WithMetrics(&c), kstage.WithWindow(bound), kstage.WithMemoryBudget(budget), smallFetches(),
		kstage.WithWorkers(1+r.IntN(12)), kstage.WithOrdering(kstage.Ordering(r.IntN(3))))...)

	var most, total kstage.Load
	inFlight := 0
	stop := sampled(m, time.Millisecond, func(ls []kstage.Load) {
		sum := int64(0)
		for _, l := range ls {
			require.True(t, l.Records >= 0 && l.Bytes >= 0 && l.Span >= 0, "%+v", l)
			most = kstage.Load{Records: max(most.Records, l.Records), Bytes: max(most.Bytes, l.Bytes), Span: max(most.Span, l.Span)}
			sum += l.Bytes
		}
		total.Bytes = max(total.Bytes, sum)
		for _, s := range m.Stats().Partitions {
			inFlight = max(inFlight, s.InFlight)
		}
	})
	want := uint64(int(parts) * each)
	w.eventually(func() bool { return c.Snapshot().Processed == want })
	stop()
	for _, l := range m.Loads() {
		require.Zero(t, l.Records+l.Bytes+int64(l.Span), "%+v", l)
	}
	require.NotEqual(t, -1, m.Pressed())
	require.NoError(t, m.stop())
	require.Equal(t, want, c.Snapshot().Received, "each record is received once")

	records, bytes := int64(bound.Records)+c.records.Load(), bound.Bytes+c.bytes.Load()
	require.LessOrEqual(t, int64(inFlight), records)
	require.LessOrEqual(t, most.Records, 2*records)
	require.LessOrEqual(t, most.Bytes, 2*bytes)
	require.LessOrEqual(t, int64(most.Span), int64(bound.Span)+c.records.Load()+63) // counted from a word of 64
	require.LessOrEqual(t, total.Bytes, 2*(budget+int64(parts)*c.bytes.Load()))
}

// Without a record that waits there are no copies, and the bounds hold exactly.
func TestVirtualBoundsWithoutCopies(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(3)
		for p := range int32(3) {
			w.batches(topic, p, 40, 10, "0123456789")
		}
		var c tally
		m := w.start(func(context.Context, kstage.Message) error { after(time.Millisecond); return nil },
			append(opts, kstage.WithMetrics(&c), kstage.WithWindow(kstage.Window{Records: 50, Bytes: 2_000}), kstage.WithMemoryBudget(1_500), smallFetches())...)
		var most kstage.Load
		total := int64(0)
		stop := sampled(m, 100*time.Microsecond, func(ls []kstage.Load) {
			sum := int64(0)
			for _, l := range ls {
				most.Records, most.Bytes, sum = max(most.Records, l.Records), max(most.Bytes, l.Bytes), sum+l.Bytes
			}
			total = max(total, sum)
		})
		w.eventually(func() bool { return c.Snapshot().Processed == 1200 })
		stop()
		require.LessOrEqual(t, most.Records, 50+c.records.Load())
		require.LessOrEqual(t, most.Bytes, 2_000+c.bytes.Load())
		require.LessOrEqual(t, total, 1_500+3*c.bytes.Load())
		require.Greater(t, total, 1_500-c.bytes.Load(), "the budget is used")
	})
}

// A full window is not fetched any more, and is again when it is half empty, not sooner.
func TestVirtualBackpressureResumesAtHalf(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.batches(topic, 0, 30, 10, "v")
		release := make(chan struct{}, 1000)
		m := w.start(func(context.Context, kstage.Message) error { <-release; return nil },
			append(opts, kstage.WithWindow(kstage.Window{Records: 100}), smallFetches(), kstage.WithWorkers(1))...)
		w.t.Cleanup(func() { close(release) })
		holds := func() int64 { return m.Loads()[0].Records }
		let := func(n int) {
			for range n {
				release <- struct{}{}
			}
			after(time.Second)
		}
		w.eventually(func() bool { return len(m.Loads()) == 1 && holds() >= 100 })
		after(time.Second)
		full := holds()
		require.LessOrEqual(t, full, int64(110))
		require.Equal(t, []string{"backpressure"}, m.Stats().Partitions[0].Paused)
		require.Equal(t, 1, m.Pressed())

		let(int(full) - 60)
		require.EqualValues(t, 60, holds(), "more than half is left: nothing is fetched")
		require.Equal(t, []string{"backpressure"}, m.Stats().Partitions[0].Paused)
		let(10)
		require.GreaterOrEqual(t, holds(), int64(100), "half is left: it is filled again")
	})
}

// A record whose handler hangs, and one that waits for its next attempt, stop
// their key and nothing else.
func TestVirtualStuckKeyStopsNoOther(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.fill(topic, 0, 500, 10)
		var j journal
		release, good := make(chan struct{}), atomic.Bool{}
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			switch j.note(msg); {
			case string(msg.Key()) == "k3":
				<-release
			case string(msg.Key()) == "k7" && !good.Load():
				return errNotNow
			}
			return nil
		}, append(opts, kstage.WithWorkers(4), kstage.WithImmediateRetries(1000, kstage.Backoff{Min: time.Minute, Max: time.Minute}))...)
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 400 })
		after(3 * time.Minute)
		offsets := map[string]map[int64]bool{"k3": {}, "k7": {}}
		for _, d := range j.all() {
			if os := offsets[d.Key]; os != nil {
				os[d.Offset] = true
			}
		}
		require.Equal(t, map[string]map[int64]bool{"k3": {3: true}, "k7": {7: true}}, offsets)
		require.EqualValues(t, 3, w.groupOffset(topic, 0))
		good.Store(true)
		close(release)
		w.eventually(func() bool { return m.counts.Snapshot().Processed == 500 })
	})
}

// A 0.9 ms handler at 2,000 records a second in one partition, which one worker
// could not follow, keeps up with 64.
func TestVirtualSlowHandlerKeepsUp(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		const n = 4_000
		topic, opts := w.ladder(1)
		var handled atomic.Int64
		w.start(func(context.Context, kstage.Message) error {
			after(900 * time.Microsecond)
			handled.Add(1)
			return nil
		}, append(opts, kstage.WithWorkers(64))...)
		tick := time.NewTicker(500 * time.Microsecond)
		defer tick.Stop()
		var acked, worst int64
		var mu sync.Mutex
		for i := range n {
			<-tick.C
			w.cl.Produce(w.t.Context(), record(topic, 0, fmt.Sprintf("k%d", i%500), "v"), func(_ *kgo.Record, err error) {
				mu.Lock()
				defer mu.Unlock()
				acked++
			})
			mu.Lock()
			if i > n/4 { // joined by then
				worst = max(worst, acked-handled.Load())
			}
			mu.Unlock()
		}
		require.Less(t, worst, int64(100))
		w.eventually(func() bool { return handled.Load() == n })
	})
}

// What is handled one after the other, and in offset order, is as WithOrdering says.
func TestVirtualOrdering(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ordering kstage.Ordering
		row      func(r *kgo.Record) (string, bool) // what may not overlap; false: nothing
	}{
		{kstage.ByKey, func(r *kgo.Record) (string, bool) { return fmt.Sprint(r.Partition, string(r.Key)), r.Key != nil }},
		{kstage.ByPartition, func(r *kgo.Record) (string, bool) { return fmt.Sprint(r.Partition), true }},
		{kstage.Unordered, func(*kgo.Record) (string, bool) { return "", false }},
	} {
		t.Run(fmt.Sprint(c.ordering), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) { inOrder(w, c.ordering, c.row) })
		})
	}
}

func inOrder(w *world, ordering kstage.Ordering, rowOf func(*kgo.Record) (string, bool)) {
	const workers, each = 8, 400
	topic, opts := w.ladder(2)
	for p := range int32(2) {
		rs := make([]*kgo.Record, each)
		for i := range rs {
			rs[i] = &kgo.Record{Topic: topic, Partition: p, Key: [][]byte{nil, {}, []byte("a"), []byte("b")}[i%4]}
		}
		w.produce(rs...)
	}
	var mu sync.Mutex
	wrong, mostAtOnce, atOnce := false, 0, 0
	running, last, together := map[string]bool{}, map[string]int64{}, map[string]int{} // "x+": of class x now, "x": at most
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		row, ordered := rowOf(msg.Record)
		class := string(msg.Key())
		if msg.Key() == nil {
			class = "nil"
		}
		mu.Lock()
		if ordered {
			before, some := last[row]
			wrong = wrong || running[row] || some && msg.Record.Offset <= before
			running[row], last[row] = true, msg.Record.Offset
		}
		atOnce++
		mostAtOnce = max(mostAtOnce, atOnce)
		together[class+"+"]++
		together[class] = max(together[class], together[class+"+"])
		mu.Unlock()
		after(time.Duration(1+msg.Record.Offset%3) * time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		running[row] = false
		together[class+"+"]--
		atOnce--
		return nil
	}, append(opts, kstage.WithOrdering(ordering), kstage.WithWorkers(workers))...)
	w.eventually(func() bool { return m.counts.Snapshot().Processed == 2*each })
	mu.Lock()
	defer mu.Unlock()
	require.False(w.t, wrong, "two overlap, or are in the wrong order")
	switch ordering {
	case kstage.ByKey:
		require.Equal(w.t, 2, together[""], "an empty key is a key: one of each partition")
		require.Greater(w.t, together["nil"], 2, "records with a nil key have no order")
		require.LessOrEqual(w.t, mostAtOnce, workers)
	case kstage.ByPartition:
		require.Equal(w.t, 2, mostAtOnce)
	case kstage.Unordered:
		require.Equal(w.t, workers, mostAtOnce)
	}
}
