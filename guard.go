package kstage

import (
	"context"
	"fmt"

	"go.uber.org/zap"
)

// A user's callback must not take the consumer down: its panic is recovered,
// reported in Health until the next start, and answered with a safe default.

// guard runs at the top of a deferred call around a user's callback.
type guard struct {
	log   *zap.Logger
	board *healthBoard
}

// caught reports a panic of the named callback; to be deferred directly.
func (g *guard) caught(name string) {
	if v := recover(); v != nil {
		err := fmt.Errorf("kstage: %s panicked: %v", name, v)
		g.log.Error("a callback panicked", zap.String("callback", name), zap.Any("panic", v), zap.Stack("stack"))
		g.board.raise(HealthReason{Kind: HealthCallbackPanic, Topic: "", Partition: -1, Err: err})
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
		defer g.caught(name)
		return f(v)
	}
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
