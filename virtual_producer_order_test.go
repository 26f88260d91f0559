//go:build synctests

package kstage_test

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// Idempotence keeps the order of a key through retries, and writes nothing twice:
// with answers that are errors, and with answers that are lost.
func TestProducerOrderOfAKeyUnderRetriableErrors(t *testing.T) {
	t.Parallel()
	wired(t, nil, func(w *world, n *wires) {
		t := w.t
		topic := w.topic("orders", 3)
		p := w.producer(kstage.WithTopic(topic), kstage.WithBuffer(50, 1<<20), through(n), kstage.WithDeliveryTimeout(10*time.Minute))
		rnd := rand.New(rand.NewPCG(1, 2)) // on the cluster's goroutine
		faults := 0
		for _, err := range []*kerr.Error{kerr.NotEnoughReplicas, kerr.NotLeaderForPartition, kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend} {
			w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: err, Count: -1, When: func(kmsg.Request) bool {
				if rnd.IntN(10) > 0 {
					return false
				}
				faults++
				return true
			}})
		}
		var failed atomic.Int64
		for i := range 2000 {
			p.PublishAsync(t.Context(), text(fmt.Sprint("k", i%10), fmt.Sprint(i)), func(_ *kgo.Record, err error) {
				if err != nil {
					failed.Add(1)
				}
			})
			if i%50 == 0 {
				n.setCut(everything) // every connection ends, with what is on its way
				n.setCut(nil)
			}
		}
		require.NoError(t, p.Flush(t.Context()))
		require.Zero(t, failed.Load())
		require.Greater(t, faults, 5)
		requireInOrder(t, w, topic, 2000)
		require.NoError(t, p.Close(t.Context()))
	})
}

// requireInOrder checks that a topic holds the values 0 to n-1 once each, and those of a key in order.
func requireInOrder(t *testing.T, w *world, topic string, n int) {
	t.Helper()
	seen := 0
	for _, rs := range w.read(topic) {
		last := map[string]int{}
		for _, r := range rs {
			var i int
			_, err := fmt.Sscan(string(r.Value), &i)
			require.NoError(t, err)
			if before, ok := last[string(r.Key)]; ok {
				require.Equal(t, before+10, i, "key %s", r.Key)
			}
			last[string(r.Key)] = i
			seen++
		}
	}
	require.Equal(t, n, seen)
}

// What waits behind a record that is late fails with it: it would overtake it.
func TestProducerYoungerRecordsOfALatePartition(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic := w.topic("orders", 2)
		p := w.producer(kstage.WithTopic(topic), kstage.WithPartitioner(kgo.ManualPartitioner()))
		to := func(partition int32) *kgo.Record { return &kgo.Record{Partition: partition, Value: []byte("v")} }
		require.NoError(t, p.PublishBatch(t.Context(), to(0), to(1)))
		remove := w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Partitions: []int32{0}, Err: kerr.NotEnoughReplicas, Count: -1}).Remove
		began := time.Now()
		first := p.publishAsync(to(0))
		after(20 * time.Second)
		second := p.publishAsync(to(0))
		require.NoError(t, p.Publish(t.Context(), to(1)), "another partition")
		requireLate(t, began, <-first)
		err := <-second
		require.True(t, unconfirmed(err), "%v", err)
		require.ErrorContains(t, err, "an older record of its partition")
		require.Less(t, time.Since(began), 40*time.Second)
		remove()
		require.NoError(t, p.Publish(t.Context(), to(0)))
		require.Len(t, w.read(topic)[0], 2)
		p.requireCounts(4, 2)
	})
}
