//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// Each record is acknowledged, or in an error that names it; what was acknowledged is
// in the topic. However the broker is when the producer is closed, and wherever records are.
func TestProducerCloseDuringLoad(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault func(w *world, topic string) (lift func())
		limit time.Duration // of Close
		lost  bool          // some may not be acknowledged
	}{
		"all is well":            {limit: time.Minute},
		"without patience":       {lost: true},
		"a silent broker":        {limit: 5 * time.Second, lost: true, fault: (*world).silence},
		"a broker that fails":    {limit: 5 * time.Second, lost: true, fault: func(w *world, topic string) func() { return w.failProduce(topic, kerr.NotEnoughReplicas) }},
		"an unreachable broker":  {limit: 5 * time.Second, lost: true, fault: closeEverything},
		"until the timeout ends": {limit: time.Hour, lost: true, fault: (*world).silence},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic := w.topic("orders", 3)
				p := w.producer(kstage.WithTopic(topic), kstage.WithBuffer(300, 1<<20), kstage.WithMessageIDs(nil))
				load := newLoad(p)
				load.start()
				after(20 * time.Millisecond)
				lift := func() {}
				if c.fault != nil {
					lift = c.fault(w, topic)
				}
				after(20 * time.Millisecond)
				ctx, cancel := context.WithTimeout(w.t.Context(), c.limit)
				defer cancel()
				began := time.Now()
				time.AfterFunc(20*time.Millisecond, func() { load.ended.Store(true) }) // some come while it is closed
				err := p.Close(ctx)
				require.LessOrEqual(w.t, time.Since(began), min(c.limit, 31*time.Second)+2*time.Second)
				load.stop()
				lift()
				load.check(err, c.lost)
			})
		})
	}
}

// closeEverything makes the broker close each connection that asks for something.
func closeEverything(w *world, _ string) (lift func()) {
	var closing atomic.Bool
	closing.Store(true)
	w.fake.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		return nil, errors.New("closed"), closing.Load()
	})
	return func() { closing.Store(false) }
}

// load publishes in every way and notes each record's end.
type load struct {
	p     *publisher
	wg    sync.WaitGroup
	ended atomic.Bool

	mu    sync.Mutex
	ends  map[string]error // by value
	given int
}

func newLoad(p *publisher) *load { return &load{p: p, ends: map[string]error{}} }

func (l *load) start() {
	for i := range 30 {
		l.wg.Go(func() {
			for n := 0; !l.ended.Load(); n++ {
				l.publish(i, n)
				after(time.Millisecond)
			}
		})
	}
}

func (l *load) publish(i, n int) {
	value := func(k int) string { return fmt.Sprintf("%d-%d-%d", i, n, k) }
	l.mu.Lock()
	l.given += 3
	l.mu.Unlock()
	switch i % 3 {
	case 0:
		for k := range 3 {
			l.note(value(k), l.p.Publish(l.p.w.t.Context(), text(value(k), value(k))))
		}
	case 1:
		for k := range 3 {
			l.p.PublishAsync(l.p.w.t.Context(), text(value(k), value(k)), func(r *kgo.Record, err error) { l.note(string(r.Value), err) })
		}
	case 2:
		err := l.p.PublishBatch(l.p.w.t.Context(), text(value(0), value(0)), text(value(1), value(1)), text(value(2), value(2)))
		var be *kstage.BatchError
		_ = errors.As(err, &be)
		for k := range 3 {
			if be != nil {
				err = be.Failed[k]
			}
			l.note(value(k), err)
		}
	}
}

func (l *load) note(value string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, again := l.ends[value]; again {
		panic(value + " was told of twice")
	}
	l.ends[value] = err
}

func (l *load) stop() {
	l.ended.Store(true)
	l.wg.Wait()
}

func (l *load) check(closed error, mayLose bool) {
	t := l.p.w.t
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Len(t, l.ends, l.given, "each record is told of")
	written := map[string]int{}
	for _, r := range l.p.w.all("orders") {
		written[string(r.Value)]++
	}
	var acked, failed, givenUp int
	for value, err := range l.ends {
		switch {
		case err == nil:
			acked++
			require.Equal(t, 1, written[value], value)
		case unconfirmed(err):
			failed++
			require.ErrorContains(t, err, value, "it names its record")
			if errors.Is(err, kstage.ErrClosed) {
				givenUp++
				require.ErrorContains(t, err, fmt.Sprintf("key %q", value))
			}
		default:
			failed++
			require.ErrorIs(t, err, kstage.ErrClosed)
			require.Zero(t, written[value], "it was not accepted: %v", err)
		}
	}
	require.Greater(t, acked, 100)
	require.True(t, mayLose || givenUp == 0)
	var all interface{ Unwrap() []error }
	if errors.As(closed, &all) {
		require.Len(t, all.Unwrap(), givenUp)
		require.ErrorContains(t, closed, fmt.Sprintf("closed with %d records", givenUp))
	} else {
		require.NoError(t, closed)
		require.Zero(t, givenUp)
	}
	l.p.requireCounts(acked, failed)
	t.Logf("%d acknowledged, %d failed, of them %d given up by Close", acked, failed, givenUp)
}

// A record whose caller has left is still counted, logged and named by Close.
func TestProducerCloseNamesWhatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 1)
		w.silence(topic)
		p := w.producer(kstage.WithTopic(topic))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.True(t, unconfirmed(p.Publish(ctx, text("left-alone", "v"))))
		p.PublishAsync(t.Context(), text("nobody-asks", "v"), nil)
		p.requireCounts(0, 0)
		err := p.end()
		require.ErrorIs(t, err, kstage.ErrClosed)
		require.ErrorContains(t, err, "left-alone")
		require.ErrorContains(t, err, "nobody-asks")
		p.requireCounts(0, 2)
		require.Equal(t, 2, w.logs.FilterMessage("record not published").Len())
	})
}

// The client alone would wait a second to say farewell.
func TestProducerCloseEndsWithItsContextAfterALongLife(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		p := w.producer(kstage.WithTopic(w.topic("orders", 1)))
		for range 2 {
			require.NoError(t, p.Publish(t.Context(), text("k", "v")))
			after(10 * time.Minute)
		}
		w.fake.Control(func(kmsg.Request) (kmsg.Response, error, bool) { w.fake.KeepControl(); return nil, nil, true })
		began := time.Now()
		require.NoError(t, p.end())
		require.Less(t, time.Since(began), 100*time.Millisecond)
	})
}

// slowHook takes its time before the client gets a record.
type slowHook struct{}

// OnProduceRecordBuffered implements kgo.HookProduceRecordBuffered.
func (slowHook) OnProduceRecordBuffered(*kgo.Record) { after(10 * time.Second) }

// The client answers it although it is closed by then, and Close waits for that.
func TestProducerCloseWhileTheClientIsGivenARecord(t *testing.T) {
	t.Parallel()
	wired(t, nil, func(w *world, n *wires) {
		t := w.t
		topic := w.topic("orders", 1)
		for range 3 {
			p := w.producer(kstage.WithTopic(topic), through(n, kgo.WithHooks(slowHook{})))
			require.NoError(t, p.Publish(t.Context(), text("k", "v")))
			var answer <-chan error
			var wg sync.WaitGroup
			wg.Go(func() { answer = p.publishAsync(text("k", "v")) })
			after(time.Second)
			began := time.Now()
			require.ErrorIs(t, p.end(), kstage.ErrClosed)
			require.Equal(t, 9*time.Second, time.Since(began).Truncate(time.Second))
			wg.Wait()
			require.True(t, unconfirmed(<-answer))
		}
	})
}

func TestCloseErrorIsShort(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic := w.topic("orders", 1)
		w.silence(topic)
		p := w.producer(kstage.WithTopic(topic))
		for range 30 {
			p.publishAsync(text("k", "v"))
		}
		require.ErrorContains(w.t, p.end(), "\n  and 20 more")
	})
}

// Flush waits for what was accepted before it, not for what comes after.
func TestProducerFlushWhileOthersPublish(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 2)
		p := w.producer(kstage.WithTopic(topic), kstage.WithPartitioner(kgo.ManualPartitioner()))
		var stop atomic.Bool
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				for !stop.Load() {
					require.NoError(t, p.Publish(t.Context(), text("k", "v")))
				}
			})
		}
		var told atomic.Int64
		for i := range 50 {
			n := told.Load()
			p.PublishAsync(t.Context(), text("k", fmt.Sprint(i)), func(*kgo.Record, error) { told.Add(1) })
			require.NoError(t, p.Flush(t.Context()))
			require.Equal(t, n+1, told.Load())
		}
		stop.Store(true)
		wg.Wait()
		w.silence(topic)
		late := p.publishAsync(text("k", "v"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, p.Flush(ctx), context.DeadlineExceeded)
		began := time.Now()
		require.NoError(t, p.Flush(t.Context()), "what has failed is told of, too")
		require.Less(t, time.Since(began), 31*time.Second)
		require.Error(t, <-late)
	})
}

func TestProducerFlushWaitsForDone(t *testing.T) {
	t.Parallel()
	for _, takes := range []time.Duration{time.Second, 40 * time.Second} { // more than the delivery timeout
		virtual(t, func(w *world) {
			t := w.t
			p := w.producer(kstage.WithTopic(w.topic("orders", 1)))
			var told atomic.Bool
			p.PublishAsync(t.Context(), text("k", "v"), func(_ *kgo.Record, err error) {
				after(takes) // which it should not
				told.Store(err == nil)
			})
			after(takes - 500*time.Millisecond)
			require.NoError(t, p.Flush(t.Context()))
			require.True(t, told.Load())
		})
	}
}

func TestProducerCloseWaitsForDone(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		p := w.producer(kstage.WithTopic(w.topic("orders", 1)))
		var told atomic.Bool
		p.PublishAsync(t.Context(), text("k", "v"), func(_ *kgo.Record, err error) {
			after(time.Second)
			told.Store(err == nil)
		})
		after(500 * time.Millisecond)
		require.NoError(t, p.end(), "it was answered")
		require.True(t, told.Load())
	})
}

func TestProducerFlushEndsLinger(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 1)
		p := w.producer(kstage.WithTopic(topic), kstage.WithLinger(20*time.Second))
		require.NoError(t, p.Publish(t.Context(), text("k", "v")))
		began := time.Now()
		answer := p.publishAsync(text("k", "v"))
		after(time.Second)
		require.NoError(t, p.Flush(t.Context()))
		require.NoError(t, <-answer)
		require.Less(t, time.Since(began), 2*time.Second)
		answer = p.publishAsync(text("k", "v"))
		began = time.Now()
		require.NoError(t, p.Close(t.Context()))
		require.NoError(t, <-answer)
		require.Less(t, time.Since(began), 3*time.Second)
	})
}

// Health follows the connection; a producer whose broker is away loses nothing within the timeout.
func TestProducerHealthFollowsTheBroker(t *testing.T) {
	t.Parallel()
	wired(t, nil, func(w *world, n *wires) {
		t := w.t
		topic := w.topic("orders", 1)
		n.setCut(everything)
		var told watched
		p := w.producer(kstage.WithTopic(topic), through(n), kstage.WithMetrics(&told), kstage.WithDeliveryTimeout(2*time.Minute))
		require.Equal(t, []kstage.ReasonKind{kstage.HealthDisconnected}, kindsOf(p.Health()))
		require.False(t, p.Health().Ready)
		early := p.publishAsync(text("k", "1"))
		after(time.Minute)
		r, _ := p.reason(kstage.HealthDisconnected)
		require.ErrorIs(t, r.Err, errCut)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		require.ErrorIs(t, p.HealthCheck(ctx), errCut)
		n.setCut(nil)
		require.NoError(t, <-early)
		require.NoError(t, p.HealthCheck(t.Context()))
		require.Empty(t, p.Health().Reasons)
		require.True(t, p.Health().Ready)

		after(time.Minute)
		n.setCut(everything)
		mid := p.publishAsync(text("k", "2"))
		after(time.Minute)
		require.Equal(t, []kstage.ReasonKind{kstage.HealthDisconnected}, kindsOf(p.Health()))
		n.setCut(nil)
		require.NoError(t, <-mid)
		require.Empty(t, p.Health().Reasons)
		require.NoError(t, p.Close(t.Context()))
		require.Equal(t, []kstage.ReasonKind{kstage.HealthDraining}, kindsOf(p.Health()))
		require.Equal(t, []string{"no broker answers, trying on", "disconnected: no broker can be reached"}, w.warnings())
		require.Equal(t, 1, w.logs.FilterMessage("a broker answers").Len())
		require.Equal(t, 1, w.logs.FilterMessage("connected again").Len())
		require.False(t, slices.Contains(told.all(), "-draining"))
	})
}

// HealthCheck ends with its context, whatever the client does.
func TestProducerHealthCheckEnds(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		w.fake.Control(func(kmsg.Request) (kmsg.Response, error, bool) { w.fake.KeepControl(); return nil, nil, true })
		p := w.producer()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		require.ErrorIs(t, p.HealthCheck(ctx), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		began = time.Now()
		require.NoError(t, p.end())
		require.Less(t, time.Since(began), 2*time.Second)
	})
}
