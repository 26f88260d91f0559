package kstage

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// retryMaxWait is how long a broker waits for records of retry topics.
const retryMaxWait = 250 * time.Millisecond

// feed is what one of a consumer's intakes reads, and how.
type feed struct {
	number  int // lanes' name for the intake
	role    ClientRole
	group   string
	fetch   Fetch
	source  []kgo.Opt               // which records are read
	stages  map[string]*stageReader // by topic; nil: main topics
	pattern bool                    // topics come and go as a pattern says
}

func (c *consumerConfig) mainFeed() feed {
	return feed{number: 0, role: RoleMain, group: c.group, fetch: c.fetch, source: c.mainSource(), pattern: c.pattern != ""}
}

func (c *consumerConfig) mainSource() []kgo.Opt {
	offset, level := kgo.NewOffset().AtStart(), kgo.ReadCommitted()
	if c.startOffset == Latest {
		offset = kgo.NewOffset().AtEnd()
	}
	if c.isolation == ReadUncommitted {
		level = kgo.ReadUncommitted()
	}
	opts := []kgo.Opt{kgo.ConsumeStartOffset(offset), kgo.ConsumeResetOffset(offset), kgo.FetchIsolationLevel(level)}
	if c.pattern == "" {
		return append(opts, kgo.ConsumeTopics(c.topics...))
	}
	return append(opts, kgo.ConsumeRegex(), kgo.ConsumeTopics(c.pattern), kgo.ConsumeExcludeTopics(c.ownTopicPatterns()...))
}

// retryFeed reads the retry topics from their start, whatever the user chose for
// the main ones: the first failure may be written before the group has looked at
// its topic for the first time.
func (c *consumerConfig) retryFeed(identify func(*kgo.Record) string) feed {
	f := feed{
		number: 1, role: RoleRetry, group: c.retryGroupName(),
		fetch:  Fetch{MinBytes: 1, MaxBytes: 16 << 20, MaxPartitionBytes: 64 << 10, MaxWait: retryMaxWait},
		stages: map[string]*stageReader{},
	}
	var topics []string
	for _, s := range c.stages() {
		topics = append(topics, s.topic)
		f.stages[s.topic] = &stageReader{stage: s, group: c.group, immediate: c.immediate, identify: identify}
	}
	start := kgo.NewOffset().AtStart()
	f.source = []kgo.Opt{
		kgo.ConsumeStartOffset(start), kgo.ConsumeResetOffset(start),
		kgo.FetchIsolationLevel(kgo.ReadUncommitted()), kgo.ConsumeTopics(topics...),
	}
	return f
}
