package kstage

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"go.uber.org/zap"
)

const (
	watchInterval = time.Minute
	watchSoonest  = time.Second // between two looks, however often a poll asks for one
	lookTimeout   = 10 * time.Second
	noticeFor     = 5 * time.Minute // how long Health tells of what is over: gaps, recreated topics
)

// topicWatcher looks at the topics again and again: the client does not tell
// that one is missing, and reads nothing more of one that was deleted and made
// again.
type topicWatcher struct {
	in    *intake
	adm   *kadm.Client
	known map[string]kadm.TopicID // ids at the last look; the watcher's own
}

func newTopicWatcher(in *intake, adm *kadm.Client) *topicWatcher {
	return &topicWatcher{in: in, adm: adm, known: map[string]kadm.TopicID{}}
}

// watch looks each minute, and sooner when a poll met an unknown topic, until ctx is done.
func (t *topicWatcher) watch(ctx context.Context) {
	for {
		t.look(ctx)
		wait(ctx, watchSoonest, nil)
		wait(ctx, watchInterval-watchSoonest, t.in.lookSoon)
		if ctx.Err() != nil {
			return
		}
	}
}

func (t *topicWatcher) look(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	topology := t.in.cfg.topology()
	seen, err := see(limited, t.adm, topology)
	if err != nil {
		t.in.log.Debug("could not look at the topics", zap.Error(err))
		return
	}
	var missing []HealthReason
	for _, name := range t.missing(seen) {
		missing = append(missing, HealthReason{Kind: HealthTopicMissing, Topic: name, Partition: -1})
	}
	t.in.board.replace(HealthTopicMissing, missing)
	for name, topic := range seen.topics {
		if id, ok := t.known[name]; ok && id != topic.id {
			t.recreated(ctx, name)
		}
		t.known[name] = topic.id
	}
}

// missing are the topics that should be there: with a pattern, also those it
// matched before and that are still assigned.
func (t *topicWatcher) missing(s *sight) []string {
	names := s.missing
	if t.in.cfg.pattern == "" {
		return names
	}
	for _, w := range t.in.snapshot() {
		if _, ok := s.topics[w.topic]; !ok {
			names = append(names, w.topic)
		}
	}
	return names
}

// recreated begins anew with a topic that is another one by now: nothing of the
// old one may be committed to it, and the client has to forget it to read it.
func (t *topicWatcher) recreated(ctx context.Context, name string) {
	t.in.log.Warn("topic was deleted and created again: starting over with it", zap.String("topic", name))
	t.in.board.raiseFor(noticeFor, HealthReason{Kind: HealthTopicRecreated, Topic: name, Partition: -1})
	if name == t.in.cfg.dlqName() {
		t.in.handOff.client.PurgeTopicsFromProducing(name)
		return
	}
	var gone []*window
	for _, w := range t.in.snapshot() {
		if w.topic == name {
			gone = append(gone, w)
		}
	}
	t.in.give(ctx, gone, PartitionsLost, 0)
	t.in.client.PurgeTopicsFromClient(name)
	if t.in.cfg.pattern == "" {
		t.in.client.AddConsumeTopics(name)
	} else {
		t.in.client.ForceMetadataRefresh()
	}
}
