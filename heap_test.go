//go:build !race

package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// A record that stays unfinished keeps its own copy and nothing of the batch it
// came in, and what is finished behind it leaves a bit: a million records behind
// a thousand that are stuck, one in each batch, stay within the formula.
func TestHeapWithOneStuckRecordPerBatch(t *testing.T) { //nolint:paralleltest // measures the heap
	const batches, each, valueSize = 1_000, 1_000, 100
	w := newFakeWorld(t, nil)
	topic, opts := w.ladder(1)
	fillCompressed(w, topic, batches, each, valueSize)

	before := heapInUse()
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		if msg.Key() != nil {
			return errors.New("never")
		}
		return nil
	}, append(opts, kstage.WithoutDLQ(kstage.Block), kstage.WithImmediateRetries(0, kstage.Backoff{}), kstage.WithLogger(nil),
		kstage.WithWindow(kstage.Window{Span: 2 * batches * each}))...)
	w.eventually(func() bool { return m.counts.Snapshot().Processed == batches*(each-1) })
	w.eventually(func() bool { return m.Loads()[0].Records == batches }) // the copies
	grown := int64(heapInUse()) - int64(before)

	const (
		copies  = batches * (valueSize + 1_000)       // the record, what is known of it, its lane and timer
		tracked = batches*each/8*2 + batches*each/100 // two bits a record, and what is left of a batch
		fetched = 1 << 20                             // the last one, as the embedded broker and the client keep it
	)
	t.Logf("%d bytes for %d records of %d bytes", grown, batches*each, valueSize)
	require.Less(t, grown, int64(2*(copies+tracked+fetched)))
	require.EqualValues(t, batches*(valueSize+len("stuck-0000")), m.Loads()[0].Bytes)
	require.NoError(t, m.stop())
}

// fillCompressed writes batches of each records, the middle one of which has a key.
func fillCompressed(w *world, topic string, batches, each, valueSize int) {
	w.t.Helper()
	cl := w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.Lz4Compression()), kgo.ProducerLinger(0))
	value := strings.Repeat("v", valueSize)
	for b := range batches {
		rs := make([]*kgo.Record, each)
		for i := range rs {
			rs[i] = &kgo.Record{Topic: topic, Value: []byte(value)}
		}
		rs[each/2].Key = fmt.Appendf(nil, "stuck-%04d", b) // a key of its own: what queues behind a key is in its batch, and keeps it
		require.NoError(w.t, cl.ProduceSync(w.t.Context(), rs...).FirstErr())
	}
	cl.Close()
}

// heapInUse is what is reachable now.
func heapInUse() uint64 {
	var s runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	debug.FreeOSMemory()
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}
