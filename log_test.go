package kstage_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/kstage/kstage"
)

// logged is a JSON log as LoggerFromEnv writes it.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// line returns the first line with a message.
func (l *logged) line(t *testing.T, msg string) map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for scan := bufio.NewScanner(bytes.NewReader(l.buf.Bytes())); scan.Scan(); {
		var line map[string]any
		require.NoError(t, json.Unmarshal(scan.Bytes(), &line))
		if line["msg"] == msg {
			return line
		}
	}
	require.FailNow(t, "no line says "+msg)
	return nil
}

type tenantKey struct{}

func TestEndToEndLogLines(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(1)
	var out logged
	log, err := kstage.Env{"LOG_LEVEL": "debug"}.Logger(zapcore.AddSync(&out))
	require.NoError(t, err)
	tenant := kstage.WithLogFields(func(ctx context.Context) []zap.Field {
		if v, ok := ctx.Value(tenantKey{}).(string); ok {
			return []zap.Field{zap.String("tenant", v)}
		}
		return nil
	})
	p := w.producer(kstage.WithTopic(topic), kstage.WithLogger(log), tenant)
	r := &kgo.Record{Key: []byte("customer-7"), Value: []byte("never in a log"), Headers: []kgo.RecordHeader{{Key: "request-id", Value: []byte("req-1")}}}
	require.NoError(t, p.Publish(context.WithValue(t.Context(), tenantKey{}, "acme"), r))
	require.NoError(t, p.Publish(t.Context(), &kgo.Record{
		Key: []byte("customer-8"), Value: []byte("never in a log"),
		Headers: []kgo.RecordHeader{{Key: "request-id", Value: append([]byte("\xff"), strings.Repeat("x", 1000)...)}},
	}))
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		if string(msg.Key()) == "customer-8" {
			return kstage.Permanent(errTest)
		}
		return nil
	}, append(opts, kstage.WithLogger(log))...)
	w.eventually(func() bool { return m.counts.Snapshot().SentToDLQ == 1 && m.counts.Snapshot().Processed == 1 })
	require.NoError(t, m.stop())

	published := out.line(t, "record published")
	require.Equal(t, []string{"key", "level", "message_id", "msg", "offset", "partition", "request_id", "tenant", "timestamp", "topic"}, slices.Sorted(maps.Keys(published)))
	handled := out.line(t, "record handled")
	require.Equal(t, []string{"attempt", "key", "level", "message_id", "msg", "offset", "outcome", "partition", "request_id", "stage", "timestamp", "topic"}, slices.Sorted(maps.Keys(handled)))
	for _, line := range []map[string]any{published, handled} {
		require.Equal(t, "debug", line["level"])
		require.Equal(t, topic, line["topic"])
		require.Equal(t, "customer-7", line["key"])
		require.Equal(t, "req-1", line["request_id"])
		require.Len(t, line["message_id"], 36)
		_, err := time.Parse(time.RFC3339, line["timestamp"].(string))
		require.NoError(t, err)
	}
	require.Equal(t, published["message_id"], handled["message_id"])
	require.Equal(t, "acme", published["tenant"])
	dead := out.line(t, "record is dead: to the dead-letter topic")
	require.Equal(t, "error", dead["level"])
	require.Equal(t, errTest.Error(), dead["error"])
	require.Equal(t, "?"+strings.Repeat("x", 255), dead["request_id"], "cut, and UTF-8")
	require.NotContains(t, out.buf.String(), "never in a log")
}
