package kstage

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Provisioning says whether Run looks at its topics, or makes them.
type Provisioning int

const (
	// VerifyTopics looks at the topics and refuses to start on a problem. A topic
	// that is missing for 30 s is one; a topic that may not be seen is a warning.
	VerifyTopics Provisioning = iota
	// CreateTopics creates what is missing and verifies the rest, see EnsureTopics.
	CreateTopics
	// TrustTopics does not look.
	TrustTopics
)

// Topology is the topics and groups of a consumer, as plain data.
type Topology struct {
	Group      string
	RetryGroup string       // empty without stages
	Topics     []string     // main topics; nil with Pattern
	Pattern    string       // regular expression, see WithTopicPattern
	Stages     []StageTopic // nil: no retry topics
	DLQ        string       // dead-letter topic; empty with WithoutDLQ
}

// StageTopic is a retry topic.
type StageTopic struct {
	Topic string
	Delay time.Duration
}

// TopicProblem is one thing that is wrong with a topic.
type TopicProblem struct {
	Topic   string
	What    string // what is wrong
	Fix     string // what to do about it
	Warning bool   // the consumer starts all the same
}

func (p TopicProblem) String() string {
	s := p.Topic + ": " + p.What
	if p.Warning {
		s = "warning: " + s
	}
	if p.Fix != "" {
		s += "; " + p.Fix
	}
	return s
}

// NewTopology tells what a consumer with these options would use. Options that
// concern no topic and no group are ignored, but for their mistakes; a handler
// and brokers are not needed.
func NewTopology(opts ...ConsumerOption) (Topology, error) {
	c := applyConsumerOptions(opts)
	var errs mistakes
	c.validate(&errs)
	return c.topology(), errs.join()
}

func (c *consumerConfig) topology() Topology {
	t := Topology{Group: c.group, Topics: slices.Clone(c.topics), Pattern: c.pattern, DLQ: c.dlqName()}
	for _, s := range c.stages() {
		t.RetryGroup = c.retryGroupName()
		t.Stages = append(t.Stages, StageTopic{s.topic, s.delay})
	}
	return t
}

// EnsureTopics creates the topics of t that are missing and verifies the others;
// *TopologyError tells every problem at once, warnings included. Where there are
// only warnings they are logged (WithLogger). It needs WithBrokers, and CREATE on
// the missing topics.
//
// Retry topics and the dead-letter topic get the most partitions and replicas that
// a main topic has, the largest max.message.bytes and 16 KiB more (for headers), and
// the delete policy; a retry topic 7 days of retention beyond its delay, the
// dead-letter topic 14 days. A main topic gets the broker's defaults.
func EnsureTopics(ctx context.Context, t Topology, opts ...Option) error {
	c := defaultCommonConfig()
	for _, o := range opts {
		if o != nil {
			o.applyCommon(&c)
		}
	}
	var errs mistakes
	c.validate(&errs)
	if _, err := regexp.Compile(t.Pattern); err != nil {
		errs.add("Topology.Pattern: %w", err)
	}
	if err := errs.join(); err != nil {
		return err
	}
	cl, err := c.newClient(RoleHandOff)
	if err != nil {
		return err
	}
	defer cl.Close()
	found, err := ensure(ctx, topicAdmin{cl}, t)
	if err != nil {
		return fmt.Errorf("kstage: look at the topics: %w", explain(err, grantLook))
	}
	logWarnings(c.logger, found)
	return found.err()
}

// ensure looks again while another process creates the same topics.
func ensure(ctx context.Context, adm topicAdmin, t Topology) (*findings, error) {
	for began := time.Now(); ; wait(ctx, missingPause, nil) {
		seen, err := within(ctx, func() (*sight, error) { return adm.lookInto(ctx, t, CreateTopics) })
		if err != nil {
			return nil, err
		}
		found := inspect(t, seen)
		if others := len(seen.missing) - len(seen.refused); others == 0 || time.Since(began) >= missingLimit {
			return found, nil
		}
	}
}

// matcher says whether a topic's name is one of a consumer's main topics.
func (t *Topology) matcher() func(string) bool {
	if t.Pattern == "" {
		return func(name string) bool { return slices.Contains(t.Topics, name) }
	}
	include, written := regexp.MustCompile(t.Pattern), t.own()
	var own []*regexp.Regexp
	for _, p := range ownTopicPatterns(t.DLQ, append(t.prefixes(), t.Group+retrySuffix)...) {
		own = append(own, regexp.MustCompile(p))
	}
	return func(name string) bool {
		isOwn := slices.Contains(written, name) || slices.ContainsFunc(own, func(re *regexp.Regexp) bool { return re.MatchString(name) })
		return !isOwn && include.MatchString(name)
	}
}

// prefixes are what the names of the retry topics begin with.
func (t *Topology) prefixes() (ps []string) {
	for i, s := range t.Stages {
		ps = append(ps, strings.TrimSuffix(s.Topic, "-"+strconv.Itoa(i+1)))
	}
	return ps
}

// own lists the topics that the consumer itself writes to, sorted.
func (t *Topology) own() (names []string) {
	for _, s := range t.Stages {
		names = append(names, s.Topic)
	}
	if t.DLQ != "" {
		names = append(names, t.DLQ)
	}
	slices.Sort(names)
	return names
}

// delayOf is a retry topic's delay; false where the topic is none.
func (t *Topology) delayOf(name string) (time.Duration, bool) {
	i := slices.IndexFunc(t.Stages, func(s StageTopic) bool { return s.Topic == name })
	if i < 0 {
		return 0, false
	}
	return t.Stages[i].Delay, true
}

// ownTopicPatterns are regular expressions for the topics that a pattern must
// not match: the dead-letter topic, and the retry topics of any number.
func ownTopicPatterns(dlq string, prefixes ...string) (ps []string) {
	slices.Sort(prefixes)
	for _, p := range slices.Compact(prefixes) {
		ps = append(ps, "^"+regexp.QuoteMeta(p)+"-[0-9]+$")
	}
	if dlq != "" {
		ps = append(ps, "^"+regexp.QuoteMeta(dlq)+"$")
	}
	return ps
}
