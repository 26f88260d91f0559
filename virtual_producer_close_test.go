//go:build synctests

package kstage_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

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
