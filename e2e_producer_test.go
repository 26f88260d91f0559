package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// The tests of this file cover each promise of a Producer once, on the embedded broker and
// on a real one.

func TestEndToEndProducerSaysWhereARecordIs(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]kstage.ProducerOption{
		"all":                 {kstage.WithAcks(kstage.AcksAll)},
		"all, not idempotent": {kstage.WithIdempotence(false)},
		"leader":              {kstage.WithAcks(kstage.AcksLeader)},
		"none":                {kstage.WithAcks(kstage.AcksNone)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			topic := w.topic("orders", 3)
			for i := range int32(3) { // a broker drops what comes before it is ready for a new topic: only acks tell
				w.produce(record(topic, i, "first", ""))
			}
			p := w.producer(append(opts, kstage.WithTopic(topic))...)
			rs := map[string]*kgo.Record{}
			for i := range 20 {
				r := text(fmt.Sprint("k", i), fmt.Sprint("v", i))
				r.Headers = []kgo.RecordHeader{{Key: "trace", Value: []byte("t")}}
				require.NoError(t, p.Publish(t.Context(), r))
				rs[string(r.Key)] = r
			}
			w.eventually(func() bool { return len(w.all(topic)) == 23 })
			for _, got := range w.all(topic) {
				r := rs[string(got.Key)]
				if r == nil {
					continue
				}
				require.Equal(t, r.Value, got.Value)
				require.Equal(t, r.Headers[0], got.Headers[0])
				require.Equal(t, "message-id", got.Headers[1].Key)
				require.Regexp(t, uuid7, string(got.Headers[1].Value))
				require.Equal(t, got.Partition, r.Partition)
				require.True(t, got.Timestamp.Equal(r.Timestamp), "%v %v", got.Timestamp, r.Timestamp)
				if name == "none" {
					require.EqualValues(t, -1, r.Offset)
				} else {
					require.Equal(t, got.Offset, r.Offset)
				}
			}
			require.NoError(t, p.Close(t.Context()))
			p.requireCounts(20, 0)
		})
	}
}

func TestEndToEndProducerBatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 2)
	p := w.producer(kstage.WithTopic(topic))
	rs := []*kgo.Record{text("a", "0"), text("b", "1"), text("a", "2"), {Topic: w.name("no-such-topic"), Key: []byte("c")}, text("a", "4")}
	began := time.Now()
	var be *kstage.BatchError
	require.ErrorAs(t, p.PublishBatch(t.Context(), rs...), &be)
	require.Less(t, time.Since(began), 15*time.Second)
	require.Len(t, be.Failed, 1)
	require.ErrorIs(t, be.Failed[3], kerr.UnknownTopicOrPartition)
	require.ErrorContains(t, be.Failed[3], "does not exist, or may not be seen: create it")
	require.Less(t, rs[0].Offset, rs[2].Offset)
	require.Less(t, rs[2].Offset, rs[4].Offset)
	got := w.read(topic)
	for _, i := range []int{0, 1, 2, 4} {
		require.Equal(t, rs[i].Value, got[rs[i].Partition][rs[i].Offset].Value)
	}
	p.requireCounts(4, 1)
}

// A topic that a broker does not know is an error within 15 s, again and again, until it is there.
func TestEndToEndProducerUnknownTopic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.producer(kstage.WithTopic(w.name("late")))
	for range 2 {
		began := time.Now()
		err := p.Publish(t.Context(), text("k", "v"))
		require.ErrorIs(t, err, kerr.UnknownTopicOrPartition)
		require.False(t, unconfirmed(err), "%v", err)
		require.Less(t, time.Since(began), 15*time.Second)
	}
	require.False(t, p.Health().Ready)
	w.topic("late", 1)
	w.eventually(func() bool { return p.Publish(t.Context(), text("k", "v")) == nil })
	require.True(t, p.Health().Ready)
}

func TestEndToEndProducerTooLarge(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.producer(kstage.WithTopic(w.topic("small", 1, "max.message.bytes", "2000")), kstage.WithCompression(kgo.NoCompression()))
	require.NoError(t, p.Publish(t.Context(), text("k", "v")))
	began := time.Now()
	err := p.Publish(t.Context(), &kgo.Record{Value: make([]byte, 3000)})
	require.ErrorIs(t, err, kerr.MessageTooLarge)
	require.False(t, unconfirmed(err), "%v", err)
	require.Less(t, time.Since(began), 5*time.Second, "at the first answer")
	require.NoError(t, p.Publish(t.Context(), text("k", "v")))
}

// Many goroutines, a buffer that is nearly always full, callers that lose patience, and Close
// in the middle of it: done hears of each record once, with the caller's own, and what was
// acknowledged is where it says.
func TestEndToEndProducerUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 3)
	p := w.producer(kstage.WithTopic(topic), kstage.WithBuffer(100, 1<<20))
	const goroutines, each = 8, 1500
	ends := &ends{of: map[*kgo.Record]error{}}
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for n := range each {
				r := text(fmt.Sprint("k", g), fmt.Sprintf("%d-%d", g, n))
				if g%2 == 0 {
					p.PublishAsync(t.Context(), r, ends.done(r))
					continue
				}
				ends.publish(p, r)
			}
		})
	}
	wg.Go(func() {
		for range 10 {
			require.NoError(t, p.Flush(t.Context()))
		}
	})
	w.eventually(func() bool { return ends.acked() > goroutines*each/2 })
	require.NoError(t, p.Close(t.Context()))
	wg.Wait()
	got := w.read(topic)
	require.Len(t, ends.of, goroutines*each)
	for r, err := range ends.of {
		switch {
		case err == nil:
			require.Equal(t, r.Value, got[r.Partition][r.Offset].Value)
		case !unconfirmed(err):
			require.True(t, errors.Is(err, kstage.ErrClosed) || errors.Is(err, context.DeadlineExceeded), "it was not accepted: %v", err)
		}
	}
}

// ends are what became of records.
type ends struct {
	mu sync.Mutex // guards of and ok
	of map[*kgo.Record]error
	ok int
}

func (e *ends) note(r *kgo.Record, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, again := e.of[r]; again {
		panic("told of twice: " + string(r.Value))
	}
	e.of[r] = err
	if err == nil {
		e.ok++
	}
}

// done is PublishAsync's for a record.
func (e *ends) done(r *kgo.Record) func(*kgo.Record, error) {
	return func(told *kgo.Record, err error) {
		if told != r {
			panic("told with another record")
		}
		e.note(r, err)
	}
}

// publish is a caller with little patience, now and then.
func (e *ends) publish(p *publisher, r *kgo.Record) {
	ctx := p.w.t.Context()
	if rand.IntN(10) == 0 {
		limited, cancel := context.WithTimeout(ctx, rand.N(time.Millisecond))
		defer cancel()
		ctx = limited
	}
	e.note(r, p.Publish(ctx, r))
}

func (e *ends) acked() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ok
}
