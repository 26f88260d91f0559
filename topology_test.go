package kstage_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/kstage/kstage"
)

func TestTopologyOfOptions(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		opts []kstage.ConsumerOption
		want kstage.Topology
	}{
		"default names": {
			[]kstage.ConsumerOption{kstage.WithGroup("billing"), kstage.WithTopics("orders", "events")},
			kstage.Topology{Group: "billing", Topics: []string{"orders", "events"}, DLQ: "billing-dlq"},
		},
		"a pattern and a named dead-letter topic": {
			[]kstage.ConsumerOption{kstage.WithGroup("billing"), kstage.WithTopicPattern("^o"), kstage.WithDLQTopic("dead")},
			kstage.Topology{Group: "billing", Pattern: "^o", DLQ: "dead"},
		},
		"no dead-letter topic": {
			[]kstage.ConsumerOption{kstage.WithGroup("billing"), kstage.WithTopics("orders"), kstage.WithoutDLQ(kstage.Drop)},
			kstage.Topology{Group: "billing", Topics: []string{"orders"}},
		},
		"stages": {
			[]kstage.ConsumerOption{kstage.WithGroup("billing"), kstage.WithTopics("orders"), kstage.WithRetryStages(time.Second, time.Minute)},
			kstage.Topology{
				Group: "billing", RetryGroup: "billing-retry", Topics: []string{"orders"}, DLQ: "billing-dlq",
				Stages: []kstage.StageTopic{{Topic: "billing-retry-1", Delay: time.Second}, {Topic: "billing-retry-2", Delay: time.Minute}},
			},
		},
		"named stages, without a dead-letter topic": {
			[]kstage.ConsumerOption{
				kstage.WithGroup("billing"), kstage.WithTopicPattern("^o"), kstage.WithRetryStages(time.Second), kstage.WithRetryTopicPrefix("again"),
				kstage.WithRetryGroup("billing-2nd"), kstage.WithoutDLQ(kstage.Block),
			},
			kstage.Topology{Group: "billing", RetryGroup: "billing-2nd", Pattern: "^o", Stages: []kstage.StageTopic{{Topic: "again-1", Delay: time.Second}}},
		},
		"other options change nothing": {
			[]kstage.ConsumerOption{kstage.WithGroup("billing"), kstage.WithTopics("orders"), kstage.WithWorkers(3), kstage.WithBrokers("a:1")},
			kstage.Topology{Group: "billing", Topics: []string{"orders"}, DLQ: "billing-dlq"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := kstage.NewTopology(c.opts...)
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			consumer, err := kstage.NewConsumer(kstage.HandlerFunc(func(context.Context, kstage.Message) error { return nil }),
				append([]kstage.ConsumerOption{kstage.WithBrokers("a:1")}, c.opts...)...)
			require.NoError(t, err)
			require.Equal(t, c.want, consumer.Topology(), "a consumer tells the same")
		})
	}
}

func TestNewTopologyReportsMistakes(t *testing.T) {
	t.Parallel()
	_, err := kstage.NewTopology(kstage.WithTopics("orders", "orders"))
	require.ErrorContains(t, err, "WithGroup is required")
	require.ErrorContains(t, err, `"orders" is named twice`)
}

func TestEnsureTopicsReportsMistakes(t *testing.T) {
	t.Parallel()
	err := kstage.EnsureTopics(t.Context(), kstage.Topology{Group: "g", Pattern: "("})
	require.ErrorContains(t, err, "WithBrokers is required")
	require.ErrorContains(t, err, "Topology.Pattern")
}

// config is a topic's setting.
func (w *world) config(topic, key string) string {
	w.t.Helper()
	rcs, err := w.adm.DescribeTopicConfigs(w.t.Context(), topic)
	require.NoError(w.t, err)
	rc, err := rcs.On(topic, nil)
	require.NoError(w.t, err)
	for _, c := range rc.Configs {
		if c.Key == key {
			return c.MaybeValue()
		}
	}
	return ""
}

// partitions is a topic's number of partitions and of their replicas; zeros: no topic.
func (w *world) partitions(topic string) (partitions, replicas int) {
	w.t.Helper()
	ds, err := w.adm.ListTopics(w.t.Context(), topic)
	require.NoError(w.t, err)
	return len(ds[topic].Partitions), ds[topic].Partitions.NumReplicas()
}

func (w *world) ensure(t kstage.Topology) error {
	return kstage.EnsureTopics(w.t.Context(), t, kstage.WithBrokers(w.brokers...), kstage.WithLogger(w.log))
}

func TestEnsureTopicsCreatesADeadLetterTopicLikeItsSource(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 5, "max.message.bytes", "2000000")
	topology := kstage.Topology{Group: w.name("g"), Topics: []string{topic}, DLQ: w.name("a-dlq")}
	require.NoError(t, w.ensure(topology))
	w.eventually(func() bool { n, _ := w.partitions(topology.DLQ); return n == 5 })
	_, sourceReplicas := w.partitions(topic)
	_, replicas := w.partitions(topology.DLQ)
	require.Equal(t, sourceReplicas, replicas)
	require.Equal(t, "delete", w.config(topology.DLQ, "cleanup.policy"))
	require.Equal(t, "1209600000", w.config(topology.DLQ, "retention.ms"))
	require.Equal(t, "2016384", w.config(topology.DLQ, "max.message.bytes"))

	require.NoError(t, w.ensure(topology), "what is there is left as it is")
	n, _ := w.partitions(topology.DLQ)
	require.Equal(t, 5, n)
}

func TestEnsureTopicsCreatesMainTopicsAsTheBrokerLikes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topology := kstage.Topology{Group: w.name("g"), Topics: []string{w.name("orders")}, DLQ: w.name("a-dlq")}
	require.NoError(t, w.ensure(topology))
	w.eventually(func() bool { n, _ := w.partitions(w.name("orders")); return n > 0 })
	w.eventually(func() bool { n, _ := w.partitions(w.name("a-dlq")); return n > 0 })
	main, _ := w.partitions(w.name("orders"))
	dlq, _ := w.partitions(w.name("a-dlq"))
	require.Equal(t, main, dlq, "the dead-letter topic follows a main topic made in the same go")
	require.NoError(t, w.ensure(topology))
	require.Empty(t, w.logs.FilterMessageSnippet("max.message.bytes").All(), "a copy of any record fits into what was made")
}

func TestEnsureTopicsCreatesStages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 4, "max.message.bytes", "2000000")
	topology := kstage.Topology{
		Group: w.name("g"), RetryGroup: w.name("g-retry"), Topics: []string{topic}, DLQ: w.name("g-dlq"),
		Stages: []kstage.StageTopic{{Topic: w.name("g-retry-1"), Delay: time.Minute}, {Topic: w.name("g-retry-2"), Delay: time.Hour}},
	}
	require.NoError(t, w.ensure(topology))
	for i, retention := range []string{"604860000", "608400000"} {
		name := topology.Stages[i].Topic
		w.eventually(func() bool { n, _ := w.partitions(name); return n == 4 })
		require.Equal(t, "delete", w.config(name, "cleanup.policy"))
		require.Equal(t, retention, w.config(name, "retention.ms"))
		require.Equal(t, "2016384", w.config(name, "max.message.bytes"))
	}
	w.eventually(func() bool { n, _ := w.partitions(topology.DLQ); return n == 4 })
	require.NoError(t, w.ensure(topology), "what is there is left as it is")
	require.Empty(t, w.logs.FilterMessageSnippet("retried").All())
	require.Empty(t, w.logs.FilterMessageSnippet("max.message.bytes").All())

	topology.Stages[1].Delay = 30 * 24 * time.Hour
	require.ErrorContains(t, w.ensure(topology), "retention.ms 608400000: records can be deleted before they are retried (its delay is 720h0m0s)")
}

func TestEnsureTopicsVerifiesWhatIsThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 2)
	w.topic("g-dlq", 2, "cleanup.policy", "compact", "retention.ms", "1000")
	err := w.ensure(kstage.Topology{Group: w.name("g"), Topics: []string{topic}, DLQ: w.name("g-dlq")})
	var te *kstage.TopologyError
	require.ErrorAs(t, err, &te)
	require.ErrorContains(t, err, "cleanup.policy is compact")
	require.ErrorContains(t, err, "warning: "+w.name("g-dlq")+": retention.ms 1000")
	require.Equal(t, "compact", w.config(w.name("g-dlq"), "cleanup.policy"), "it is not changed")
}

func TestEnsureTopicsLogsWarnings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic := w.topic("orders", 2)
	w.topic("g-dlq", 2, "retention.ms", "1000")
	require.NoError(t, w.ensure(kstage.Topology{Group: w.name("g"), Topics: []string{topic}, DLQ: w.name("g-dlq")}))
	require.Len(t, w.logs.FilterMessageSnippet("retention.ms 1000").All(), 1)
}

func TestEnsureTopicsWithoutABroker(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := kstage.EnsureTopics(ctx, kstage.Topology{Group: "g", Topics: []string{"orders"}}, kstage.WithBrokers("127.0.0.1:1"))
	require.ErrorContains(t, err, "look at the topics")
}

// Durability is only asked for where there are brokers for it.
func TestEnsureTopicsOnThreeBrokersAsksForReplicas(t *testing.T) {
	t.Parallel()
	w := newFakeWorld(t, nil, kfake.NumBrokers(3))
	_, err := w.adm.CreateTopic(t.Context(), 2, 1, nil, "orders")
	require.NoError(t, err)
	require.NoError(t, w.ensure(kstage.Topology{Group: "g", Topics: []string{"orders"}}))
	require.Len(t, w.logs.FilterMessageSnippet("replication factor 1").All(), 1)
}

func TestARecreatedTopicIsKnownByItsID(t *testing.T) {
	t.Parallel()
	require.Equal(t, []bool{false, false}, kstage.Replaced(1, 1))
	require.Equal(t, []bool{false, true, false}, kstage.Replaced(1, 2, 2))
	require.Equal(t, []bool{false, true, false, false, true}, kstage.Replaced(1, 2, 1, 2, 3), "a broker that is behind tells the old one")
	require.Equal(t, []bool{false, false}, kstage.Replaced(0, 0), "old brokers have no ids")
}
