package kstage_test

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kstage/kstage"
)

var ladderTopology = kstage.Topology{Group: "g", Topics: []string{"orders"}, DLQ: "g-dlq"}

// fitTopic is a topic that nothing is wrong with; more are config keys and values.
func fitTopic(more ...string) kstage.SeenTopic {
	configs := map[string]string{
		"cleanup.policy": "delete", "retention.ms": "1209600000", "min.insync.replicas": "2", "max.message.bytes": "1000000",
	}
	for i := 0; i < len(more); i += 2 {
		configs[more[i]] = more[i+1]
	}
	return kstage.SeenTopic{Partitions: 3, Replicas: 3, Configs: configs}
}

// seenLadder is a ladder of two fit topics on three brokers, but for what is changed.
func seenLadder(change func(s *kstage.Seen)) kstage.Seen {
	s := kstage.Seen{Brokers: 3, Topics: map[string]kstage.SeenTopic{
		"orders": fitTopic(), "g-dlq": fitTopic("max.message.bytes", "1016384"),
	}}
	if change != nil {
		change(&s)
	}
	return s
}

func TestEveryProblemOfTheTopicsIsFound(t *testing.T) {
	t.Parallel()
	dlq := func(more ...string) func(s *kstage.Seen) {
		return func(s *kstage.Seen) {
			s.Topics["g-dlq"] = fitTopic(append([]string{"max.message.bytes", "1016384"}, more...)...)
		}
	}
	gone := func(s *kstage.Seen, names ...string) {
		s.Missing = names
		maps.DeleteFunc(s.Topics, func(name string, _ kstage.SeenTopic) bool { return slices.Contains(names, name) })
	}
	cases := map[string]struct {
		change  func(s *kstage.Seen)
		want    []string
		waiting bool // it may help
	}{
		"fit": {},
		"a missing topic": {
			func(s *kstage.Seen) { gone(s, "orders") },
			[]string{"orders: it does not exist; create it, or use WithTopicProvisioning(CreateTopics)"},
			true,
		},
		"missing and may not be created": {
			func(s *kstage.Seen) {
				gone(s, "g-dlq")
				s.Refused = map[string]error{"g-dlq": kerr.TopicAuthorizationFailed}
			},
			[]string{`g-dlq: it does not exist and may not be created: ` + kerr.TopicAuthorizationFailed.Error() + `; create it, or grant CREATE on topic "g-dlq"`},
			true,
		},
		"missing and cannot be created": {
			func(s *kstage.Seen) {
				gone(s, "g-dlq")
				s.Refused = map[string]error{"g-dlq": kerr.PolicyViolation}
			},
			[]string{`g-dlq: it does not exist and cannot be created: ` + kerr.PolicyViolation.Error() + `; create it`},
			true,
		},
		"forbidden": {
			func(s *kstage.Seen) { gone(s, "orders"); s.Missing, s.Forbidden = nil, []string{"orders"} },
			[]string{`warning: orders: it may not be seen, or does not exist; create it if need be, and grant DESCRIBE on topic "orders"`},
			false,
		},
		"compacted DLQ": {dlq("cleanup.policy", "compact"), []string{"g-dlq: cleanup.policy is compact: compaction would delete dead letters; set cleanup.policy to delete"}, false},
		"compacted and deleted DLQ": {
			dlq("cleanup.policy", "compact,delete"),
			[]string{"g-dlq: cleanup.policy is compact,delete: compaction would delete dead letters; set cleanup.policy to delete"},
			false,
		},
		"compacted main topic": {func(s *kstage.Seen) { s.Topics["orders"] = fitTopic("cleanup.policy", "compact") }, nil, false},
		"DLQ retention a minute short": {
			dlq("retention.ms", "1209540000"),
			[]string{"warning: g-dlq: retention.ms 1209540000: dead letters are deleted after 335h59m0s; set retention.ms to 1209600000 or more"},
			false,
		},
		"DLQ retention unlimited": {dlq("retention.ms", "-1"), nil, false},
		"DLQ retention huge":      {dlq("retention.ms", strconv.Itoa(math.MaxInt64)), nil, false},
		"DLQ takes a byte too little": {
			dlq("max.message.bytes", "1016383"),
			[]string{"warning: g-dlq: max.message.bytes 1016383: a large record's copy does not fit; set max.message.bytes to 1016384 or more"},
			false,
		},
		"the largest main topic counts": {
			func(s *kstage.Seen) { s.Topics["small"] = fitTopic("max.message.bytes", "1000") }, nil, false,
		},
		"a main topic of unknown limit": {
			func(s *kstage.Seen) {
				s.Topics["orders"] = fitTopic("max.message.bytes", "")
				s.Topics["g-dlq"] = fitTopic("max.message.bytes", "1000")
			}, nil, false,
		},
		"a limit that leaves no room above it": {
			func(s *kstage.Seen) {
				s.Topics["orders"] = fitTopic("max.message.bytes", strconv.Itoa(math.MaxInt32))
				s.Topics["g-dlq"] = fitTopic("max.message.bytes", strconv.Itoa(math.MaxInt32))
			}, nil, false,
		},
		"settings of one may not be seen": {
			func(s *kstage.Seen) { s.Topics["orders"] = kstage.SeenTopic{Partitions: 3, Replicas: 3} },
			[]string{"warning: orders: the settings may not be seen, and were not verified; grant DESCRIBE_CONFIGS"},
			false,
		},
		"settings of all may not be seen: one warning": {
			func(s *kstage.Seen) {
				s.Topics["orders"] = kstage.SeenTopic{Partitions: 3, Replicas: 3}
				s.Topics["g-dlq"] = s.Topics["orders"]
			},
			[]string{"warning: g-dlq, orders: the settings may not be seen, and were not verified; grant DESCRIBE_CONFIGS"},
			false,
		},
		"too few replicas": {
			func(s *kstage.Seen) { f := fitTopic(); f.Replicas = 2; s.Topics["orders"] = f },
			[]string{"warning: orders: replication factor 2: records can be lost with a broker; use 3"},
			false,
		},
		"too few in sync": {
			func(s *kstage.Seen) { s.Topics["orders"] = fitTopic("min.insync.replicas", "1") },
			[]string{"warning: orders: min.insync.replicas 1: an acknowledged record may be on one broker only; use 2"},
			false,
		},
		"two brokers cannot do better": {
			func(s *kstage.Seen) {
				s.Brokers = 2
				f := fitTopic("min.insync.replicas", "1")
				f.Replicas = 1
				s.Topics["orders"] = f
			}, nil, false,
		},
		"missing and unfit: waiting does not help": {
			func(s *kstage.Seen) { dlq("cleanup.policy", "compact")(s); gone(s, "orders") },
			[]string{
				"orders: it does not exist; create it, or use WithTopicProvisioning(CreateTopics)",
				"g-dlq: cleanup.policy is compact: compaction would delete dead letters; set cleanup.policy to delete",
			},
			false,
		},
		"errors come before warnings": {
			func(s *kstage.Seen) {
				s.Forbidden = []string{"secret"}
				dlq("cleanup.policy", "compact")(s)
			},
			[]string{
				"g-dlq: cleanup.policy is compact: compaction would delete dead letters; set cleanup.policy to delete",
				`warning: secret: it may not be seen, or does not exist; create it if need be, and grant DESCRIBE on topic "secret"`,
			},
			false,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problems, waiting, err := kstage.Inspect(ladderTopology, seenLadder(c.change))
			var got []string
			isError := false
			for _, p := range problems {
				got = append(got, p.String())
				isError = isError || !p.Warning
			}
			require.Equal(t, c.want, got)
			require.Equal(t, isError, err != nil, "warnings alone are no error")
			if err != nil {
				require.Equal(t, c.waiting, waiting, "waiting helps")
			}
		})
	}
}

func TestAPatternThatMatchesNothingIsAWarning(t *testing.T) {
	t.Parallel()
	dlqOnly := seenLadder(func(s *kstage.Seen) { delete(s.Topics, "orders") })
	problems, _, err := kstage.Inspect(kstage.Topology{Group: "g", Pattern: "^order$", DLQ: "g-dlq"}, dlqOnly)
	require.NoError(t, err)
	require.Len(t, problems, 1)
	require.Equal(t, "warning: ^order$: no topic matches the pattern that may be seen; create one, or grant DESCRIBE on it", problems[0].String())
	problems, _, _ = kstage.Inspect(kstage.Topology{Group: "g", Pattern: "^orders$", DLQ: "g-dlq"}, seenLadder(nil))
	require.Empty(t, problems)
}

func TestOneErrorNamesEachProblemWithItsFix(t *testing.T) {
	t.Parallel()
	problems, _, err := kstage.Inspect(ladderTopology, seenLadder(func(s *kstage.Seen) {
		delete(s.Topics, "orders")
		s.Missing = []string{"orders"}
		s.Topics["g-dlq"] = fitTopic("cleanup.policy", "compact", "retention.ms", "1000")
	}))
	var te *kstage.TopologyError
	require.ErrorAs(t, err, &te)
	require.Equal(t, problems, te.Problems)
	require.Len(t, problems, 3)
	for _, p := range problems {
		require.NotEmpty(t, p.Fix)
		require.ErrorContains(t, err, p.Topic+": "+p.What+"; "+p.Fix)
	}
}

func TestADeadLetterTopicIsMadeLikeTheLargestMainTopic(t *testing.T) {
	t.Parallel()
	large := fitTopic("max.message.bytes", "5000000")
	large.Partitions = 12
	s := kstage.Seen{Topics: map[string]kstage.SeenTopic{"orders": large, "events": fitTopic()}, Missing: []string{"g-dlq"}}
	topology := kstage.Topology{Topics: []string{"orders", "events"}, DLQ: "g-dlq"}
	require.Equal(t, kstage.SeenTopic{Partitions: 12, Replicas: 3, Configs: map[string]string{
		"cleanup.policy": "delete", "retention.ms": "1209600000", "max.message.bytes": "5016384",
	}}, kstage.Blueprint(topology, s, "g-dlq"))
}

func TestWhatIsNotKnownIsLeftToTheBroker(t *testing.T) {
	t.Parallel()
	require.Equal(t, kstage.SeenTopic{Partitions: -1, Replicas: -1, Configs: map[string]string{}},
		kstage.Blueprint(ladderTopology, kstage.Seen{}, "orders"), "a main topic")
	require.Equal(t, kstage.SeenTopic{Partitions: -1, Replicas: -1, Configs: map[string]string{
		"cleanup.policy": "delete", "retention.ms": "1209600000",
	}}, kstage.Blueprint(ladderTopology, kstage.Seen{}, "g-dlq"), "a dead-letter topic without main topics")
	blind := kstage.Seen{Topics: map[string]kstage.SeenTopic{"orders": {Partitions: 3, Replicas: 2}}}
	require.NotContains(t, kstage.Blueprint(ladderTopology, blind, "g-dlq").Configs, "max.message.bytes")
}

// The dead-letter topic follows main topics that are made in the same go, however the names sort.
func TestMainTopicsAreMadeFirst(t *testing.T) {
	t.Parallel()
	s := kstage.Seen{Missing: []string{"a-dlq", "orders", "b"}}
	require.Equal(t, []string{"orders", "b", "a-dlq"}, kstage.CreationOrder(kstage.Topology{DLQ: "a-dlq"}, s))
}

// stagedTopology is a ladder with stages.
var stagedTopology = kstage.Topology{
	Group: "g", RetryGroup: "g-retry", Topics: []string{"orders"}, DLQ: "g-dlq",
	Stages: []kstage.StageTopic{{Topic: "g-retry-1", Delay: time.Minute}, {Topic: "g-retry-2", Delay: 48 * time.Hour}},
}

// seenStages is a staged ladder that nothing is wrong with, but for what is changed.
func seenStages(change func(s *kstage.Seen)) kstage.Seen {
	return seenLadder(func(s *kstage.Seen) {
		for _, stage := range stagedTopology.Stages {
			s.Topics[stage.Topic] = fitTopic("max.message.bytes", "1016384", "retention.ms", "604800000", "retention.bytes", "-1")
		}
		if change != nil {
			change(s)
		}
	})
}

func TestEveryProblemOfTheStagesIsFound(t *testing.T) {
	t.Parallel()
	with := func(topic string, more ...string) func(s *kstage.Seen) {
		return func(s *kstage.Seen) {
			s.Topics[topic] = fitTopic(append([]string{"max.message.bytes", "1016384"}, more...)...)
		}
	}
	for name, c := range map[string]struct {
		change func(s *kstage.Seen)
		want   []string
	}{
		"fit": {nil, nil},
		"missing": {
			func(s *kstage.Seen) { s.Missing = []string{"g-retry-2"}; delete(s.Topics, "g-retry-2") },
			[]string{"g-retry-2: it does not exist; create it, or use WithTopicProvisioning(CreateTopics)"},
		},
		"compacted": {
			with("g-retry-1", "cleanup.policy", "compact,delete"),
			[]string{"g-retry-1: cleanup.policy is compact,delete: compaction would delete waiting records; set cleanup.policy to delete"},
		},
		"retention just long enough": {with("g-retry-2", "retention.ms", "259200000"), nil},
		"retention a moment short": {
			with("g-retry-2", "retention.ms", "259199999"),
			[]string{"g-retry-2: retention.ms 259199999: records can be deleted before they are retried (its delay is 48h0m0s); set retention.ms to 777600000 or more"},
		},
		"retention of a day is too short for any delay": {
			with("g-retry-1", "retention.ms", "86400000"),
			[]string{"g-retry-1: retention.ms 86400000: records can be deleted before they are retried (its delay is 1m0s); set retention.ms to 604860000 or more"},
		},
		"retention zero": {
			with("g-retry-1", "retention.ms", "0"),
			[]string{"g-retry-1: retention.ms 0: records can be deleted before they are retried (its delay is 1m0s); set retention.ms to 604860000 or more"},
		},
		"retention unlimited": {with("g-retry-2", "retention.ms", "-1"), nil},
		"retention by size": {
			with("g-retry-1", "retention.bytes", "1000000000"),
			[]string{"warning: g-retry-1: retention.bytes 1000000000: records can be deleted before they are retried; set retention.bytes to -1"},
		},
		"timestamps of the broker": {
			with("g-retry-1", "message.timestamp.type", "LogAppendTime"),
			[]string{"warning: g-retry-1: message.timestamp.type LogAppendTime: records are early by as much as the broker's clock is behind the consumers'; set message.timestamp.type to CreateTime"},
		},
		"retention by size of a dead-letter topic": {func(s *kstage.Seen) {
			s.Topics["g-dlq"] = fitTopic("max.message.bytes", "1016384", "retention.bytes", "1000")
		}, nil},
		"takes a byte too little": {
			func(s *kstage.Seen) { s.Topics["g-retry-1"] = fitTopic("max.message.bytes", "1016383") },
			[]string{"warning: g-retry-1: max.message.bytes 1016383: a large record's copy does not fit; set max.message.bytes to 1016384 or more"},
		},
		"too few replicas and in sync": {
			func(s *kstage.Seen) {
				f := fitTopic("max.message.bytes", "1016384", "min.insync.replicas", "1")
				f.Replicas = 1
				s.Topics["g-retry-1"] = f
			},
			[]string{
				"warning: g-retry-1: replication factor 1: records can be lost with a broker; use 3",
				"warning: g-retry-1: min.insync.replicas 1: an acknowledged record may be on one broker only; use 2",
			},
		},
		"a large stage is no source": {
			func(s *kstage.Seen) { s.Topics["g-retry-1"] = fitTopic("max.message.bytes", "9000000") }, nil,
		},
		"fewer partitions are fine": {
			func(s *kstage.Seen) {
				f := fitTopic("max.message.bytes", "1016384")
				f.Partitions = 1
				s.Topics["g-retry-1"] = f
			}, nil,
		},
		"settings may not be seen": {
			func(s *kstage.Seen) { s.Topics["g-retry-1"] = kstage.SeenTopic{Partitions: 3, Replicas: 3} },
			[]string{"warning: g-retry-1: the settings may not be seen, and were not verified; grant DESCRIBE_CONFIGS"},
		},
		"everything at once: errors first": {
			func(s *kstage.Seen) {
				with("g-retry-1", "retention.bytes", "5", "retention.ms", "5")(s)
				with("g-retry-2", "cleanup.policy", "compact")(s)
			},
			[]string{
				"g-retry-1: retention.ms 5: records can be deleted before they are retried (its delay is 1m0s); set retention.ms to 604860000 or more",
				"g-retry-2: cleanup.policy is compact: compaction would delete waiting records; set cleanup.policy to delete",
				"warning: g-retry-1: retention.bytes 5: records can be deleted before they are retried; set retention.bytes to -1",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			problems, _, err := kstage.Inspect(stagedTopology, seenStages(c.change))
			var got []string
			isError := false
			for _, p := range problems {
				got = append(got, p.String())
				isError = isError || !p.Warning
			}
			require.Equal(t, c.want, got)
			require.Equal(t, isError, err != nil)
		})
	}
}

// A stage is made like the largest main topic, and keeps records for its delay and a week.
func TestAStageIsMadeLikeTheLargestMainTopic(t *testing.T) {
	t.Parallel()
	large := fitTopic("max.message.bytes", "5000000")
	large.Partitions = 12
	s := seenStages(func(s *kstage.Seen) {
		s.Topics["orders"] = large
		delete(s.Topics, "g-retry-2")
		s.Missing = []string{"g-retry-2"}
	})
	require.Equal(t, kstage.SeenTopic{Partitions: 12, Replicas: 3, Configs: map[string]string{
		"cleanup.policy": "delete", "retention.ms": "777600000", "max.message.bytes": "5016384",
	}}, kstage.Blueprint(stagedTopology, s, "g-retry-2"))
	made := s
	made.Topics["g-retry-2"] = kstage.Blueprint(stagedTopology, s, "g-retry-2")
	made.Missing = nil
	for _, p := range first(kstage.Inspect(stagedTopology, made)) {
		require.NotEqual(t, "g-retry-2", p.Topic, "what we make is fit: %v", p)
	}
	require.Equal(t, []string{"orders", "g-dlq", "g-retry-1"}, kstage.CreationOrder(stagedTopology, kstage.Seen{Missing: []string{"g-dlq", "g-retry-1", "orders"}}))
}

func first[T any](x T, _ bool, _ error) T { return x }
