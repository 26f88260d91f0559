//go:build synctests

package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kstage/kstage"
)

// A consumer whose every callback panics handles its records as ever, and says so.
func TestVirtualEveryCallbackPanics(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]kstage.ConsumerOption{
		"MetricsCollector":  kstage.WithMetrics(panics{}),
		"WithClassifier":    kstage.WithClassifier(func(error) kstage.Class { panic("ouch") }),
		"WithKeyRedactor":   kstage.WithKeyRedactor(func([]byte) string { panic("ouch") }),
		"WithErrorRedactor": kstage.WithErrorRedactor(func(string) string { panic("ouch") }),
		"WithLogFields":     kstage.WithLogFields(func(context.Context) []zap.Field { panic("ouch") }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic, opts := w.ladder(1)
				w.values(topic, "k", "ok", "flaky", "error", "ok")
				m := w.start(obey, append(opts, option)...)
				w.awaitCommit(topic, 4)
				r, ok := m.reason(kstage.HealthCallbackPanic)
				require.True(w.t, ok)
				require.ErrorContains(w.t, r.Err, name)
				require.True(w.t, m.Health().Ready && m.Health().Live, "it is harmless")
				require.NoError(w.t, m.stop())
				ds := w.deadLetters()
				require.Len(w.t, ds, 1)
				require.Equal(w.t, kstage.ReasonExhausted, ds[0].Reason)
				require.Equal(w.t, 3, ds[0].Attempt)
				if name == "WithErrorRedactor" {
					require.Equal(w.t, "(redactor panicked)", ds[0].Error)
				}
				require.Len(w.t, w.linesAbout(topic, 2), 1, "the line about the dead record is there all the same")
				m.assertIdentity() // of nothing, where the collector panics
			})
		})
	}
}

// startLogging starts a consumer whose log, from a level on, is returned.
func (w *world) startLogging(level zapcore.Level, h kstage.HandlerFunc, opts ...kstage.ConsumerOption) (*member, *observer.ObservedLogs) {
	w.t.Helper()
	core, logs := observer.New(level)
	return w.start(h, append(opts, kstage.WithLogger(zap.New(core)))...), logs
}

type requestKey struct{}

// Lines about a record have their keys, and never its value or headers; the user's
// fields and redactors are applied.
func TestVirtualLogLines(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		for i, v := range []string{"ok", "flaky", "error"} {
			r := record(topic, 0, "key-"+secret, v)
			r.Value = append(r.Value, " value-"+secret...)
			r.Headers = []kgo.RecordHeader{header("message-id", fmt.Sprint("id-", i)), header("token", "header-"+secret)}
			w.produce(r)
		}
		m, logs := w.startLogging(zapcore.DebugLevel, func(_ context.Context, msg kstage.Message) error {
			v := strings.Fields(string(msg.Value()))[0]
			if v == "error" || v == "flaky" && msg.Attempt() == 1 {
				return errors.New("error-" + secret)
			}
			return nil
		}, append(opts, kstage.WithImmediateRetries(1, kstage.Backoff{Min: 1, Max: 1}),
			kstage.WithKeyRedactor(func(k []byte) string { return fmt.Sprint("redacted key of ", len(k)) }),
			kstage.WithErrorRedactor(func(s string) string { return strings.ReplaceAll(s, secret, "***") }),
			kstage.WithLogFields(func(ctx context.Context) []zap.Field {
				return []zap.Field{zap.Any("request", ctx.Value(requestKey{})), zap.Bool("mine", true)}
			}))...)
		w.awaitCommit(topic, 3)
		require.NoError(w.t, m.stop())
		require.NotContains(w.t, logText(logs), secret)

		type line struct {
			level           zapcore.Level
			offset, attempt int64
			outcome         any
		}
		var got []line
		for _, e := range logs.All() {
			f := e.ContextMap()
			if _, ok := f["outcome"]; !ok {
				continue
			}
			require.Equal(w.t, topic, f["topic"])
			require.Equal(w.t, fmt.Sprint("redacted key of ", len("key-"+secret)), f["key"])
			require.Equal(w.t, fmt.Sprint("id-", f["offset"]), f["message_id"])
			require.EqualValues(w.t, 0, f["partition"])
			require.EqualValues(w.t, 0, f["stage"])
			require.Equal(w.t, true, f["mine"])
			got = append(got, line{e.Level, f["offset"].(int64), f["attempt"].(int64), f["outcome"]})
			if f["outcome"] == "dead" {
				require.Equal(w.t, "exhausted", f["reason"])
				require.Equal(w.t, "error-***", f["error"])
			}
		}
		require.Equal(w.t, []line{
			{zapcore.DebugLevel, 0, 1, "processed"},
			{zapcore.DebugLevel, 1, 1, "retry-here"},
			{zapcore.DebugLevel, 1, 2, "processed"},
			{zapcore.DebugLevel, 2, 1, "retry-here"},
			{zapcore.ErrorLevel, 2, 2, "dead"},
		}, got)
		require.Equal(w.t, "error-***", w.deadLetters()[0].Error)
		m.assertIdentity()
	})
}

// At info nothing is said of a single record, but of a dead one.
func TestVirtualLogIsQuietAboutRecords(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		w.values(topic, "k", "ok", "flaky", "skip", "permanent", "ok")
		m, logs := w.startLogging(zapcore.InfoLevel, obey, opts...)
		w.awaitCommit(topic, 5)
		require.NoError(w.t, m.stop())
		var offsets []any
		for _, e := range logs.All() {
			if _, ok := e.ContextMap()["message_id"]; ok {
				offsets = append(offsets, e.ContextMap()["offset"])
			}
		}
		require.Equal(w.t, []any{int64(3)}, offsets)
		m.assertIdentity()
	})
}

// The redactor is also between an error and Health, whatever ends up there.
func TestVirtualHealthIsRedacted(t *testing.T) {
	t.Parallel()
	for _, policy := range []kstage.DeadPolicy{kstage.Block, kstage.Stop} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic, opts := w.ladder(1)
				w.values(topic, "k", "x")
				m, logs := w.startLogging(zapcore.DebugLevel, func(context.Context, kstage.Message) error {
					return kstage.Permanent(errors.New("card " + secret))
				}, append(opts, kstage.WithoutDLQ(policy), kstage.WithErrorRedactor(func(s string) string {
					return strings.ReplaceAll(s, secret, "***")
				}))...)
				after(10 * time.Second)
				text := fmt.Sprint(m.Health().Reasons)
				require.Contains(w.t, text, "card ***")
				require.NotContains(w.t, text, secret)
				err := m.stop()
				require.Equal(w.t, policy == kstage.Stop, err != nil)
				if err != nil {
					require.ErrorContains(w.t, err, secret, "Run's caller gets the error itself")
				}
				require.NotContains(w.t, fmt.Sprint(m.Health().Reasons), secret)
				require.NotContains(w.t, logText(logs), secret)
				m.assertIdentity()
			})
		})
	}
}

// Forged headers on a main topic change no fact of a delivery and of its dead
// letter; a redrive's count and id are carried on.
func TestVirtualForgedHeaders(t *testing.T) {
	t.Parallel()
	virtual(t, func(w *world) {
		topic, opts := w.ladder(1)
		r := record(topic, 0, "k", "permanent")
		r.Headers = []kgo.RecordHeader{header("user", "1"), {Key: "user"}, header("user", "")}
		for _, name := range oursNames {
			r.Headers = append(r.Headers, header(name, "99999"))
		}
		w.produce(r)
		m := w.start(func(ctx context.Context, msg kstage.Message) error {
			require.Equal(w.t, 1, msg.Attempt())
			require.Zero(w.t, msg.Stage())
			require.Len(w.t, msg.Record.Headers, 3+len(oursNames), "not stripped either")
			return obey(ctx, msg)
		}, opts...)
		w.awaitCommit(topic, 1)
		require.NoError(w.t, m.stop())
		d := w.deadLetters()[0]
		require.Equal(w.t, 1, d.Attempt)
		require.Zero(w.t, d.Stage)
		require.Equal(w.t, topic, d.Origin.Topic)
		require.Zero(w.t, d.Origin.Offset)
		require.Equal(w.t, kstage.ReasonPermanent, d.Reason)
		require.NotEqual(w.t, "99999", d.ID)
		require.EqualValues(w.t, -1, d.ValueOmitted)
		require.Equal(w.t, kstage.MaxRedrives, d.RedriveCount)
		require.Equal(w.t, "99999", d.RedriveID)
		require.Equal(w.t, []kgo.RecordHeader{header("user", "1"), {Key: "user"}, header("user", "")}, d.Record.Headers[:3])
		m.assertIdentity()
		for _, name := range []string{"kstage-due", "kstage-not-before", "kstage-stack"} {
			for _, h := range d.Record.Headers {
				require.NotEqual(w.t, name, h.Key, "of no meaning here")
			}
		}
	})
}

// A collector is told of each call with its facts, and of durations where it wants them.
func TestVirtualHandledEvents(t *testing.T) {
	t.Parallel()
	for _, durations := range []bool{true, false} {
		t.Run(fmt.Sprint(durations), func(t *testing.T) {
			t.Parallel()
			virtual(t, func(w *world) {
				topic, opts := w.ladder(1)
				w.values(topic, "k", "ok", "flaky", "skip", "permanent")
				events := &eventLog{durations: durations}
				m := w.start(func(ctx context.Context, msg kstage.Message) error {
					after(3 * time.Second)
					return obey(ctx, msg)
				}, append(opts, kstage.WithMetrics(events))...)
				w.awaitCommit(topic, 4)
				require.NoError(w.t, m.stop())
				type fact struct {
					attempt int
					outcome kstage.Outcome
					reason  kstage.Reason
					failed  bool
				}
				var got []fact
				for _, e := range events.handled() {
					require.Equal(w.t, topic, e.Topic)
					require.Zero(w.t, e.Partition)
					require.Zero(w.t, e.Stage)
					if durations {
						require.Equal(w.t, 3*time.Second, e.Duration)
					} else {
						require.Zero(w.t, e.Duration)
					}
					got = append(got, fact{e.Attempt, e.Outcome, e.Reason, errors.Is(e.Err, errPure)})
				}
				require.Equal(w.t, []fact{
					{1, kstage.OutcomeProcessed, "", false},
					{1, kstage.OutcomeRetryHere, "", true},
					{2, kstage.OutcomeRetryHere, "", true},
					{3, kstage.OutcomeProcessed, "", false},
					{1, kstage.OutcomeSkipped, "", true},
					{1, kstage.OutcomeDead, kstage.ReasonPermanent, true},
				}, got)
				requireIdentity(w.t, events.Snapshot())
			})
		})
	}
}

// eventLog counts, and keeps the events of handler calls.
type eventLog struct {
	kstage.Counters

	durations bool

	mu     sync.Mutex
	events []kstage.HandledEvent
}

func (l *eventLog) Durations() bool { return l.durations }

func (l *eventLog) Handled(e kstage.HandledEvent) {
	l.Counters.Handled(e)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

func (l *eventLog) handled() []kstage.HandledEvent {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

func requireIdentity(t *testing.T, s kstage.CounterSnapshot) {
	t.Helper()
	require.Equal(t, s.Received, s.Processed+s.Retried+s.SentToDLQ+s.Skipped+s.Dropped+s.Duplicates+s.Released+s.Foreign, "%+v", s)
}
