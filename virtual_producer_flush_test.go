//go:build synctests

package kstage_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

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
