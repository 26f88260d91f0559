package kstage_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/kstage/kstage"
)

const secret = "4111-1111-1111-1111"

func newGuard() (*kstage.Guard, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	return kstage.NewGuard(zap.New(core)), logs
}

// requirePanicTold checks that Health names the callback.
func requirePanicTold(t *testing.T, g *kstage.Guard, callback string) kstage.HealthReason {
	t.Helper()
	rs := g.Reasons()
	require.Len(t, rs, 1)
	require.Equal(t, kstage.HealthCallbackPanic, rs[0].Kind)
	require.ErrorContains(t, rs[0].Err, callback)
	return rs[0]
}

// everything that a log holds, as text.
func logText(logs *observer.ObservedLogs) string {
	var b strings.Builder
	for _, e := range logs.All() {
		fmt.Fprintln(&b, e.Level, e.Message, e.ContextMap())
	}
	return b.String()
}

// panics is a collector that does nothing else.
type panics struct{ kstage.NopMetrics }

func (panics) Published(kstage.PublishedEvent) { panic("ouch") }
func (panics) Received(kstage.ReceivedEvent)   { panic("ouch") }
func (panics) Handled(kstage.HandledEvent)     { panic("ouch") }
func (panics) HandedOff(kstage.HandedOffEvent) { panic("ouch") }
func (panics) Committed(kstage.CommittedEvent) { panic("ouch") }
func (panics) Assigned(kstage.AssignedEvent)   { panic("ouch") }
func (panics) StateChanged(kstage.StateEvent)  { panic("ouch") }
func (panics) Durations() bool                 { panic("ouch") }

// Each method of a collector may panic, to no effect but a word in Health.
func TestCollectorPanicsAreCaught(t *testing.T) {
	t.Parallel()
	for name, tell := range map[string]func(kstage.MetricsCollector){
		"Published":    func(m kstage.MetricsCollector) { m.Published(kstage.PublishedEvent{}) },
		"Received":     func(m kstage.MetricsCollector) { m.Received(kstage.ReceivedEvent{}) },
		"Handled":      func(m kstage.MetricsCollector) { m.Handled(kstage.HandledEvent{}) },
		"HandedOff":    func(m kstage.MetricsCollector) { m.HandedOff(kstage.HandedOffEvent{}) },
		"Committed":    func(m kstage.MetricsCollector) { m.Committed(kstage.CommittedEvent{}) },
		"Assigned":     func(m kstage.MetricsCollector) { m.Assigned(kstage.AssignedEvent{}) },
		"StateChanged": func(m kstage.MetricsCollector) { m.StateChanged(kstage.StateEvent{}) },
		"Durations":    func(m kstage.MetricsCollector) { m.Durations() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, logs := newGuard()
			m := g.Collector(panics{})
			for range 3 {
				require.NotPanics(t, func() { tell(m) })
			}
			r := requirePanicTold(t, g, "MetricsCollector."+name)
			require.ErrorContains(t, r.Err, "ouch")
			require.Equal(t, 1, logs.Len(), "one line, not one for each record")
			require.Equal(t, zapcore.ErrorLevel, logs.All()[0].Level)
		})
	}
}

// told notes which of its methods were called.
type told struct {
	kstage.NopMetrics
	calls *[]string
}

func (c told) Published(e kstage.PublishedEvent) { *c.calls = append(*c.calls, "published "+e.Topic) }

func (c told) Received(e kstage.ReceivedEvent)   { *c.calls = append(*c.calls, "received "+e.Topic) }
func (c told) Handled(e kstage.HandledEvent)     { *c.calls = append(*c.calls, "handled "+e.Topic) }
func (c told) HandedOff(e kstage.HandedOffEvent) { *c.calls = append(*c.calls, "handed off "+e.Target) }

func (c told) Committed(e kstage.CommittedEvent) { *c.calls = append(*c.calls, "committed "+e.Topic) }

func (c told) Assigned(e kstage.AssignedEvent) { *c.calls = append(*c.calls, "assigned "+e.Topic) }

func (c told) StateChanged(e kstage.StateEvent) { *c.calls = append(*c.calls, "state "+e.Reason.Topic) }
func (told) Durations() bool                    { return true }

// The guard passes everything on.
func TestGuardedCollectorIsTold(t *testing.T) {
	t.Parallel()
	var calls []string
	g, _ := newGuard()
	m := g.Collector(told{calls: &calls})
	m.Published(kstage.PublishedEvent{Topic: "1"})
	m.Received(kstage.ReceivedEvent{Topic: "2"})
	m.Handled(kstage.HandledEvent{Topic: "3"})
	m.HandedOff(kstage.HandedOffEvent{Target: "4"})
	m.Committed(kstage.CommittedEvent{Topic: "5"})
	m.Assigned(kstage.AssignedEvent{Topic: "6"})
	m.StateChanged(kstage.StateEvent{Reason: kstage.HealthReason{Topic: "7"}})
	require.True(t, m.Durations())
	require.Equal(t, []string{"published 1", "received 2", "handled 3", "handed off 4", "committed 5", "assigned 6", "state 7"}, calls)
	require.Empty(t, g.Reasons())
}

func TestClassifierPanicCountsAsRetry(t *testing.T) {
	t.Parallel()
	g, _ := newGuard()
	classify := g.Classifier(func(error) kstage.Class { panic("ouch") })
	require.Equal(t, kstage.ClassRetry, classify(errPure))
	requirePanicTold(t, g, "WithClassifier")
	require.Nil(t, g.Classifier(nil))
}

// What a redactor panics with may be what it was to hide.
func TestRedactorPanicHidesTheSecret(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]any{"text": secret, "an error": errors.New(secret), "a struct": struct{ s string }{secret}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, logs := newGuard()
			redact := g.KeyRedactor(func([]byte) string { panic(value) })
			require.Equal(t, "(redactor panicked)", redact([]byte(secret)))
			r := requirePanicTold(t, g, "WithKeyRedactor")
			require.NotContains(t, r.String(), secret)
			require.Equal(t, 1, logs.Len())
			require.NotContains(t, logText(logs), secret)
		})
	}
}

// What another callback panics with may hold the text of an error: it is redacted, too.
func TestCallbackPanicsAreRedacted(t *testing.T) {
	t.Parallel()
	g, logs := newGuard()
	g.Redact(func(s string) string { return strings.ReplaceAll(s, secret, "***") })
	g.Classifier(func(error) kstage.Class { panic("card " + secret) })(errPure)
	r := requirePanicTold(t, g, "WithClassifier")
	require.ErrorContains(t, r.Err, "card ***")
	require.NotContains(t, logText(logs), secret)
}
