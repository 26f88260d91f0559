package kstage

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// mostRemoved bounds how many stages beyond the configured ones are looked for.
const mostRemoved = 32

// leftover is a retry topic of a stage that is not configured, with records that the
// retry group has not read. Nobody will: the consumer must not start as if it were
// complete.
type leftover struct {
	topic   string
	unread  int64
	ours    bool // it certainly was a stage of ours; else the topic may be that of others who share the prefix
	refused error
}

// leftovers looks for removed stages.
func (a topicAdmin) leftovers(ctx context.Context, c *consumerConfig) ([]leftover, error) {
	topics, err := a.removedStages(ctx, c.prefix(), len(c.delays))
	if err != nil || len(topics) == 0 {
		return nil, err
	}
	group := c.retryGroupName()
	committed, starts, ends, err := offsetsOf(ctx, a.client, group, topics)
	if isAuthorization(err) {
		return []leftover{{topic: topics[0], refused: err}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("offsets of group %q: %w", group, err)
	}
	var ls []leftover
	for _, topic := range topics {
		l := leftover{topic: topic, ours: c.retryPrefix == ""}
		for p, end := range ends[topic] {
			at, known := committed.Lookup(topic, p)
			l.ours = l.ours || known && at.At >= 0
			l.unread += max(0, end.Offset-max(starts[topic][p].Offset, at.At))
		}
		if l.unread > 0 {
			ls = append(ls, l)
		}
	}
	return ls, nil
}

// removedStages lists the topics that exist and are called as stages after the n-th are.
func (a topicAdmin) removedStages(ctx context.Context, prefix string, n int) (topics []string, err error) {
	var names []string
	for k := n + 1; k <= n+mostRemoved; k++ {
		names = append(names, stageTopic(prefix, k))
	}
	s := &sight{topics: map[string]topicFacts{}}
	if err := a.see(ctx, s, names, func(string) bool { return true }); err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, ok := s.topics[name]; ok {
			topics = append(topics, name)
		}
	}
	return topics, nil
}

// offsetsOf asks where a group stands in some topics, and where these begin and end.
func offsetsOf(ctx context.Context, cl *kgo.Client, group string, topics []string) (committed kadm.OffsetResponses, starts, ends kadm.ListedOffsets, err error) {
	adm := kadm.NewClient(cl)
	committed, e1 := adm.FetchOffsetsForTopics(ctx, group, topics...)
	if errors.Is(e1, kerr.GroupIDNotFound) { // it has never committed anything, or not for long
		committed, e1 = kadm.OffsetResponses{}, nil
	}
	starts, e2 := adm.ListStartOffsets(ctx, topics...)
	ends, e3 := adm.ListEndOffsets(ctx, topics...)
	return committed, starts, ends, errors.Join(e1, e2, e3, committed.Error(), starts.Error(), ends.Error())
}

// inspectLeftovers refuses the start where records would wait for ever.
func (f *findings) inspectLeftovers(s *sight) {
	for _, l := range s.leftovers {
		switch {
		case l.refused != nil:
			f.warn(l.topic, fmt.Sprintf("it is called as a retry topic and no stage; whether it holds unread records could not be seen: %v", l.refused),
				"grant DESCRIBE on the retry topics and on the retry group")
		case l.ours:
			f.fail(l.topic, fmt.Sprintf("its stage is not configured any more, and %d of its records have not been handled", l.unread),
				"put the stage back (WithRetryStages) until it is empty, or delete the topic")
		default:
			f.warn(l.topic, fmt.Sprintf("it is no stage of this consumer, and its retry group has never read the %d records it holds", l.unread),
				"if it was a stage of this consumer once, put it back until it is empty; if it is that of a group that shares the prefix, all is well")
		}
	}
}
