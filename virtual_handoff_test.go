//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
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

// buryAll is a handler that fails for good.
func buryAll(context.Context, kstage.Message) error { return kstage.Permanent(errors.New("never")) }

// buryAt is a handler that fails for good on some offsets.
func buryAt(offsets ...int64) kstage.HandlerFunc {
	return func(_ context.Context, m kstage.Message) error {
		for _, o := range offsets {
			if m.Record.Offset == o {
				return kstage.Permanent(fmt.Errorf("never: %d", o))
			}
		}
		return nil
	}
}

// produces says whether a request writes to a topic; newer ones name it by its id.
func produces(req kmsg.Request, topic string, id [16]byte) bool {
	for _, t := range req.(*kmsg.ProduceRequest).Topics {
		if t.Topic == topic || t.Topic == "" && t.TopicID == id {
			return true
		}
	}
	return false
}

func (w *world) topicID(topic string) [16]byte {
	w.t.Helper()
	ds, err := w.adm.ListTopics(w.t.Context(), topic)
	require.NoError(w.t, err)
	return ds[topic].ID
}

// onProduce lets f decide about each request that writes to a topic: answered
// with nothing at all (true, nil), with a closed connection (true and an error),
// or as it should be (false).
func (w *world) onProduce(topic string, f func() (answered bool, err error)) {
	id := w.topicID(topic)
	w.fake.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		if !produces(req, topic, id) {
			return nil, nil, false
		}
		answered, err := f()
		return nil, err, answered
	})
}

// silence makes the broker not answer what is written to a topic, until it is lifted.
func (w *world) silence(topic string) (lift func()) {
	var silent atomic.Bool
	silent.Store(true)
	w.onProduce(topic, func() (bool, error) { return silent.Load(), nil })
	return func() { silent.Store(false) }
}

func TestHandOffNeverAnswered(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(1)
		w.silence("g-dlq")
		for range 40 { // batches of 25, fetched one by one
			w.fill(topic, 0, 25, 5)
		}
		began := time.Now()
		m := w.start(buryAt(0), append(opts,
			kstage.WithWindow(kstage.Window{Span: 100}), kstage.WithFetch(kstage.Fetch{MaxPartitionBytes: 1}),
			kstage.WithShutdownTimeout(10*time.Second, 5*time.Second))...)
		w.eventually(func() bool { _, ok := m.reason(kstage.HealthHandOffFailing); return ok })
		require.Less(t, time.Since(began), 35*time.Second)

		h := m.Health()
		require.False(t, h.Ready)
		require.True(t, h.Live)
		r, _ := m.reason(kstage.HealthHandOffFailing)
		require.Equal(t, "g-dlq", r.Topic)
		require.EqualValues(t, 0, r.Partition)
		require.Error(t, r.Err)
		require.WithinDuration(t, began.Add(30*time.Second), r.Since, 5*time.Second)

		after(5 * time.Minute)
		s := m.counts.Snapshot()
		require.GreaterOrEqual(t, s.Processed, uint64(99)) // went on until the window was full
		require.Less(t, s.Processed, uint64(300))
		require.EqualValues(t, -1, w.committed(topic, 0))
		_, still := m.reason(kstage.HealthHandOffFailing)
		require.True(t, still)

		began = time.Now()
		err := m.stop()
		require.LessOrEqual(t, time.Since(began), 15*time.Second)
		var drain *kstage.DrainError
		require.ErrorAs(t, err, &drain)
		require.Equal(t, []kstage.Coordinates{{Topic: topic, Partition: 0, Offset: 0}}, drain.Abandoned)
		require.EqualValues(t, -1, w.committed(topic, 0))
	})
}

func TestHandOffAnsweredAgain(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t := w.t
		topic, opts := w.ladder(2)
		lift := w.silence("g-dlq")
		w.fill(topic, 0, 300, 5)
		w.fill(topic, 1, 300, 5)
		m := w.start(buryAt(3, 200), opts...)
		after(3 * time.Minute)
		require.False(t, m.Health().Ready)
		require.EqualValues(t, 3, w.committed(topic, 0))
		lift()
		w.eventually(func() bool { return m.Health().Ready })
		w.eventually(func() bool { return w.committed(topic, 0) == 300 && w.committed(topic, 1) == 300 })
		require.Empty(t, m.Health().Reasons)
		require.NoError(t, m.stop())
		m.assertIdentity()
		require.EqualValues(t, 4, m.counts.Snapshot().SentToDLQ)
		requireCopies(t, w, topic, 2, 3, 200)
	})
}

// requireCopies checks that the dead-letter topic holds exactly these offsets of
// each partition, at least once each, all copies of a record with the same id.
func requireCopies(t *testing.T, w *world, topic string, partitions int32, offsets ...int64) {
	t.Helper()
	ids := map[kstage.Coordinates]string{}
	for _, d := range w.deadLetters() {
		co := kstage.Coordinates{Topic: d.Origin.Topic, Partition: d.Origin.Partition, Offset: d.Origin.Offset}
		id := headerOf(d.Record, "kstage-copy-id")
		require.NotEmpty(t, id)
		if known, ok := ids[co]; ok {
			require.Equal(t, known, id)
		}
		ids[co] = id
	}
	require.Len(t, ids, int(partitions)*len(offsets))
	distinct := map[string]bool{}
	for p := range partitions {
		for _, o := range offsets {
			id := ids[kstage.Coordinates{Topic: topic, Partition: p, Offset: o}]
			require.NotEmpty(t, id)
			distinct[id] = true
		}
	}
	require.Len(t, distinct, len(ids))
}

func headerOf(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// The dead-letter topic fails for ten minutes, in each way it can: nothing is
// committed past a record that did not arrive, nothing is lost, and what comes
// meanwhile does not make for more requests.
func TestHandOffFailsForTenMinutes(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fail func(w *world) (lift func())
		most int64 // requests
	}{
		"not enough replicas": {faultOn(kerr.NotEnoughReplicas), 150}, // the client tries again within the 30 s
		"not authorized":      {faultOn(kerr.TopicAuthorizationFailed), 60},
		"closed connection":   {closeConnections, 150},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) { failForTenMinutes(w.t, w, c.fail, c.most) })
		})
	}
}

func failForTenMinutes(t *testing.T, w *world, fail func(*world) func(), most int64) {
	t.Helper()
	topic, opts := w.ladder(1)
	var requests atomic.Int64
	w.onProduce("g-dlq", func() (bool, error) { requests.Add(1); return false, nil })
	w.fill(topic, 0, 20, 20)
	lift := fail(w)
	m := w.start(buryAll, opts...)
	for range 20 {
		after(30 * time.Second)
		w.produce(record(topic, 0, "k", "more"))
		require.EqualValues(t, -1, w.committed(topic, 0))
	}
	r, ok := m.reason(kstage.HealthHandOffFailing)
	require.True(t, ok)
	require.WithinDuration(t, time.Now().Add(-10*time.Minute), r.Since, 40*time.Second)
	require.Less(t, requests.Load(), most)
	require.Greater(t, requests.Load(), int64(20)) // the back-off has a bound
	lift()
	w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 40 && w.committed(topic, 0) == 40 })
	require.Empty(t, m.Health().Reasons)
	require.NoError(t, m.stop())
	m.assertIdentity()
	all := make([]int64, 40)
	for i := range all {
		all[i] = int64(i)
	}
	requireCopies(t, w, topic, 1, all...)
	t.Logf("%d requests in ten minutes", requests.Load())
}

func faultOn(err *kerr.Error) func(*world) func() {
	return func(w *world) func() {
		return w.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "g-dlq", Err: err, Count: -1}).Remove
	}
}

func closeConnections(w *world) (lift func()) {
	var closing atomic.Bool
	closing.Store(true)
	w.onProduce("g-dlq", func() (bool, error) { return closing.Load(), errors.New("closed") })
	return func() { closing.Store(false) }
}

// keeper is a hook that keeps the records it sees.
type keeper struct {
	mu   sync.Mutex // guards kept
	kept []*kgo.Record
}

// OnProduceRecordUnbuffered implements kgo.HookProduceRecordUnbuffered.
func (k *keeper) OnProduceRecordUnbuffered(r *kgo.Record, _ error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept = append(k.kept, r)
}

func TestHooksMayKeepCopies(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		t, k := w.t, &keeper{}
		const n = 100
		hooked := kstage.WithClientOptions(func(role kstage.ClientRole) []kgo.Opt {
			if role == kstage.RoleHandOff {
				return append(slices.Clone(w.reach), kgo.WithHooks(k))
			}
			return w.reach
		})
		topic, opts := w.ladder(1)
		w.fill(topic, 0, n, 10)
		m := w.start(buryAll, append(opts, hooked)...)
		for round := range 3 { // those of the second are written where those of the first were
			w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == uint64((round+1)*n) })
			w.fill(topic, 0, n, 10)
		}
		require.NoError(t, m.stop())
		var seen, want []string
		for i, r := range k.kept {
			origin, _ := kstage.Message{Record: r}.Header("kstage-origin-offset")
			seen, want = append(seen, string(origin)), append(want, strconv.Itoa(i))
		}
		require.Equal(t, want, seen)
	})
}
