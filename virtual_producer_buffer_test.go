//go:build synctests

package kstage_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

func TestProducerFullBufferRefuses(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 1)
		lift := w.silence(topic)
		byRecords := w.producer(kstage.WithTopic(topic), kstage.WithBuffer(3, 1<<20), kstage.WithBufferFull(kstage.FailWhenFull))
		byBytes := w.producer(kstage.WithTopic(topic), kstage.WithBuffer(1000, 30), kstage.WithBufferFull(kstage.FailWhenFull), kstage.WithMessageIDs(nil))
		var open []<-chan error
		for range 3 {
			open = append(open, byRecords.publishAsync(text("k", "v")), byBytes.publishAsync(text("", "ten bytes.")))
		}
		err := byRecords.Publish(t.Context(), text("k", "v"))
		require.ErrorIs(t, err, kstage.ErrBufferFull)
		require.False(t, unconfirmed(err))
		require.ErrorIs(t, byBytes.Publish(t.Context(), text("", "1")), kstage.ErrBufferFull)
		lift()
		for _, c := range open {
			err := <-c
			require.NoError(t, err)
		}
		require.NoError(t, byRecords.Flush(t.Context()))
		require.NoError(t, byRecords.Publish(t.Context(), text("k", "v")))
		require.NoError(t, byBytes.Publish(t.Context(), text("", "ten bytes.")))
	})
}

func TestProducerFullBufferBlocks(t *testing.T) {
	t.Parallel()
	for name, buffer := range map[string]kstage.ProducerOption{
		"by records": kstage.WithBuffer(1, 1<<20), "by bytes": kstage.WithBuffer(1000, 10),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				t := w.t
				topic := w.topic("orders", 1)
				lift := w.silence(topic)
				p := w.producer(kstage.WithTopic(topic), buffer, kstage.WithMessageIDs(nil))
				ten := func() *kgo.Record { return text("", "ten bytes.") }
				first := p.publishAsync(ten())
				began := time.Now()
				limited, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				err := p.Publish(limited, ten())
				require.ErrorIs(t, err, kstage.ErrBufferFull)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.False(t, unconfirmed(err), "it was not sent")
				require.Equal(t, time.Second, time.Since(began))

				rs := []*kgo.Record{ten(), ten(), ten(), ten(), ten()}
				var wg sync.WaitGroup
				for _, r := range rs {
					wg.Go(func() { require.NoError(t, p.Publish(t.Context(), r)) })
					after(time.Second)
				}
				lift()
				require.NoError(t, <-first)
				wg.Wait()
				for i, r := range rs {
					require.EqualValues(t, 1+i, r.Offset, "who waits longest comes first")
				}
				require.Len(t, w.all(topic), 6)
				p.requireCounts(6, 1)
			})
		})
	}
}

// A partition that stands still takes most of the buffer: the others go on with the rest.
func TestProducerOtherPartitionsGoOnInAFullBuffer(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 2)
		p := w.producer(kstage.WithTopic(topic), kstage.WithPartitioner(kgo.ManualPartitioner()), kstage.WithBuffer(1000, 1<<20))
		to := func(partition int32) *kgo.Record { return &kgo.Record{Partition: partition, Value: []byte("v")} }
		require.NoError(t, p.PublishBatch(t.Context(), to(0), to(1)))
		w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Partitions: []int32{0}, Err: kerr.NotEnoughReplicas, Count: -1})
		for range 995 {
			p.publishAsync(to(0))
		}
		began := time.Now()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { require.NoError(t, p.Publish(t.Context(), to(1))) })
		}
		wg.Wait()
		require.Less(t, time.Since(began), 20*time.Second)
	})
}

// The wait for room is part of the delivery timeout, and Close ends it.
func TestProducerBlockedForLong(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 1)
		w.silence(topic)
		p := w.producer(kstage.WithTopic(topic), kstage.WithBuffer(1, 1<<20), kstage.WithDeliveryTimeout(10*time.Second))
		first := p.publishAsync(text("k", "v"))
		began := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			err := p.Publish(t.Context(), text("k", "v"))
			require.ErrorIs(t, err, kstage.ErrBufferFull)
			require.ErrorContains(t, err, "WithDeliveryTimeout")
			require.Equal(t, 10*time.Second, time.Since(began))
		})
		require.True(t, unconfirmed(<-first))
		wg.Wait()
		wg.Go(func() { _ = p.Publish(t.Context(), text("k", "v")) })
		after(time.Second)
		began = time.Now()
		wg.Go(func() {
			require.ErrorIs(t, p.Publish(t.Context(), text("k", "v")), kstage.ErrClosed)
			require.Equal(t, time.Second, time.Since(began))
		})
		after(time.Second)
		require.Error(t, p.end())
		wg.Wait()
	})
}
