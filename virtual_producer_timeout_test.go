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

// The client fails all records of a partition when the context of the first one ends.
func TestProducerOneCallerOfAHundredCancels(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 1)
		p := w.producer(kstage.WithTopic(topic))
		require.NoError(t, p.Publish(t.Context(), text("warm", "up")))
		lift := w.failProduce(topic, kerr.NotEnoughReplicas)
		impatient, cancel := context.WithCancel(t.Context())
		errs := make([]error, 100)
		rs := make([]*kgo.Record, 100)
		var wg sync.WaitGroup
		for i := range 100 {
			ctx := t.Context()
			if i == 0 {
				ctx = impatient
			}
			rs[i] = text("k", fmt.Sprint(i))
			wg.Go(func() { errs[i] = p.Publish(ctx, rs[i]) })
			if i == 0 {
				after(10 * time.Millisecond) // it is the first of its batch
			}
		}
		after(time.Second)
		cancel()
		after(5 * time.Second)
		before := *rs[0]
		lift()
		wg.Wait()
		require.True(t, unconfirmed(errs[0]), "%v", errs[0])
		require.ErrorIs(t, errs[0], context.Canceled)
		require.ErrorContains(t, errs[0], `topic "orders", key "k", message-id "`)
		for i, err := range errs[1:] {
			require.NoError(t, err, i+1)
		}
		require.NoError(t, p.Flush(t.Context()))
		require.Equal(t, before, *rs[0], "nobody writes to a record whose caller has left")
		require.Len(t, w.all(topic), 101, "it was written all the same")
		p.requireCounts(101, 0)
	})
}

func TestProducerNeverAnswered(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 2)
		lift := w.silence(topic)
		p := w.producer(kstage.WithTopic(topic), kstage.WithBuffer(4, 1<<20), kstage.WithBufferFull(kstage.FailWhenFull))
		began := time.Now()
		a, b := p.publishAsync(text("a", "1")), p.publishAsync(text("b", "1"))

		limited, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err := p.Publish(limited, text("a", "2"))
		require.Equal(t, 5*time.Second, time.Since(began))
		require.True(t, unconfirmed(err))
		require.ErrorIs(t, err, context.DeadlineExceeded)

		limited, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var be *kstage.BatchError
		require.ErrorAs(t, p.PublishBatch(limited, text("a", "3"), text("a", "4")), &be)
		require.True(t, unconfirmed(be.Failed[0]))
		require.ErrorIs(t, be.Failed[1], kstage.ErrBufferFull)
		require.Equal(t, 6*time.Second, time.Since(began))

		requireLate(t, began, <-a)
		requireLate(t, began, <-b)
		after(10 * time.Second)
		p.requireCounts(0, 5)
		lift()
		require.NoError(t, p.Publish(t.Context(), text("a", "5")), "the room is free again")
		require.NoError(t, p.PublishBatch(t.Context(), text("b", "5"), text("a", "6"), text("a", "7"), text("b", "6")))
		require.Empty(t, p.Health().Reasons)
		require.NoError(t, p.Close(t.Context()))
	})
}

// The delivery timeout ends, whatever keeps the broker from answering.
func TestProducerDeliveryTimeoutEnds(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		opts  []kstage.ProducerOption
		warm  bool // the topic is known
		fault func(w *world, n *wires, topic string)
		is    error
	}{
		"silence, new":   {fault: func(w *world, _ *wires, topic string) { w.silence(topic) }},
		"silence, known": {fault: func(w *world, _ *wires, topic string) { w.silence(topic) }, warm: true},
		"silence to everything": {fault: func(w *world, _ *wires, _ string) {
			w.fake.Control(func(kmsg.Request) (kmsg.Response, error, bool) { w.fake.KeepControl(); return nil, nil, true })
		}},
		"silence, not idempotent": {fault: func(w *world, _ *wires, topic string) { w.silence(topic) }, warm: true, opts: []kstage.ProducerOption{kstage.WithAcks(kstage.AcksLeader)}},
		"unreachable, new":        {fault: func(_ *world, n *wires, _ string) { n.setCut(everything) }, is: errCut},
		"unreachable, known":      {fault: func(_ *world, n *wires, _ string) { n.setCut(everything) }, warm: true, is: errCut},
		"retriable errors":        {fault: func(w *world, _ *wires, topic string) { w.failProduce(topic, kerr.NotEnoughReplicas) }, warm: true},
		"no leader":               {fault: func(w *world, _ *wires, topic string) { w.failProduce(topic, kerr.NotLeaderForPartition) }, warm: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wired(t, nil, func(w *world, n *wires) {
				t := w.t
				topic := w.topic("orders", 1)
				p := w.producer(append(c.opts, kstage.WithTopic(topic), through(n), kstage.WithBuffer(1, 1000), kstage.WithBufferFull(kstage.FailWhenFull))...)
				if c.warm {
					require.NoError(t, p.Publish(t.Context(), text("k", "v")))
				}
				c.fault(w, n, topic)
				began := time.Now()
				err := p.Publish(t.Context(), text("k", "v"))
				requireLate(t, began, err)
				if c.is != nil {
					require.ErrorIs(t, err, c.is)
				}
				after(30 * time.Second)
				next := p.publishAsync(text("k", "v"))
				after(time.Second)
				select {
				case err := <-next:
					require.NotErrorIs(t, err, kstage.ErrBufferFull, "the client has let go of the first")
				default:
				}
				began = time.Now()
				var all interface{ Unwrap() []error }
				require.ErrorAs(t, p.end(), &all)
				require.Len(t, all.Unwrap(), 1)
				require.Less(t, time.Since(began), 3*time.Second)
			})
		})
	}
}

func TestProducerTimeoutAfterQuietTimes(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 1)
		p := w.producer(kstage.WithTopic(topic))
		for range 5 {
			require.NoError(t, p.Publish(t.Context(), text("k", "v")))
			after(10 * time.Minute)
		}
		w.silence(topic)
		for range 3 {
			began := time.Now()
			requireLate(t, began, p.Publish(t.Context(), text("k", "v")))
			after(10 * time.Minute)
		}
	})
}

// The client's own timeout counts from a record's timestamp, which is the caller's.
func TestProducerRecordsOfYesterdayAndTomorrow(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 1)
		p := w.producer(kstage.WithTopic(topic))
		dated := func(d time.Duration) *kgo.Record {
			r := text("k", d.String())
			r.Timestamp = time.Now().Add(d)
			return r
		}
		require.NoError(t, p.PublishBatch(t.Context(), dated(-24*time.Hour), dated(24*time.Hour), dated(-48*time.Hour)))
		lift := w.failProduce(topic, kerr.NotEnoughReplicas)
		old := p.publishAsync(dated(-24 * time.Hour))
		after(5 * time.Second)
		lift()
		require.NoError(t, <-old, "a retry")
		w.failProduce(topic, kerr.NotEnoughReplicas)
		began := time.Now()
		requireLate(t, began, p.Publish(t.Context(), dated(24*time.Hour)))
	})
}

func TestProducerRetries(t *testing.T) {
	t.Parallel()
	for retries := range 3 {
		virtual(t, func(w *world) {
			t := w.t
			topic := w.topic("orders", 1)
			p := w.producer(kstage.WithTopic(topic), kstage.WithRetries(retries))
			require.NoError(t, p.Publish(t.Context(), text("k", "v")))
			var sent atomic.Int64
			w.onProduce(topic, func() (bool, error) { sent.Add(1); return false, nil })
			w.failProduce(topic, kerr.NotEnoughReplicas)
			err := p.Publish(t.Context(), text("k", "v"))
			require.ErrorIs(t, err, kerr.NotEnoughReplicas)
			require.EqualValues(t, 1+retries, sent.Load())
		})
	}
	virtual(t, func(w *world) { // no answer at all
		t := w.t
		topic := w.topic("orders", 1)
		p := w.producer(kstage.WithTopic(topic), kstage.WithRetries(0))
		require.NoError(t, p.Publish(t.Context(), text("k", "v")))
		w.onProduce(topic, func() (bool, error) { return true, errors.New("closed") })
		err := p.Publish(t.Context(), text("k", "v"))
		require.True(t, unconfirmed(err), "%v", err)
		require.ErrorContains(t, err, "WithRetries(0)")
	})
}
