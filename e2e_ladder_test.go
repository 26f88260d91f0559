package kstage_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// The tests of this file take a short ladder through real time, on the embedded
// broker and on a real one.

var shortLadder = []time.Duration{200 * time.Millisecond, 500 * time.Millisecond}

// endings notes how each record of a ladder ended, by where it was first read.
type endings struct {
	mu    sync.Mutex
	calls map[kstage.Coordinates]int
	ended map[kstage.Coordinates]int
	early []string
	last  map[kstage.Coordinates]time.Time // failure
}

func newEndings() *endings {
	return &endings{calls: map[kstage.Coordinates]int{}, ended: map[kstage.Coordinates]int{}, last: map[kstage.Coordinates]time.Time{}}
}

// handle does with a record what its origin's offset says.
func (e *endings) handle(_ context.Context, msg kstage.Message) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	co := originOf(msg)
	e.calls[co]++
	now := time.Now()
	// due times are told in milliseconds
	if last, ok := e.last[co]; ok && msg.Stage() > 0 && now.Sub(last) < shortLadder[msg.Stage()-1]-time.Millisecond {
		e.early = append(e.early, fmt.Sprintf("%v: stage %d after %v", co, msg.Stage(), now.Sub(last)))
	}
	e.last[co] = now
	switch first := msg.Attempt() == 1; co.Offset % 10 {
	case 0:
		return kstage.Permanent(errTest)
	case 1, 2: // succeeds in the first stage
		if msg.Stage() < 1 {
			return errTest
		}
	case 3: // in the second
		if msg.Stage() < 2 {
			return errTest
		}
	case 4: // never
		return errTest
	case 5:
		if first {
			return kstage.RetryAfter(errTest, 300*time.Millisecond) // the second stage
		}
	case 6:
		if e.calls[co] == 1 {
			return kstage.Snooze(100 * time.Millisecond)
		}
	case 7:
		return kstage.Skip(errTest)
	case 8:
		if first {
			panic("test panic")
		}
	}
	e.ended[co]++
	return nil
}

// sums adds the counts of members.
func sums(ms ...*member) (s kstage.CounterSnapshot) {
	for _, m := range ms {
		c := m.counts.Snapshot()
		s.Received += c.Received
		s.Processed += c.Processed
		s.Retried += c.Retried
		s.SentToDLQ += c.SentToDLQ
		s.Skipped += c.Skipped
		s.Released += c.Released
		s.Stale += c.Stale
	}
	return s
}

// Each record ends once, in one of many ways, through two stages.
func TestEndToEndLadderEachRecordEndsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(2)
	opts = append(opts, w.stages(2, shortLadder...), once())
	e := newEndings()
	m := w.start(e.handle, opts...)
	const each = 100
	w.fill(topic, 0, each, 7)
	w.fill(topic, 1, each, 7)
	w.eventually(func() bool {
		s := m.counts.Snapshot()
		return s.Processed+s.SentToDLQ+s.Skipped == 2*each
	})
	require.NoError(t, m.stop())
	m.assertIdentity()
	s := m.counts.Snapshot()
	require.EqualValues(t, 2*70, s.Processed)
	require.EqualValues(t, 2*20, s.SentToDLQ)
	require.EqualValues(t, 2*10, s.Skipped)
	require.EqualValues(t, 2*(10+10+20+20+10+10+10), s.Retried)
	e.check(t, w, topic, each, 1)
	for p := range int32(2) {
		require.EqualValues(t, each, w.committed(topic, p))
		require.EqualValues(t, each/10*6, w.committedBy(w.name("g-retry"), w.name("g-retry-1"), p), "1, 2, 3, 4, 6, 8")
		require.EqualValues(t, each/10*3, w.committedBy(w.name("g-retry"), w.name("g-retry-2"), p), "3, 4, 5")
	}
}

// check looks at where each record ended; at most so often.
func (e *endings) check(t *testing.T, w *world, topic string, each int, most int) {
	t.Helper()
	dead := map[kstage.Coordinates]int{}
	for _, d := range w.deadLetters() {
		co := kstage.Coordinates{Topic: d.Origin.Topic, Partition: d.Origin.Partition, Offset: d.Origin.Offset}
		dead[co]++
		want := map[int64][2]int{0: {1, 0}, 4: {3, 2}}[co.Offset%10]
		require.Equal(t, want, [2]int{d.Attempt, d.Stage}, "%v", co)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	require.Empty(t, e.early)
	for p := range int32(2) {
		for o := range int64(each) {
			co := kstage.Coordinates{Topic: topic, Partition: p, Offset: o}
			ends := e.ended[co] + dead[co]
			if o%10 == 7 { // it is skipped
				require.Zero(t, ends, "%v", co)
				ends = e.calls[co]
			}
			require.GreaterOrEqual(t, ends, 1, "%v is lost", co)
			require.LessOrEqual(t, ends, most, "%v ended too often", co)
		}
	}
}

// Two members, one of which comes and one of which goes in the middle: nothing is lost.
func TestEndToEndLadderWithARebalance(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(2)
	fast := kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt {
		return append([]kgo.Opt{kgo.HeartbeatInterval(100 * time.Millisecond)}, w.reach...)
	})
	opts = append(opts, w.stages(2, shortLadder...), once(), fast)
	e := newEndings()
	const each = 200
	first := w.start(e.handle, opts...)
	for p := range int32(2) {
		w.fill(topic, p, each/2, 7)
	}
	w.eventually(func() bool { return first.counts.Snapshot().Retried > 50 })
	second := w.start(e.handle, opts...)
	w.eventually(func() bool { return len(second.Stats().Partitions) >= 2 })
	for p := range int32(2) {
		w.fill(topic, p, each/2, 7)
	}
	w.eventually(func() bool { return second.counts.Snapshot().Retried > 10 })
	require.NoError(t, first.stop())
	w.eventually(func() bool {
		s := sums(first, second)
		return s.Processed+s.SentToDLQ+s.Skipped >= 2*each && w.waitingFor(second) == 0
	})
	require.NoError(t, second.stop())
	first.assertIdentity()
	second.assertIdentity()
	e.check(t, w, topic, each, 2)
}

// waitingFor sums what is received and not finished.
func (w *world) waitingFor(m *member) (n int) {
	for _, s := range m.Stats().Partitions {
		n += s.InFlight
	}
	return n
}

// A record goes byte for byte through both stages into the dead-letter topic.
func TestEndToEndLadderIsByteForByte(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	size := []string{"max.message.bytes", "2000000"}
	topic := w.topic("orders", 1, size...)
	for _, name := range []string{"g-retry-1", "g-retry-2", "g-dlq"} {
		w.topic(name, 1, size...)
	}
	big := make([]byte, 1_000_000)
	_, _ = rand.Read(big)
	sent := []*kgo.Record{
		{},
		{Key: []byte{}, Value: []byte{}},
		{Key: []byte{0, 255}, Headers: []kgo.RecordHeader{
			{Key: "a", Value: []byte{0, 255, 254}}, {Key: "b", Value: nil}, {Key: "a", Value: []byte("again")}, {Key: "", Value: []byte{}},
		}},
		{Key: []byte("forged"), Value: []byte("v"), Headers: []kgo.RecordHeader{
			{Key: "kstage-attempt", Value: []byte("99")},
			{Key: "kstage-stage", Value: []byte("2")},
			{Key: "kstage-due", Value: []byte("99999999999999")},
			{Key: "kstage-group", Value: []byte("other")},
			{Key: "message-id", Value: []byte("m-1")},
		}},
		{Key: []byte("big"), Value: big},
	}
	cl := w.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(1_900_000))
	for _, r := range sent {
		r.Topic = topic
		require.NoError(t, cl.ProduceSync(t.Context(), r).FirstErr())
	}
	m := w.start(func(context.Context, kstage.Message) error { return errTest }, kstage.WithTopics(topic), kstage.WithRetryStages(shortLadder...), once())
	w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == uint64(len(sent)) })
	require.NoError(t, m.stop())
	m.assertIdentity()
	for hop, name := range []string{"g-retry-1", "g-retry-2", "g-dlq"} {
		copies := w.read(w.name(name))[0]
		require.Len(t, copies, len(sent))
		for _, c := range copies {
			co, fs := firstRead(c), facts(c)
			want := sent[co.Offset]
			require.Equal(t, want.Key == nil, c.Key == nil)
			require.Equal(t, want.Value == nil, c.Value == nil)
			require.True(t, bytes.Equal(want.Key, c.Key) && bytes.Equal(want.Value, c.Value))
			require.Equal(t, fmt.Sprint(hop+1), fs["attempt"])
			require.Equal(t, fmt.Sprint(min(hop+1, 2)), fs["stage"])
			require.Equal(t, fmt.Sprint(want.Timestamp.UnixMilli()), fs["origin-timestamp"])
			require.Equal(t, w.name("g"), fs["group"])
			switch co.Offset {
			case 2:
				require.Equal(t, want.Headers, c.Headers[:4])
			case 3:
				require.Equal(t, "m-1", fs["id"])
				require.Equal(t, "message-id", c.Headers[0].Key)
			}
		}
	}
}
