package kstage_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/kstage/kstage"
)

// A kept record pins nothing of its batch: its copy is equal in every byte, nil
// stays nil, and the source may be overwritten.
func TestCopyRecordIsDeep(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		source := anyRecord(t)
		want := shallowClone(source)
		got := kstage.CopyRecord(source)
		require.Equal(t, want, got)

		scramble(source)
		require.Equal(t, want, got, "it shares memory with its source")
		require.Equal(t, kstage.RecordSize(want), kstage.RecordSize(got))
	})
}

// Header names, too, are part of the batch as the client gives them.
func TestCopyRecordCopiesHeaderNames(t *testing.T) {
	t.Parallel()
	batch := []byte("name")
	c := kstage.CopyRecord(&kgo.Record{Headers: []kgo.RecordHeader{{Key: unsafe.String(&batch[0], len(batch))}}})
	flip(batch)
	require.Equal(t, "name", c.Headers[0].Key)
}

// An append to one field of a copy must not run into the next.
func TestCopyRecordFieldsAreApart(t *testing.T) {
	t.Parallel()
	r := &kgo.Record{Key: []byte("k"), Value: []byte("v"), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("x")}}}
	c := kstage.CopyRecord(r)
	_ = append(c.Key, 'z')
	_ = append(c.Value, 'z')
	require.Equal(t, r, c)
}

func TestCopyRecordAllocatesLittle(t *testing.T) { //nolint:paralleltest // counts allocations
	r := &kgo.Record{Key: []byte("key"), Value: bytes.Repeat([]byte("v"), 1000)}
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() { kstage.CopyRecord(r) }), 2.0, "the record and its bytes")
}

func TestRecordSizeCountsAllBytes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		record *kgo.Record
		want   int64
	}{
		{&kgo.Record{}, 0},
		{&kgo.Record{Key: []byte{}, Value: []byte{}}, 0},
		{&kgo.Record{Key: []byte("ab"), Value: []byte("cde")}, 5},
		{&kgo.Record{Headers: []kgo.RecordHeader{{Key: "ab", Value: []byte("c")}, {Key: "d"}}}, 4},
	} {
		require.Equal(t, c.want, kstage.RecordSize(c.record))
	}
}

// A window that is drained between the look that finds it full and its pause is
// resumed all the same.
func TestWindowDrainedWhileItIsPausedIsResumed(t *testing.T) {
	t.Parallel()
	require.Zero(t, kstage.LostResumes(idle(t, kstage.WithWindow(kstage.Window{Records: 1})), unused(t), 20_000))
}

// The same for all of them when the budget is free again meanwhile.
func TestWindowsPausedByABudgetThatIsFreeAgainAreResumed(t *testing.T) {
	t.Parallel()
	require.True(t, kstage.DrainWhilePausing(idle(t, kstage.WithMemoryBudget(4)), unused(t)))
}

// idle is a Consumer that does not run.
func idle(t *testing.T, opts ...kstage.ConsumerOption) *kstage.Consumer {
	t.Helper()
	c, err := kstage.NewConsumer(kstage.HandlerFunc(func(context.Context, kstage.Message) error { return nil }), append(opts,
		kstage.WithBrokers("127.0.0.1:1"), kstage.WithGroup("g"), kstage.WithTopics("orders"))...)
	require.NoError(t, err)
	return c
}

// unused is a client that pauses and resumes, and never dials.
func unused(t *testing.T) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient()
	require.NoError(t, err)
	t.Cleanup(cl.Close)
	return cl
}

func anyRecord(t *rapid.T) *kgo.Record {
	some := rapid.OneOf(rapid.Just([]byte(nil)), rapid.Just([]byte{}), rapid.SliceOfN(rapid.Byte(), 1, 50))
	r := &kgo.Record{
		Key: some.Draw(t, "key"), Value: some.Draw(t, "value"),
		Topic: "orders", Partition: rapid.Int32().Draw(t, "partition"), Offset: rapid.Int64().Draw(t, "offset"),
		LeaderEpoch: rapid.Int32().Draw(t, "epoch"), ProducerID: rapid.Int64().Draw(t, "producer"),
		ProducerEpoch: rapid.Int16().Draw(t, "producer epoch"), Timestamp: time.UnixMilli(rapid.Int64Range(0, 1<<40).Draw(t, "at")),
		Context: t.Context(),
	}
	if n := rapid.IntRange(-1, 4).Draw(t, "headers"); n >= 0 {
		r.Headers = make([]kgo.RecordHeader, n)
		for i := range r.Headers {
			r.Headers[i] = kgo.RecordHeader{Key: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "name"), Value: some.Draw(t, "text")}
		}
	}
	return r
}

// shallowClone is equal to r and shares no slice that scramble writes to.
func shallowClone(r *kgo.Record) *kgo.Record {
	c := *r
	c.Key, c.Value = slices.Clone(r.Key), slices.Clone(r.Value)
	c.Headers = slices.Clone(r.Headers)
	for i := range c.Headers {
		c.Headers[i].Key = strings.Clone(r.Headers[i].Key)
		c.Headers[i].Value = slices.Clone(r.Headers[i].Value)
	}
	return &c
}

// scramble overwrites all memory of r.
func scramble(r *kgo.Record) {
	for _, b := range [][]byte{r.Key, r.Value} {
		flip(b)
	}
	for i := range r.Headers {
		flip(r.Headers[i].Value)
		r.Headers[i] = kgo.RecordHeader{Key: "other"}
	}
	*r = kgo.Record{}
}

func flip(b []byte) {
	for i := range b {
		b[i] ^= 0xff
	}
}

// decodeSmallWindows consumes 5,000 records of each partition with windows of 1,000
// and fetches of 100, each of which may be decoded so many times.
func decodeSmallWindows(w *world, parts int32, most int64) {
	const each = 5_000
	topic, opts := w.ladder(parts)
	for p := range parts {
		w.batches(topic, p, each/100, 100, "0123456789")
	}
	decoded := &decodes{}
	m := w.start(func(context.Context, kstage.Message) error { after(100 * time.Microsecond); return nil },
		append(opts, kstage.WithWindow(kstage.Window{Records: 1_000}), kstage.WithWorkers(8),
			kstage.WithFetch(kstage.Fetch{MaxPartitionBytes: 4_000}), kstage.WithClientOptions(decoded.on(w)))...)
	w.eventually(func() bool { return m.counts.Snapshot().Processed == uint64(parts)*each })
	require.NoError(w.t, m.stop())
	require.LessOrEqual(w.t, decoded.records.Load(), most*each)
}

// decodes counts the records the main client has decoded.
type decodes struct{ records atomic.Int64 }

func (d *decodes) OnFetchBatchRead(_ kgo.BrokerMetadata, _ string, _ int32, b kgo.FetchBatchMetrics) {
	d.records.Add(int64(b.NumRecords))
}

func (d *decodes) on(w *world) func(kstage.ClientRole) []kgo.Opt {
	return func(role kstage.ClientRole) []kgo.Opt {
		if role != kstage.RoleMain {
			return w.reach
		}
		return append([]kgo.Opt{kgo.WithHooks(d)}, w.reach...)
	}
}

// smallFetches makes a fetch bring one batch of each partition.
func smallFetches() kstage.ConsumerOption {
	return kstage.WithFetch(kstage.Fetch{MaxPartitionBytes: 1, MaxWait: 50 * time.Millisecond})
}

// batches produces n batches of a partition, each of size records and by itself.
func (w *world) batches(topic string, partition int32, n, size int, value string) {
	w.t.Helper()
	for i := range n {
		rs := make([]*kgo.Record, size)
		for j := range rs {
			rs[j] = record(topic, partition, fmt.Sprintf("k%d", i*size+j), value)
		}
		w.produce(rs...)
	}
}
