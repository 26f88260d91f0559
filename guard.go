package kstage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// A user's callback must not take the consumer down: its panic is recovered,
// reported in Health until the next start, and answered with a safe default.

// guard reports panics of callbacks. Many goroutines use it.
type guard struct {
	log    *zap.Logger
	board  *healthBoard
	redact func(string) string // set by newRecordLog; nil: panics are shown as they are
	told   sync.Map            // names of callbacks whose panic was logged: one may come with each record
}

// caught reports a panic of the named callback; to be deferred directly. What
// it panicked with may hold the text of an error, which is shown as redacted.
func (g *guard) caught(name string) {
	if v := recover(); v != nil {
		text := fmt.Sprint(v)
		if g.redact != nil {
			text = g.redact(text)
		}
		g.report(name, text)
	}
}

// caughtSecret is caught for a redactor: what it panicked with may hold what it
// was to hide, and only its type is shown.
func (g *guard) caughtSecret(name string) {
	if v := recover(); v != nil {
		g.report(name, fmt.Sprintf("with a value of type %T", v))
	}
}

// report says it in Health each time and in the log once.
func (g *guard) report(name, text string) {
	err := fmt.Errorf("kstage: %s panicked: %s", name, text)
	g.board.raise(HealthReason{Kind: HealthCallbackPanic, Partition: -1, Err: err})
	if _, again := g.told.LoadOrStore(name, true); !again {
		g.log.Error("a callback panicked; later panics of it are in Health only",
			zap.String("callback", name), zap.String("panic", text), zap.Stack("stack"))
	}
}

func (g *guard) classifier(f func(error) Class) func(error) Class {
	if f == nil {
		return nil
	}
	return func(err error) (c Class) {
		defer g.caught("WithClassifier")
		return f(err)
	}
}

// textFunc guards a redactor: a panic must not let through what it was to hide.
func textFunc[T any](g *guard, name string, f func(T) string) func(T) string {
	if f == nil {
		return nil
	}
	return func(v T) (s string) {
		s = "(redactor panicked)"
		defer g.caughtSecret(name)
		return f(v)
	}
}

func (g *guard) messageID(f func(*kgo.Record) string) func(*kgo.Record) string {
	if f == nil {
		return nil
	}
	return func(r *kgo.Record) (id string) {
		defer g.caught("WithMessageID")
		return f(r)
	}
}

// store guards a DedupeStore: a panic is a failure whose outcome nobody knows.
func (g *guard) store(s DedupeStore) DedupeStore { return &guardedStore{g, s} }

type guardedStore struct {
	guard *guard
	s     DedupeStore
}

var errStorePanicked = errors.New("kstage: the dedupe store panicked")

func (g *guardedStore) Claim(ctx context.Context, key string, lease time.Duration) (c Claim, err error) {
	err = errStorePanicked
	defer g.guard.caught("DedupeStore.Claim")
	return g.s.Claim(ctx, key, lease)
}

func (g *guardedStore) Extend(ctx context.Context, c Claim, lease time.Duration) (err error) {
	err = errStorePanicked
	defer g.guard.caught("DedupeStore.Extend")
	return g.s.Extend(ctx, c, lease)
}

func (g *guardedStore) Confirm(ctx context.Context, c Claim) (err error) {
	err = errStorePanicked
	defer g.guard.caught("DedupeStore.Confirm")
	return g.s.Confirm(ctx, c)
}

func (g *guardedStore) Release(ctx context.Context, c Claim) (err error) {
	err = errStorePanicked
	defer g.guard.caught("DedupeStore.Release")
	return g.s.Release(ctx, c)
}

func (g *guard) fields(f func(context.Context) []zap.Field) func(context.Context) []zap.Field {
	if f == nil {
		return nil
	}
	return func(ctx context.Context) (fields []zap.Field) {
		defer g.caught("WithLogFields")
		return f(ctx)
	}
}

// collector guards a MetricsCollector. Our own cannot panic and need none: the
// guard is a few nanoseconds for each record.
func (g *guard) collector(m MetricsCollector) MetricsCollector {
	switch m.(type) {
	case NopMetrics, *Counters:
		return m
	}
	return &guardedMetrics{guard: g, m: m}
}

type guardedMetrics struct {
	NopMetrics
	guard *guard
	m     MetricsCollector
}

func (g *guardedMetrics) Published(e PublishedEvent) {
	defer g.guard.caught("MetricsCollector.Published")
	g.m.Published(e)
}

func (g *guardedMetrics) Received(e ReceivedEvent) {
	defer g.guard.caught("MetricsCollector.Received")
	g.m.Received(e)
}

func (g *guardedMetrics) Handled(e HandledEvent) {
	defer g.guard.caught("MetricsCollector.Handled")
	g.m.Handled(e)
}

func (g *guardedMetrics) HandedOff(e HandedOffEvent) {
	defer g.guard.caught("MetricsCollector.HandedOff")
	g.m.HandedOff(e)
}

func (g *guardedMetrics) Committed(e CommittedEvent) {
	defer g.guard.caught("MetricsCollector.Committed")
	g.m.Committed(e)
}

func (g *guardedMetrics) Assigned(e AssignedEvent) {
	defer g.guard.caught("MetricsCollector.Assigned")
	g.m.Assigned(e)
}

func (g *guardedMetrics) StateChanged(e StateEvent) {
	defer g.guard.caught("MetricsCollector.StateChanged")
	g.m.StateChanged(e)
}

func (g *guardedMetrics) Durations() (wanted bool) {
	defer g.guard.caught("MetricsCollector.Durations")
	return g.m.Durations()
}
