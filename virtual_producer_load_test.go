//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"fmt"
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
