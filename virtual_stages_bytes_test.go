//go:build synctests

package kstage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// difficultRecords are such as a copy could get wrong.
func difficultRecords() []*kgo.Record {
	return []*kgo.Record{
		{Key: nil, Value: nil},
		{Key: []byte{}, Value: []byte{}},
		{Key: []byte{0, 255}, Value: nil},
		{Key: nil, Value: []byte{0xff, 0xfe, 0}},
		{Key: []byte("headers"), Value: []byte("v"), Headers: []kgo.RecordHeader{
			{Key: "b", Value: []byte{0, 255, 254}},
			{Key: "a", Value: nil},
			{Key: "b", Value: []byte("again")},
			{Key: "", Value: []byte{}},
			{Key: "b", Value: []byte{0, 255, 254}},
			{Key: "KSTAGE-ID", Value: []byte("not ours")},
		}},
		{Key: []byte("id"), Value: []byte("v"), Headers: []kgo.RecordHeader{
			header("message-id", "first"), header("x", "y"), header("message-id", strings.Repeat("i", 512)),
		}},
		{Key: []byte("long id"), Value: []byte("v"), Headers: []kgo.RecordHeader{header("message-id", strings.Repeat("i", 513))}},
		{Key: []byte("forged"), Value: []byte("v"), Headers: []kgo.RecordHeader{
			header("kstage-id", "forged"), header("kstage-attempt", "77"), header("kstage-stage", "2"), header("kstage-due", "99999999999999"),
			header("kstage-group", "other"), header("kstage-origin-topic", "elsewhere"), header("kstage-id", "again"),
			header("kstage-not-before", "99999999999999"), header("kstage-first-failed-at", "1"), header("between", "them"),
			header("kstage-redrive-count", "3"), header("kstage-redrive-id", strings.Repeat("r", 600)),
		}},
		{Key: []byte("large"), Value: noise(1 << 20)},
	}
}

// Through each stage into the dead-letter topic a record stays what it is, byte for
// byte, and what is said of it is right at each step.
func TestStagesCopiesAreByteForByte(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		const group = "g"
		long := strings.Repeat(group, 512)
		size := []string{"max.message.bytes", "3000000", "retention.ms", "-1"}
		topic := w.topic("orders", 3, size...)
		for _, name := range []string{"s-1", "s-2", "s-3", "g-dlq"} {
			w.topic(name, 2, size...)
		}
		cl := w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(2_000_000))
		sent := difficultRecords()
		old := time.Date(2001, 2, 3, 4, 5, 6, 7e6, time.UTC)
		for _, r := range sent {
			r.Topic, r.Partition, r.Timestamp = topic, 2, old
			require.NoError(t, cl.ProduceSync(t.Context(), r).FirstErr())
		}
		text := strings.Repeat("é", 4000)
		ids := map[int64][]string{}
		delays := []time.Duration{time.Second, 5 * time.Second, 30 * time.Second}
		began := time.Now()
		m := w.start(func(_ context.Context, msg kstage.Message) error {
			o := msg.Origin()
			require.Equal(t, topic, o.Topic)
			require.True(t, old.Equal(o.Timestamp))
			require.Equal(t, len(ids[o.Offset])+1, msg.Attempt())
			require.Equal(t, len(ids[o.Offset]), msg.Stage())
			ids[o.Offset] = append(ids[o.Offset], msg.ID())
			return fmt.Errorf("%s: %w", text, errNotYet)
		}, kstage.WithTopics(topic), kstage.WithGroup(long), kstage.WithRetryTopicPrefix("s"), kstage.WithDLQTopic("g-dlq"),
			kstage.WithRetryStages(delays...), once(), kstage.WithWorkers(1))
		w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == uint64(len(sent)) })
		require.NoError(t, m.stop())
		m.assertIdentity()

		copyIDs := map[string]bool{}
		for hop, target := range []string{"s-1", "s-2", "s-3", "g-dlq"} {
			rs := w.read(target)
			require.Empty(t, rs[1])
			copies := rs[0] // the sources' partition 2, modulo 2
			require.Len(t, copies, len(sent))
			for i, c := range copies {
				want := sent[i]
				fs := requireCopyOf(t, want, c)
				require.Equal(t, ids[want.Offset], slices.Repeat([]string{fs["id"]}, 4), "one id everywhere")
				require.False(t, copyIDs[fs["copy-id"]], "a copy's id is its own")
				copyIDs[fs["copy-id"]] = true
				require.Equal(t, long, fs["group"])
				require.Equal(t, topic+"/2@"+fmt.Sprint(want.Offset), firstRead(c).String())
				require.Equal(t, fmt.Sprint(old.UnixMilli()), fs["origin-timestamp"])
				require.Equal(t, fmt.Sprint(hop+1), fs["attempt"])
				require.Equal(t, fmt.Sprint(min(hop+1, 3)), fs["stage"])
				written := timeIn(t, fs, "last-failed-at")
				require.WithinDuration(t, written, c.Timestamp, 50*time.Millisecond, "fresh, or retention takes it")
				require.WithinDuration(t, began, timeIn(t, fs, "first-failed-at"), 2*time.Second)
				require.True(t, strings.HasPrefix(fs["error"], "ééé") && len(fs["error"]) <= 1024)
				require.Equal(t, "*errors.errorString", fs["error-type"])
				if hop < 3 {
					require.Equal(t, written.Add(delays[hop]), timeIn(t, fs, "due"))
					require.NotContains(t, fs, "reason")
				} else {
					require.NotContains(t, fs, "due")
					require.Equal(t, "exhausted", fs["reason"])
				}
				require.NotContains(t, fs, "not-before")
				require.NotContains(t, fs, "value-omitted")
			}
		}
		id := func(i int) string { return ids[int64(i)][0] }
		require.Equal(t, strings.Repeat("i", 512), id(5))
		require.True(t, strings.HasPrefix(id(6), "sha256:"))
		require.NotContains(t, id(7), "forged")
		require.True(t, strings.HasSuffix(id(7), "/2/0/7"), id(7))
	})
}

func timeIn(t *testing.T, fs map[string]string, key string) time.Time {
	t.Helper()
	n, err := strconv.ParseInt(fs[key], 10, 64)
	require.NoError(t, err, key)
	return time.UnixMilli(n)
}

// requireCopyOf compares a copy with its source and returns our headers: each once,
// behind the others, and all together within their budget.
func requireCopyOf(t *testing.T, want, got *kgo.Record) map[string]string {
	t.Helper()
	require.Equal(t, want.Key == nil, got.Key == nil)
	require.Equal(t, want.Value == nil, got.Value == nil)
	require.True(t, bytes.Equal(want.Key, got.Key) && bytes.Equal(want.Value, got.Value))
	own := slices.DeleteFunc(slices.Clone(want.Headers), func(h kgo.RecordHeader) bool { return strings.HasPrefix(h.Key, "kstage-") })
	require.GreaterOrEqual(t, len(got.Headers), len(own))
	for i, h := range own {
		require.Equal(t, h.Key, got.Headers[i].Key)
		require.Equal(t, h.Value == nil, got.Headers[i].Value == nil)
		require.True(t, bytes.Equal(h.Value, got.Headers[i].Value))
	}
	size, seen := 0, map[string]bool{}
	for _, h := range got.Headers[len(own):] {
		require.True(t, strings.HasPrefix(h.Key, "kstage-"), h.Key)
		require.False(t, seen[h.Key], "%s is there twice", h.Key)
		seen[h.Key] = true
		size += len(h.Key) + len(h.Value)
	}
	require.LessOrEqual(t, size, kstage.HeaderBudget)
	return facts(got)
}

// What is too long for a header is cut, and what is not UTF-8 made so; the rest of
// the ladder takes that as it is.
func TestStagesCutWhatIsTooLong(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		w.produce(record(topic, 0, "k", "v"))
		m := w.start(func(context.Context, kstage.Message) error { return errors.New(strings.Repeat("\xff\xfea", 5000)) },
			append(opts, w.stages(1, time.Second, time.Second), once())...)
		w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 1 })
		require.NoError(t, m.stop())
		for _, target := range []string{"g-retry-1", "g-retry-2", "g-dlq"} {
			fs := facts(w.read(target)[0][0])
			require.LessOrEqual(t, len(fs["error"]), kstage.MaxErrorText)
			require.True(t, strings.HasSuffix(fs["error"], kstage.CutMark))
			require.Equal(t, strings.ToValidUTF8(fs["error"], ""), fs["error"])
		}
	})
}
