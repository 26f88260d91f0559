package kstage_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

func ExampleNewTopology() {
	topology, err := kstage.NewTopology(
		kstage.WithGroup("billing"),
		kstage.WithTopics("orders", "refunds"),
	)
	fmt.Println(topology.Topics, topology.DLQ, err)

	_, err = kstage.NewTopology(kstage.WithGroup("billing"), kstage.WithTopics("orders!"))
	fmt.Println(err)
	// Output:
	// [orders refunds] billing-dlq <nil>
	// kstage: WithTopics: topic name "orders!": '!' is not one of a-z A-Z 0-9 . _ -
}

func noop(context.Context, kstage.Message) error { return nil }

// enough are the options a Consumer cannot do without.
func enough(more ...kstage.ConsumerOption) []kstage.ConsumerOption {
	return append([]kstage.ConsumerOption{
		kstage.WithBrokers("localhost:9092"), kstage.WithGroup("billing"), kstage.WithTopics("orders"),
	}, more...)
}

// constructorMistakes are the values an option refuses; the message names the option.
var constructorMistakes = []struct {
	name   string
	option kstage.ConsumerOption
	says   string // in the message
}{
	{"no brokers", kstage.WithBrokers(), "WithBrokers"},
	{"empty broker", kstage.WithBrokers("a:1", ""), "WithBrokers"},
	{"broker's port", kstage.WithBrokers("localhost:kafka"), "WithBrokers"},
	{"client id", kstage.WithClientID(""), "WithClientID"},
	{"long client id", kstage.WithClientID(strings.Repeat("x", 257)), "WithClientID"},
	{"nil counters", kstage.WithMetrics((*kstage.Counters)(nil)), "WithMetrics"},
	{"no group", kstage.WithGroup(""), "WithGroup"},
	{"no topics", kstage.WithTopics(), "WithTopics or WithTopicPattern"},
	{"empty topic", kstage.WithTopics(""), "WithTopics"},
	{"illegal topic", kstage.WithTopics("a b"), "WithTopics"},
	{"topic .", kstage.WithTopics("."), "WithTopics"},
	{"topic ..", kstage.WithTopics(".."), "WithTopics"},
	{"topic in another alphabet", kstage.WithTopics("é"), "WithTopics"},
	{"long topic", kstage.WithTopics(strings.Repeat("x", 250)), "WithTopics"},
	{"topic twice", kstage.WithTopics("a", "a"), "WithTopics"},
	{"no pattern", kstage.WithTopicPattern(""), "WithTopicPattern"},
	{"broken pattern", kstage.WithTopicPattern("("), "WithTopicPattern"},
	{"workers", kstage.WithWorkers(0), "WithWorkers"},
	{"negative workers", kstage.WithWorkers(-1), "WithWorkers"},
	{"ordering", kstage.WithOrdering(3), "WithOrdering"},
	{"negative ordering", kstage.WithOrdering(-1), "WithOrdering"},
	{"nil middleware", kstage.WithMiddleware(nil), "WithMiddleware"},
	{"middleware without a handler", kstage.WithMiddleware(func(kstage.Handler) kstage.Handler { return nil }), "WithMiddleware"},
	{"handler timeout", kstage.WithHandlerTimeout(-1), "WithHandlerTimeout"},
	{"stuck after", kstage.WithStuckAfter(0), "WithStuckAfter"},
	{"immediate retries", kstage.WithImmediateRetries(-1, kstage.Backoff{Min: 1, Max: 1}), "WithImmediateRetries"},
	{"no back-off", kstage.WithImmediateRetries(1, kstage.Backoff{}), "WithImmediateRetries"},
	{"back-off upside down", kstage.WithImmediateRetries(1, kstage.Backoff{Min: 2, Max: 1}), "WithImmediateRetries"},
	{"max age", kstage.WithMaxAge(-1), "WithMaxAge"},
	{"dead-letter topic", kstage.WithDLQTopic("a/b"), "WithDLQTopic"},
	{"long dead-letter topic", kstage.WithDLQTopic(strings.Repeat("x", 250)), "WithDLQTopic"},
	{"a topic with two roles", kstage.WithDLQTopic("orders"), "WithDLQTopic"},
	{"dead policy", kstage.WithoutDLQ(0), "WithoutDLQ"},
	{"dead policy beyond", kstage.WithoutDLQ(kstage.Stop + 1), "WithoutDLQ"},
	{"oversize", kstage.WithDLQ(kstage.DLQOversize(2)), "DLQOversize"},
	{"negative oversize", kstage.WithDLQ(kstage.DLQOversize(-1)), "DLQOversize"},
	{"start offset", kstage.WithStartOffset(2), "WithStartOffset"},
	{"isolation", kstage.WithIsolation(2), "WithIsolation"},
	{"gap policy", kstage.WithOnGap(2), "WithOnGap"},
	{"provisioning", kstage.WithTopicProvisioning(3), "WithTopicProvisioning"},
	{"fetch min", kstage.WithFetch(kstage.Fetch{MinBytes: -1}), "WithFetch"},
	{"fetch max", kstage.WithFetch(kstage.Fetch{MaxBytes: -1}), "WithFetch"},
	{"fetch max below min", kstage.WithFetch(kstage.Fetch{MinBytes: 2, MaxBytes: 1}), "WithFetch"},
	{"fetch too large", kstage.WithFetch(kstage.Fetch{MaxBytes: 200 << 20}), "WithFetch"},
	{"fetch of a partition", kstage.WithFetch(kstage.Fetch{MaxPartitionBytes: -1}), "WithFetch"},
	{"fetch wait", kstage.WithFetch(kstage.Fetch{MaxWait: -1}), "WithFetch"},
	{"fetch wait too short", kstage.WithFetch(kstage.Fetch{MaxWait: 1}), "WithFetch"},
	{"fetch wait too long", kstage.WithFetch(kstage.Fetch{MaxWait: time.Hour}), "WithFetch"},
	{"window records", kstage.WithWindow(kstage.Window{Records: -1}), "WithWindow"},
	{"window bytes", kstage.WithWindow(kstage.Window{Bytes: -1}), "WithWindow"},
	{"window span", kstage.WithWindow(kstage.Window{Span: -1}), "WithWindow"},
	{"memory", kstage.WithMemoryBudget(0), "WithMemoryBudget"},
	{"commit interval", kstage.WithCommitInterval(0), "WithCommitInterval"},
	{"revoke drain", kstage.WithRevokeDrain(-1), "WithRevokeDrain"},
	{"long revoke drain", kstage.WithRevokeDrain(20*time.Second + 1), "WithRevokeDrain"},
	{"soft shutdown", kstage.WithShutdownTimeout(-1, 1), "WithShutdownTimeout"},
	{"hard shutdown", kstage.WithShutdownTimeout(1, 0), "WithShutdownTimeout"},
	{"start timeout", kstage.WithStartTimeout(-1), "WithStartTimeout"},
	{"no delay", kstage.WithRetryStages(0), "WithRetryStages: delay 1 is 0s"},
	{"negative delay", kstage.WithRetryStages(time.Second, -time.Second, time.Minute), "WithRetryStages: delay 2"},
	{"delays that decrease", kstage.WithRetryStages(time.Minute, time.Second), "WithRetryStages: delay 2"},
	{"the groups are one", ladderOf(kstage.WithRetryGroup("billing")), "WithRetryGroup"},
	{"illegal stage topic", ladderOf(kstage.WithRetryTopicPrefix("a/b")), `WithRetryTopicPrefix("a/b")`},
	{"illegal stage topics", kstage.Together(kstage.WithRetryStages(time.Second, time.Second, time.Second), kstage.WithRetryTopicPrefix("a/b")), "WithRetryTopicPrefix"},
	{"long stage topic", ladderOf(kstage.WithRetryTopicPrefix(strings.Repeat("x", 248))), "WithRetryTopicPrefix"},
	{"a stage that is a main topic", ladderOf(kstage.WithTopics("orders", "billing-retry-1")), "WithTopics"},
	{"a stage that is a main topic, by its prefix", ladderOf(kstage.WithTopics("retry-1"), kstage.WithRetryTopicPrefix("retry")), "WithRetryTopicPrefix"},
	{"a stage that is the dead-letter topic", ladderOf(kstage.WithDLQTopic("billing-retry-1")), "WithDLQTopic"},
	{"a stage that is the dead-letter topic, by its prefix", ladderOf(kstage.WithRetryTopicPrefix("dead"), kstage.WithDLQTopic("dead-1")), "WithRetryStages"},
}

// ladderOf is one stage, and what else is said of it.
func ladderOf(opts ...kstage.ConsumerOption) kstage.ConsumerOption {
	return kstage.Together(append(opts, kstage.WithRetryStages(time.Second))...)
}

func TestEnoughOptions(t *testing.T) {
	t.Parallel()
	_, err := kstage.NewConsumer(kstage.HandlerFunc(noop), enough()...)
	require.NoError(t, err)
}

// Each mistake alone is one error that names its option.
func TestEachConstructorMistake(t *testing.T) {
	t.Parallel()
	for _, tt := range constructorMistakes {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := kstage.NewConsumer(kstage.HandlerFunc(noop), enough(tt.option)...)
			require.Nil(t, c)
			require.ErrorContains(t, err, "kstage: ")
			require.ErrorContains(t, err, tt.says)
			require.Len(t, unjoin(err), 1, "one mistake, one message: %v", err)
		})
	}
}

func unjoin(err error) []error {
	if es, ok := err.(interface{ Unwrap() []error }); ok {
		return es.Unwrap()
	}
	return []error{err}
}

// All mistakes at once are all told at once.
func TestAllConstructorMistakesTogether(t *testing.T) {
	t.Parallel()
	_, err := kstage.NewConsumer(nil,
		kstage.WithBrokers(), kstage.WithClientID(""), kstage.WithTopics("a b"), kstage.WithWorkers(0), kstage.WithOrdering(9),
		kstage.WithMiddleware(nil), kstage.WithHandlerTimeout(-1), kstage.WithStuckAfter(0), kstage.WithImmediateRetries(-1, kstage.Backoff{}),
		kstage.WithMaxAge(-1), kstage.WithDLQTopic("a/b"), kstage.WithDLQ(kstage.DLQOversize(9)), kstage.WithStartOffset(9), kstage.WithIsolation(9),
		kstage.WithOnGap(9), kstage.WithTopicProvisioning(9), kstage.WithFetch(kstage.Fetch{MinBytes: -1}), kstage.WithWindow(kstage.Window{Span: -1}),
		kstage.WithMemoryBudget(0), kstage.WithCommitInterval(0), kstage.WithRevokeDrain(-1), kstage.WithShutdownTimeout(-1, 0),
		kstage.WithStartTimeout(-1), kstage.WithMetrics((*kstage.Counters)(nil)))
	for _, name := range []string{
		"NewConsumer needs a handler", "WithBrokers", "WithClientID", "WithGroup", "WithTopics", "WithWorkers", "WithOrdering", "WithMiddleware",
		"WithHandlerTimeout", "WithStuckAfter", "WithImmediateRetries", "WithMaxAge", "WithDLQTopic", "DLQOversize", "WithStartOffset", "WithIsolation",
		"WithOnGap", "WithTopicProvisioning", "WithFetch", "WithWindow", "WithMemoryBudget", "WithCommitInterval", "WithRevokeDrain",
		"WithShutdownTimeout", "WithStartTimeout", "WithMetrics",
	} {
		require.ErrorContains(t, err, name)
	}
	for _, e := range unjoin(err) {
		require.ErrorContains(t, e, "kstage: ")
	}
}

type pointerHandler struct{ called bool }

func (h *pointerHandler) Handle(context.Context, kstage.Message) error {
	h.called = true
	return nil
}

// A nil in an interface would panic with each record: refused at once.
func TestNilHandlers(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]kstage.Handler{"nil": nil, "nil function": kstage.HandlerFunc(nil), "nil pointer": (*pointerHandler)(nil)} {
		_, err := kstage.NewConsumer(h, enough()...)
		require.ErrorContains(t, err, "NewConsumer needs a handler", name)
	}
	_, err := kstage.NewConsumer(&pointerHandler{}, enough()...)
	require.NoError(t, err)
}

// Nil options, a nil logger and a nil collector mean "none".
func TestNilOptions(t *testing.T) {
	t.Parallel()
	c, err := kstage.NewConsumer(kstage.HandlerFunc(noop), enough(
		nil, kstage.WithLogger(nil), kstage.WithMetrics(nil), kstage.WithLogFields(nil), kstage.WithKeyRedactor(nil),
		kstage.WithErrorRedactor(nil), kstage.WithClassifier(nil), kstage.WithClientOptions(nil), kstage.WithTLS(nil), kstage.WithSASL(nil),
		kstage.WithDLQ(nil), kstage.WithMiddleware(), kstage.WithFetch(kstage.Fetch{}), kstage.WithWindow(kstage.Window{}),
	)...)
	require.NoError(t, err)
	require.NotPanics(t, func() { c.Health(); c.Stats() })
	_, err = kstage.NewTopology(nil, kstage.WithGroup("g"), kstage.WithTopics("t"), nil)
	require.NoError(t, err)
}

// Where the group's name makes an illegal default, the message says what to set.
func TestIllegalDefaultNames(t *testing.T) {
	t.Parallel()
	for name, group := range map[string]string{
		"characters": "billing/eu", "too long": strings.Repeat("g", 246), "another alphabet": "é",
	} {
		_, err := kstage.NewConsumer(kstage.HandlerFunc(noop), enough(kstage.WithGroup(group))...)
		require.ErrorContains(t, err, "WithDLQTopic", name)
		require.Len(t, unjoin(err), 1)
		for _, way := range []kstage.ConsumerOption{kstage.WithDLQTopic("billing-dlq"), kstage.WithoutDLQ(kstage.Drop)} {
			_, err = kstage.NewConsumer(kstage.HandlerFunc(noop), enough(kstage.WithGroup(group), way)...)
			require.NoError(t, err, name)
		}
	}
	_, err := kstage.NewConsumer(kstage.HandlerFunc(noop), enough(kstage.WithGroup(strings.Repeat("g", 245)))...)
	require.NoError(t, err, "just short enough")
	_, err = kstage.NewConsumer(kstage.HandlerFunc(noop), enough(kstage.WithGroup(strings.Repeat("g", 513)), kstage.WithDLQTopic("d"))...)
	require.ErrorContains(t, err, "WithGroup", "it has to fit a header")
	_, err = kstage.NewConsumer(kstage.HandlerFunc(noop), enough(kstage.WithTopics("billing-dlq"))...)
	require.ErrorContains(t, err, "WithDLQTopic", "the default is a main topic, too")
}

// A later option replaces an earlier one of the same name, and those that say the same otherwise.
func TestLaterOptionsReplaceEarlierOnes(t *testing.T) {
	t.Parallel()
	middleware := func(h kstage.Handler) kstage.Handler { return h }
	group := kstage.WithGroup("g")
	for _, tt := range []struct {
		name string
		opts []kstage.ConsumerOption
		want func(*kstage.Applied)
	}{
		{"defaults", nil, func(*kstage.Applied) {}},
		{"workers", []kstage.ConsumerOption{kstage.WithWorkers(3), kstage.WithWorkers(4)}, func(a *kstage.Applied) { a.Workers = 4 }},
		{"brokers", []kstage.ConsumerOption{kstage.WithBrokers("a"), kstage.WithBrokers("b", "c")}, func(a *kstage.Applied) { a.Brokers = []string{"b", "c"} }},
		{"pattern after topics", []kstage.ConsumerOption{kstage.WithTopics("a"), kstage.WithTopicPattern("b")}, func(a *kstage.Applied) { a.Pattern = "b" }},
		{"topics after pattern", []kstage.ConsumerOption{kstage.WithTopicPattern("b"), kstage.WithTopics("a")}, func(a *kstage.Applied) { a.Topics = []string{"a"} }},
		{"topics after topics", []kstage.ConsumerOption{kstage.WithTopics("a"), kstage.WithTopics("b")}, func(a *kstage.Applied) { a.Topics = []string{"b"} }},
		{"middleware appends", []kstage.ConsumerOption{kstage.WithMiddleware(middleware), kstage.WithMiddleware(middleware, middleware)}, func(a *kstage.Applied) { a.Middleware = 3 }},
		{"no queue", []kstage.ConsumerOption{kstage.WithDLQTopic("x"), kstage.WithDLQ(kstage.DLQStack()), kstage.WithoutDLQ(kstage.Block)}, func(a *kstage.Applied) { a.Dead, a.DLQ = kstage.Block, "" }},
		{"a queue after all", []kstage.ConsumerOption{kstage.WithDLQTopic("x"), kstage.WithoutDLQ(kstage.Drop), kstage.WithDLQ()}, func(*kstage.Applied) {}},
		{"a named queue after all", []kstage.ConsumerOption{kstage.WithoutDLQ(kstage.Drop), kstage.WithDLQTopic("x")}, func(a *kstage.Applied) { a.DLQ = "x" }},
		{"a queue's options and its name", []kstage.ConsumerOption{kstage.WithDLQ(kstage.DLQStack()), kstage.WithDLQTopic("x")}, func(a *kstage.Applied) { a.DLQ, a.Stack = "x", true }},
		{"a queue's name and its options", []kstage.ConsumerOption{kstage.WithDLQTopic("x"), kstage.WithDLQ(kstage.DLQOversize(kstage.OversizeReference))}, func(a *kstage.Applied) { a.DLQ, a.Oversize = "x", kstage.OversizeReference }},
		{"a queue's other options", []kstage.ConsumerOption{kstage.WithDLQ(kstage.DLQStack(), kstage.DLQOversize(kstage.OversizeReference)), kstage.WithDLQ()}, func(*kstage.Applied) {}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			want := kstage.Applied{DLQ: "g-dlq", Workers: 16}
			tt.want(&want)
			require.Equal(t, want, kstage.Apply(append([]kstage.ConsumerOption{group}, tt.opts...)...))
		})
	}
}

// What the caller does with its slices afterwards changes no option.
func TestOptionsKeepTheirOwnSlices(t *testing.T) {
	t.Parallel()
	brokers, topics := []string{"a:1"}, []string{"t"}
	opts := []kstage.ConsumerOption{kstage.WithBrokers(brokers...), kstage.WithTopics(topics...)}
	brokers[0], topics[0] = "changed", "changed"
	got := kstage.Apply(opts...)
	require.Equal(t, []string{"a:1"}, got.Brokers)
	require.Equal(t, []string{"t"}, got.Topics)
}

// NewConsumer makes no client and starts no goroutine: the bubble would not end.
func TestNewConsumerStartsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, err := kstage.NewConsumer(kstage.HandlerFunc(noop), enough(kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt {
			t.Error("a client was made")
			return nil
		}))...)
		require.NoError(t, err)
		h := c.Health()
		require.False(t, h.Ready)
		require.True(t, h.Live)
		require.Empty(t, c.Stats().Partitions)
		require.Equal(t, "billing-dlq", c.Topology().DLQ)
		require.ErrorIs(t, c.Skip("orders", 0, 0), kstage.ErrNotParked)
		c.Pause()
		c.Resume()
		synctest.Wait()
	})
}
