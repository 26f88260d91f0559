package kstage

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	headerReserve = 16 << 10 // a copy may be so much larger than its source
	dlqRetention  = 14 * 24 * time.Hour
	stageReserve  = 24 * time.Hour     // a retry topic must keep records so much longer than its delay
	stageComfort  = 7 * 24 * time.Hour // and so much longer where we make it
)

// sight is what the brokers say of a consumer's topics.
type sight struct {
	topics    map[string]topicFacts // those that are there and may be seen
	missing   []string
	forbidden []string         // may not be seen: they may be missing, too
	refused   map[string]error // of missing: why they could not be created
	leftovers []leftover
	brokers   int
}

// topicFacts is what is known of one topic.
type topicFacts struct {
	id         [16]byte // zero: the broker is too old to tell
	partitions int
	replicas   int
	configs    map[string]string // nil: they may not be seen
}

func (f topicFacts) number(key string) (int64, bool) {
	n, err := strconv.ParseInt(f.configs[key], 10, 64)
	return n, err == nil
}

// sources are the main topics among those seen, sorted.
func (s *sight) sources(t Topology) []string {
	own := t.own()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.topics)), func(name string) bool { return slices.Contains(own, name) })
}

// copyBytes is the max.message.bytes that takes a copy of any record of the main
// topics; 0: not known.
func (s *sight) copyBytes(t Topology) int64 {
	most := int64(0)
	for _, name := range s.sources(t) {
		if n, ok := s.topics[name].number("max.message.bytes"); ok {
			most = max(most, n)
		}
	}
	if most == 0 {
		return 0
	}
	return min(most+headerReserve, math.MaxInt32)
}

// findings are what is wrong with topics: errors first, warnings after them.
type findings struct {
	problems []TopicProblem
	missing  []string // of the errors: those that somebody may be about to create
}

func (f *findings) errors() int {
	return len(slices.DeleteFunc(slices.Clone(f.problems), func(p TopicProblem) bool { return p.Warning }))
}

// err is nil where there are warnings at most.
func (f *findings) err() error {
	if f.errors() == 0 {
		return nil
	}
	return &TopologyError{Problems: f.problems}
}

// onlyMissing says that waiting may help.
func (f *findings) onlyMissing() bool { return f.errors() == len(f.missing) }

func (f *findings) fail(topic, what, fix string) {
	f.problems = append(f.problems, TopicProblem{Topic: topic, What: what, Fix: fix})
}

func (f *findings) warn(topic, what, fix string) {
	f.problems = append(f.problems, TopicProblem{Topic: topic, What: what, Fix: fix, Warning: true})
}

// inspect says what is wrong with what was seen.
func inspect(t Topology, s *sight) *findings {
	f := &findings{}
	f.inspectPresence(t, s)
	f.inspectSettingsSeen(s)
	for _, name := range slices.Sorted(maps.Keys(s.topics)) {
		f.inspectDurability(name, s)
	}
	for _, stage := range t.Stages {
		f.inspectStage(t, s, stage)
	}
	f.inspectDLQ(t, s)
	f.inspectLeftovers(s)
	slices.SortStableFunc(f.problems, func(x, y TopicProblem) int { return cmp.Compare(btoi(x.Warning), btoi(y.Warning)) })
	return f
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (f *findings) inspectPresence(t Topology, s *sight) {
	f.missing = s.missing
	for _, name := range s.missing {
		switch err := s.refused[name]; {
		case err == nil:
			f.fail(name, "it does not exist", "create it, or use WithTopicProvisioning(CreateTopics)")
		case isAuthorization(err):
			f.fail(name, fmt.Sprintf("it does not exist and may not be created: %v", err), fmt.Sprintf("create it, or grant CREATE on topic %q", name))
		default:
			f.fail(name, fmt.Sprintf("it does not exist and cannot be created: %v", err), "create it")
		}
	}
	if t.Pattern != "" && len(s.sources(t)) == 0 {
		f.warn(t.Pattern, "no topic matches the pattern that may be seen", "create one, or grant DESCRIBE on it")
	}
	for _, name := range s.forbidden {
		f.warn(name, "it may not be seen, or does not exist", fmt.Sprintf("create it if need be, and grant DESCRIBE on topic %q", name))
	}
}

// inspectSettingsSeen warns once of all topics whose settings may not be seen.
func (f *findings) inspectSettingsSeen(s *sight) {
	hidden := slices.DeleteFunc(slices.Sorted(maps.Keys(s.topics)), func(name string) bool { return s.topics[name].configs != nil })
	if len(hidden) > 0 {
		f.warn(strings.Join(hidden, ", "), "the settings may not be seen, and were not verified", "grant DESCRIBE_CONFIGS")
	}
}

// inspectDurability warns of a topic that one broker's death can hurt, where there are three.
func (f *findings) inspectDurability(name string, s *sight) {
	facts := s.topics[name]
	if s.brokers < 3 {
		return
	}
	if facts.replicas > 0 && facts.replicas < 3 {
		f.warn(name, fmt.Sprintf("replication factor %d: records can be lost with a broker", facts.replicas), "use 3")
	}
	if n, ok := facts.number("min.insync.replicas"); ok && n < 2 {
		f.warn(name, fmt.Sprintf("min.insync.replicas %d: an acknowledged record may be on one broker only", n), "use 2")
	}
}

// inspectStage: a retry topic must keep a record until it is due, and then for as
// long as its consumer may be away.
func (f *findings) inspectStage(t Topology, s *sight, stage StageTopic) {
	topic, ok := s.topics[stage.Topic]
	if !ok {
		return
	}
	f.inspectTarget(t, s, stage.Topic, "waiting records")
	least := stage.Delay + stageReserve
	if ms, ok := topic.number("retention.ms"); ok && ms >= 0 && ms < least.Milliseconds() {
		f.fail(stage.Topic, fmt.Sprintf("retention.ms %d: records can be deleted before they are retried (its delay is %v)", ms, stage.Delay),
			fmt.Sprintf("set retention.ms to %d or more", (stage.Delay+stageComfort).Milliseconds()))
	}
	if topic.configs["message.timestamp.type"] == "LogAppendTime" {
		f.warn(stage.Topic, "message.timestamp.type LogAppendTime: records are early by as much as the broker's clock is behind the consumers'", "set message.timestamp.type to CreateTime")
	}
	if n, ok := topic.number("retention.bytes"); ok && n >= 0 {
		f.warn(stage.Topic, fmt.Sprintf("retention.bytes %d: records can be deleted before they are retried", n), "set retention.bytes to -1")
	}
}

func (f *findings) inspectDLQ(t Topology, s *sight) {
	dlq, ok := s.topics[t.DLQ]
	if !ok {
		return
	}
	f.inspectTarget(t, s, t.DLQ, "dead letters")
	if ms, ok := dlq.number("retention.ms"); ok && ms >= 0 && ms < dlqRetention.Milliseconds() {
		f.warn(t.DLQ, fmt.Sprintf("retention.ms %d: dead letters are deleted after %v", ms, time.Duration(ms)*time.Millisecond),
			fmt.Sprintf("set retention.ms to %d or more", dlqRetention.Milliseconds()))
	}
}

// inspectTarget looks at what every topic that copies go to needs.
func (f *findings) inspectTarget(t Topology, s *sight, name, holds string) {
	topic := s.topics[name]
	if policy := topic.configs["cleanup.policy"]; strings.Contains(policy, "compact") {
		f.fail(name, fmt.Sprintf("cleanup.policy is %s: compaction would delete %s", policy, holds), "set cleanup.policy to delete")
	}
	if n, ok := topic.number("max.message.bytes"); ok && n < s.copyBytes(t) {
		f.warn(name, fmt.Sprintf("max.message.bytes %d: a large record's copy does not fit", n),
			fmt.Sprintf("set max.message.bytes to %d or more", s.copyBytes(t)))
	}
}

// blueprint is how a missing topic is made: one for copies like the largest main
// topic, a main topic as the broker likes.
func blueprint(t Topology, s *sight, name string) topicFacts {
	f := topicFacts{partitions: -1, replicas: -1, configs: map[string]string{}}
	retention := dlqRetention
	if delay, ok := t.delayOf(name); ok {
		retention = delay + stageComfort
	} else if name != t.DLQ {
		return f
	}
	for _, source := range s.sources(t) {
		f.partitions = max(f.partitions, s.topics[source].partitions)
		f.replicas = max(f.replicas, s.topics[source].replicas)
	}
	f.configs["cleanup.policy"] = "delete"
	f.configs["retention.ms"] = strconv.FormatInt(retention.Milliseconds(), 10)
	if n := s.copyBytes(t); n > 0 {
		f.configs["max.message.bytes"] = strconv.FormatInt(n, 10)
	}
	return f
}

// creationOrder lists what is missing, main topics first: the others follow them.
func (s *sight) creationOrder(t Topology) []string {
	own := t.own()
	return slices.SortedStableFunc(slices.Values(s.missing), func(x, y string) int {
		return cmp.Compare(btoi(slices.Contains(own, x)), btoi(slices.Contains(own, y)))
	})
}
