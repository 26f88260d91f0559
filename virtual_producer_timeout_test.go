//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
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

// through makes producers use the wires. What is cut looks as the operating system says it.
func through(n *wires, more ...kgo.Opt) kstage.ProducerOption {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := n.dial(ctx, network, addr)
		if err != nil {
			err = &net.OpError{Op: "dial", Net: network, Err: err}
		}
		return c, err
	}
	return kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt { return append([]kgo.Opt{kgo.Dialer(dial)}, more...) })
}

// failProduce answers what is written to a topic with an error, until it is lifted.
func (w *world) failProduce(topic string, err *kerr.Error) (lift func()) {
	return w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: err, Count: -1}).Remove
}

// requireLate checks that a delivery timeout of 30 s has ended a record.
func requireLate(t *testing.T, began time.Time, err error) {
	t.Helper()
	require.True(t, unconfirmed(err), "%v", err)
	require.ErrorIs(t, err, kgo.ErrRecordTimeout)
	require.ErrorContains(t, err, "WithDeliveryTimeout")
	took := time.Since(began)
	require.GreaterOrEqual(t, took, 30*time.Second)
	require.LessOrEqual(t, took, 30*time.Second+600*time.Millisecond)
}

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
