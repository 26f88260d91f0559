package kstage

import (
	"net/http"
	"time"
)

// Seen is what a look at the topics has seen.
type Seen struct {
	Topics             map[string]SeenTopic
	Missing, Forbidden []string
	Refused            map[string]error
	Brokers            int
}

// SeenTopic is one of them. Configs nil: they may not be seen.
type SeenTopic struct {
	Partitions, Replicas int
	Configs              map[string]string
}

func (s Seen) sight() *sight {
	topics := map[string]topicFacts{}
	for name, t := range s.Topics {
		topics[name] = topicFacts{partitions: t.Partitions, replicas: t.Replicas, configs: t.Configs}
	}
	return &sight{topics: topics, missing: s.Missing, forbidden: s.Forbidden, refused: s.Refused, brokers: s.Brokers}
}

// Inspect returns the problems, whether waiting may help, and what they are as an error.
func Inspect(t Topology, s Seen) (problems []TopicProblem, onlyMissing bool, err error) {
	f := inspect(t, s.sight())
	return f.problems, f.onlyMissing(), f.err()
}

// Blueprint is how a missing topic would be made.
func Blueprint(t Topology, s Seen, name string) SeenTopic {
	f := blueprint(t, s.sight(), name)
	return SeenTopic{f.partitions, f.replicas, f.configs}
}

// CreationOrder is in which order missing topics are made.
func CreationOrder(t Topology, s Seen) []string { return s.sight().creationOrder(t) }

// Board is what Health is read from.
type Board struct{ b *healthBoard }

// NewBoard makes one that tells a listener.
func NewBoard(listener func(StateEvent)) Board { return Board{newHealthBoard(listener)} }

// Raise posts a reason.
func (b Board) Raise(r HealthReason) bool { return b.b.raise(r) }

// RaiseFor posts a reason that expires.
func (b Board) RaiseFor(d time.Duration, r HealthReason) bool { return b.b.raiseFor(d, r) }

// Clear takes one back.
func (b Board) Clear(k ReasonKind, topic string, partition int32) bool {
	return b.b.clear(k, topic, partition)
}

// ClearPartition takes all of some kinds back.
func (b Board) ClearPartition(topic string, partition int32, kinds ...ReasonKind) {
	b.b.clearPartition(topic, partition, kinds...)
}

// Replace makes rs the whole of a kind.
func (b Board) Replace(k ReasonKind, rs ...HealthReason) []HealthReason { return b.b.replace(k, rs) }

// Tell starts the listener's goroutine.
func (b Board) Tell() (end func()) { return b.b.tell() }

// End is the end of Run.
func (b Board) End(err error) { b.b.end("", err) }

// Health is what is posted.
func (b Board) Health(turning bool) Health { return b.b.health(turning) }

// Stalled says whether a poll loop that last turned at a time is seen to hang.
func Stalled(turned, now time.Time, inCallback bool) bool {
	in := &intake{}
	if !turned.IsZero() {
		in.polled.Store(turned.UnixNano())
	}
	in.callback.Store(inCallback)
	return in.stalled(now)
}

// HindersReady tells of a kind whether it makes a consumer not ready.
func HindersReady(k ReasonKind) bool { return k.hindersReady() }

// Explain is what an error is made of for its reader.
func Explain(err error, grant string) error { return explain(err, grant) }

// Replaced returns of ids, seen one after the other for one topic, which are a new topic.
func Replaced(ids ...byte) (replaced []bool) {
	t := newTopicWatcher(&Consumer{}, topicAdmin{}, &sight{}).ids
	for _, id := range ids {
		replaced = append(replaced, t.replaced("orders", [16]byte{id}))
	}
	return replaced
}

// Readiness is a ReadinessHandler of its Health.
func (b Board) Readiness() http.Handler {
	return probe(func() Health { return b.b.health(true) }, isReady)
}
