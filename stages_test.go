package kstage_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// All mistakes of the ladder's options are told at once, each by its option's name.
func TestMistakesOfTheLadderTogether(t *testing.T) {
	t.Parallel()
	_, err := kstage.NewConsumer(kstage.HandlerFunc(noop), enough(
		kstage.WithRetryStages(time.Minute, 0, -time.Second), kstage.WithRetryTopicPrefix("a b"),
		kstage.WithRetryGroup("billing"), kstage.WithDLQTopic("orders"))...)
	for _, says := range []string{
		"WithRetryStages: delay 2 is 0s", "WithRetryStages: delay 3 is -1s",
		`WithRetryTopicPrefix("a b")`, `WithRetryGroup: "billing"`, "WithDLQTopic",
	} {
		require.ErrorContains(t, err, says)
	}
}

// Default names that are illegal are not mangled: the error names the options that set others.
func TestDefaultNamesOfStagesThatAreIllegal(t *testing.T) {
	t.Parallel()
	for name, group := range map[string]string{
		"characters": "billing group", "length": strings.Repeat("g", 242), "a topic": "orders",
	} {
		opts := enough(kstage.WithGroup(group), kstage.WithDLQTopic("dead"), kstage.WithRetryStages(time.Second), kstage.WithTopics("orders", "orders-retry-1"))
		_, err := kstage.NewConsumer(kstage.HandlerFunc(noop), opts...)
		if name != "a topic" {
			opts = append(opts, kstage.WithTopics("orders"))
			_, err = kstage.NewConsumer(kstage.HandlerFunc(noop), opts...)
		}
		require.ErrorContains(t, err, "WithRetryTopicPrefix", name)
		require.Len(t, unjoin(err), 1)
		_, err = kstage.NewConsumer(kstage.HandlerFunc(noop), append(opts, kstage.WithRetryTopicPrefix("billing-retry"))...)
		require.NoError(t, err, name)
	}
	_, err := kstage.NewConsumer(kstage.HandlerFunc(noop), enough(kstage.WithGroup(strings.Repeat("g", 241)), kstage.WithRetryStages(time.Second))...)
	require.NoError(t, err, "just short enough")
}

// What concerns stages alone is no mistake without any.
func TestWithoutStagesTheirNamesHaveNoEffect(t *testing.T) {
	t.Parallel()
	opts := enough(kstage.WithRetryTopicPrefix("a b/c"), kstage.WithRetryGroup("billing"))
	_, err := kstage.NewConsumer(kstage.HandlerFunc(noop), opts...)
	require.NoError(t, err)
	topology, err := kstage.NewTopology(opts...)
	require.NoError(t, err)
	require.Equal(t, kstage.Topology{Group: "billing", Topics: []string{"orders"}, DLQ: "billing-dlq"}, topology)
}

func TestLaterOptionsOfTheLadderReplaceEarlierOnes(t *testing.T) {
	t.Parallel()
	s, m := time.Second, time.Minute
	for _, tt := range []struct {
		name string
		opts []kstage.ConsumerOption
		want kstage.Topology
	}{
		{"stages", []kstage.ConsumerOption{kstage.WithRetryStages(s, m), kstage.WithRetryStages(m)}, kstage.Topology{RetryGroup: "g-retry", Stages: []kstage.StageTopic{{Topic: "g-retry-1", Delay: m}}}},
		{"no stages after all", []kstage.ConsumerOption{kstage.WithRetryStages(s), kstage.WithRetryStages()}, kstage.Topology{}},
		{"prefix", []kstage.ConsumerOption{kstage.WithRetryStages(s), kstage.WithRetryTopicPrefix("a"), kstage.WithRetryTopicPrefix("b")}, kstage.Topology{RetryGroup: "g-retry", Stages: []kstage.StageTopic{{Topic: "b-1", Delay: s}}}},
		{"the default prefix after all", []kstage.ConsumerOption{kstage.WithRetryStages(s), kstage.WithRetryTopicPrefix("a"), kstage.WithRetryTopicPrefix("")}, kstage.Topology{RetryGroup: "g-retry", Stages: []kstage.StageTopic{{Topic: "g-retry-1", Delay: s}}}},
		{"group", []kstage.ConsumerOption{kstage.WithRetryStages(s), kstage.WithRetryGroup("a"), kstage.WithRetryGroup("b")}, kstage.Topology{RetryGroup: "b", Stages: []kstage.StageTopic{{Topic: "g-retry-1", Delay: s}}}},
		{"the default group after all", []kstage.ConsumerOption{kstage.WithRetryStages(s), kstage.WithRetryGroup("g"), kstage.WithRetryGroup("")}, kstage.Topology{RetryGroup: "g-retry", Stages: []kstage.StageTopic{{Topic: "g-retry-1", Delay: s}}}},
		{"equal delays", []kstage.ConsumerOption{kstage.WithRetryStages(s, s)}, kstage.Topology{RetryGroup: "g-retry", Stages: []kstage.StageTopic{{Topic: "g-retry-1", Delay: s}, {Topic: "g-retry-2", Delay: s}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.want.Group, tt.want.Topics, tt.want.DLQ = "g", []string{"orders"}, "g-dlq"
			got, err := kstage.NewTopology(append([]kstage.ConsumerOption{kstage.WithGroup("g"), kstage.WithTopics("orders")}, tt.opts...)...)
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

// What the caller does with its delays afterwards changes nothing, in either direction.
func TestStagesKeepTheirOwnDelays(t *testing.T) {
	t.Parallel()
	delays := []time.Duration{time.Second, time.Minute}
	opt := kstage.WithRetryStages(delays...)
	delays[0] = time.Hour
	c, err := kstage.NewConsumer(kstage.HandlerFunc(noop), enough(opt)...)
	require.NoError(t, err)
	c.Topology().Stages[1].Topic = "changed"
	require.Equal(t, []kstage.StageTopic{{Topic: "billing-retry-1", Delay: time.Second}, {Topic: "billing-retry-2", Delay: time.Minute}}, c.Topology().Stages)
}

// A pattern never matches the ladder's own topics, however many stages it has had;
// what only looks like one it does.
func TestPatternsLeaveTheLadderAlone(t *testing.T) {
	t.Parallel()
	stages := kstage.WithRetryStages(time.Second)
	group := kstage.WithGroup("billing")
	pattern := kstage.WithTopicPattern(".*")
	for _, tt := range []struct {
		name string
		opts []kstage.ConsumerOption
		own  []string
		not  []string
	}{
		{
			"default names",
			[]kstage.ConsumerOption{stages},
			[]string{"billing-retry-0", "billing-retry-1", "billing-retry-2", "billing-retry-17", "billing-dlq"},
			[]string{"orders", "billing-retry", "billing-retry-", "billing-retry-1x", "xbilling-retry-1", "billing-retry-1-2", "billing-dlq2", "other-retry-1", "other-dlq"},
		},
		{"without stages", nil, []string{"billing-retry-1", "billing-dlq"}, []string{"orders", "other-retry-1"}},
		{
			"named",
			[]kstage.ConsumerOption{stages, kstage.WithRetryTopicPrefix("events.retry"), kstage.WithDLQTopic("dead.events")},
			[]string{"events.retry-1", "events.retry-9", "billing-retry-3", "dead.events"},
			[]string{"eventsXretry-1", "deadXevents", "billing-dlq", "events.retry"},
		},
		{"no dead letters", []kstage.ConsumerOption{stages, kstage.WithoutDLQ(kstage.Drop)}, []string{"billing-retry-1"}, []string{"billing-dlq"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			opts := append([]kstage.ConsumerOption{group, pattern}, tt.opts...)
			for _, name := range append(tt.own, tt.not...) {
				client, look := kstage.OwnTopic(name, opts...)
				want := len(tt.own) > 0 && contains(tt.own, name)
				require.Equal(t, want, client, name)
				require.Equal(t, want, look, name)
			}
		})
	}
}

func contains(names []string, name string) bool {
	for _, n := range names {
		if n == name {
			return true
		}
	}
	return false
}

// What is read of a copy is bounded, whatever its headers say: they come from outside.
func TestHeadersOfCopiesAreInputFromOutside(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_700_000_000_000)
	written := now.Add(-10 * time.Second)
	const delay = time.Minute
	far := header("kstage-due", "9999999999999999")
	for name, c := range map[string]struct {
		headers []kgo.RecordHeader
		attempt int
		stage   int
		due     time.Time
	}{
		"as written":             {[]kgo.RecordHeader{header("kstage-attempt", "2"), header("kstage-stage", "2"), header("kstage-due", millis(now.Add(time.Second)))}, 3, 2, now.Add(time.Second)},
		"nothing":                {nil, 1, 2, now},
		"far away":               {[]kgo.RecordHeader{far}, 1, 2, written.Add(delay)},
		"long ago":               {[]kgo.RecordHeader{header("kstage-due", "0")}, 1, 2, time.UnixMilli(0)},
		"negative":               {[]kgo.RecordHeader{header("kstage-due", "-1"), header("kstage-attempt", "-1"), header("kstage-stage", "-1")}, 1, 2, now},
		"no numbers":             {[]kgo.RecordHeader{header("kstage-due", "soon"), header("kstage-attempt", "x"), header("kstage-stage", "")}, 1, 2, now},
		"beyond 64 bits":         {[]kgo.RecordHeader{header("kstage-due", "99999999999999999999"), header("kstage-attempt", "99999999999999999999")}, 1, 2, now},
		"more than there can be": {[]kgo.RecordHeader{header("kstage-attempt", "1000"), header("kstage-stage", "9")}, 9, 2, now},
		"lower":                  {[]kgo.RecordHeader{header("kstage-attempt", "1000"), header("kstage-stage", "0")}, 3, 0, now},
		"the last counts":        {[]kgo.RecordHeader{header("kstage-stage", "2"), header("kstage-stage", "1"), far, header("kstage-due", "5")}, 1, 1, time.UnixMilli(5)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &kgo.Record{Topic: "s-2", Timestamp: written, Headers: c.headers}
			m, due, notBefore, foreign := kstage.ReadCopy(r, 2, delay, 2, now)
			require.Equal(t, c.attempt, m.Attempt())
			require.Equal(t, c.stage, m.Stage())
			require.WithinRange(t, due, c.due, c.due.Add(time.Millisecond), "a timestamp is cut to the millisecond before")
			require.True(t, notBefore.IsZero())
			require.False(t, foreign)
		})
	}
	_, due, _, _ := kstage.ReadCopy(&kgo.Record{Timestamp: now.Add(time.Hour), Headers: []kgo.RecordHeader{far}}, 1, delay, 0, now)
	require.True(t, now.Add(delay).Equal(due), "a forged timestamp does not help")
}

// A stage reads an id, an origin and a first failure only where they can be true.
func TestOriginOfCopies(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_700_000_000_000)
	read := func(hs ...kgo.RecordHeader) kstage.Message {
		m, _, _, _ := kstage.ReadCopy(&kgo.Record{Topic: "s-1", Partition: 3, Offset: 7, Timestamp: now, Headers: hs}, 1, time.Second, 0, now)
		return m
	}
	whole := []kgo.RecordHeader{
		header("kstage-origin-topic", "orders"), header("kstage-origin-partition", "5"), header("kstage-origin-offset", "9"),
		header("kstage-origin-timestamp", "1"), header("kstage-id", "id"), header("kstage-first-failed-at", "2"),
	}
	m := read(whole...)
	require.Equal(t, kstage.Origin{Topic: "orders", Partition: 5, Offset: 9, Timestamp: time.UnixMilli(1)}, m.Origin())
	require.Equal(t, "id", m.ID())
	at, ok := m.FirstFailedAt()
	require.True(t, ok)
	require.True(t, time.UnixMilli(2).Equal(at))

	here := kstage.Origin{Topic: "s-1", Partition: 3, Offset: 7, Timestamp: now}
	for i := range 3 {
		require.Equal(t, here, read(append(whole[:i:i], whole[i+1:]...)...).Origin(), "without %s", whole[i].Key)
	}
	require.Equal(t, here, read(append(whole, header("kstage-origin-partition", "-1"))...).Origin())
	require.Equal(t, here, read(append(whole, header("kstage-origin-topic", strings.Repeat("x", 250)))...).Origin())
	require.Equal(t, "m", read(header("message-id", "m"), header("kstage-id", "")).ID(), "an empty one is none")
	at, _ = read(header("kstage-first-failed-at", "9999999999999")).FirstFailedAt()
	require.True(t, now.Equal(at), "not in the future")
}
