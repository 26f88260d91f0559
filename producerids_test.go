package kstage_test

import (
	"math"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

func TestProducerMessageIDs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := func(p *publisher, r *kgo.Record) []string {
		w.t.Helper()
		require.NoError(t, p.Publish(t.Context(), r))
		var ids []string
		for _, h := range w.read(r.Topic)[0][r.Offset].Headers {
			if h.Key == "message-id" {
				ids = append(ids, string(h.Value))
			}
		}
		return ids
	}
	topic := w.topic("orders", 1)
	plain := func(hs ...kgo.RecordHeader) *kgo.Record {
		return &kgo.Record{Topic: topic, Value: []byte("v"), Headers: hs}
	}
	p := w.producer()
	first, second := id(p, plain()), id(p, plain(kgo.RecordHeader{Key: "other"}))
	require.Len(t, first, 1)
	require.Len(t, second, 1)
	require.Regexp(t, uuid7, first[0])
	require.Less(t, first[0], second[0], "they sort by time")
	require.Equal(t, []string{"mine"}, id(p, plain(kgo.RecordHeader{Key: "message-id", Value: []byte("mine")})))
	require.Equal(t, []string{""}, id(p, plain(kgo.RecordHeader{Key: "message-id"})), "set to nothing is set")
	require.Empty(t, id(w.producer(kstage.WithMessageIDs(nil)), plain()))
	require.Empty(t, id(w.producer(kstage.WithMessageIDs(func() string { return "" })), plain()))
	require.Equal(t, []string{"seven"}, id(w.producer(kstage.WithMessageIDs(func() string { return "seven" })), plain()))
}

var uuid7 = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func TestProducerUUIDs(t *testing.T) {
	t.Parallel()
	at := time.UnixMilli(0x0123456789ab).Add(999_999)
	text := func(at time.Time, random uint64) string { return string(kstage.AppendUUID(nil, at, random)) }
	require.Equal(t, "01234567-89ab-7f42-bfff-ffffffffffff", text(at, math.MaxUint64))
	require.Equal(t, "01234567-89ab-7f42-8000-000000000000", text(at, 0))
	require.Equal(t, "01234567-89ab-7f42-9234-56789abcdef0", text(at, 0x123456789abcdef0))
	for _, step := range []time.Duration{256, time.Microsecond, time.Millisecond, time.Hour, 10_000 * time.Hour} {
		require.Less(t, text(at, math.MaxUint64), text(at.Add(step), 0), "they sort by time: %v", step)
	}
	require.Equal(t, "id=01234567", string(kstage.AppendUUID([]byte("id="), at, 0))[:11])
}

func TestProducerMessageIDsAreAllDifferent(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	seen := map[string]bool{}
	newID, now := kstage.NewIDs(), time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				id := newID(nil, now)
				mu.Lock()
				seen[string(id)] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, seen, 8000)
}
