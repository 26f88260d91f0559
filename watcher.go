package kstage

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"
)

const (
	watchInterval = time.Minute
	watchSoonest  = time.Second     // between two looks, however often a poll asks for one
	noticeFor     = 5 * time.Minute // how long Health tells of what is over: gaps, recreated topics
)

// topicWatcher looks at the topics again and again: the client does not tell
// that one is missing, and reads nothing more of one that was deleted and made
// again.
type topicWatcher struct {
	c   *Consumer
	adm topicAdmin
	own []string // topics that copies go to
	ids topicIDs
}

// newTopicWatcher makes one that goes on from what the start has seen: a topic may
// be created again before the first look.
func newTopicWatcher(c *Consumer, adm topicAdmin, seen *sight) *topicWatcher {
	t := c.Topology()
	w := &topicWatcher{c: c, adm: adm, own: t.own(), ids: topicIDs{now: map[string][16]byte{}, past: map[[16]byte]bool{}}}
	for name, topic := range seen.topics {
		if topic.id != ([16]byte{}) { // a broker may not tell the id of a topic it has just made
			w.ids.replaced(name, topic.id)
		}
	}
	return w
}

// topicIDs tells whether a name stands for another topic than before.
type topicIDs struct {
	now  map[string][16]byte
	past map[[16]byte]bool // ids that were replaced: a broker that has not yet heard of it still tells them
}

// replaced notes a topic's id as just seen.
func (t *topicIDs) replaced(name string, id [16]byte) bool {
	old, known := t.now[name]
	if t.past[id] || known && old == id {
		return false
	}
	t.now[name] = id
	if known {
		t.past[old] = true
	}
	return known
}

// watch looks each minute, and sooner when a poll met an unknown topic, until ctx is done.
func (t *topicWatcher) watch(ctx context.Context) {
	for {
		t.look(ctx)
		wait(ctx, watchSoonest, nil)
		wait(ctx, watchInterval-watchSoonest, t.c.lookSoon)
		if ctx.Err() != nil {
			return
		}
	}
}

func (t *topicWatcher) look(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	seen, err := within(limited, func() (*sight, error) { return t.adm.look(limited, t.c.cfg.topology()) })
	if err != nil {
		t.c.cfg.logger.Debug("could not look at the topics", zap.Error(err))
		return
	}
	for _, r := range t.c.board.replace(HealthTopicMissing, missingReasons(t.missing(seen))) {
		t.c.cfg.logger.Warn("topic does not exist any more", zap.String("topic", r.Topic))
	}
	for name, topic := range seen.topics {
		if t.ids.replaced(name, topic.id) {
			t.recreated(ctx, name)
		}
	}
}

// missing are the topics that should be there: with a pattern, also those it
// matched before and that are still assigned.
func (t *topicWatcher) missing(s *sight) []string {
	names := s.missing
	if t.c.cfg.pattern != "" {
		for _, w := range t.c.main.snapshot() {
			if _, ok := s.topics[w.topic]; !ok {
				names = append(names, w.topic)
			}
		}
	}
	return names
}

// recreated begins anew with a topic that is another one by now: nothing of the
// old one may be committed to it, and the client has to forget it to read it.
func (t *topicWatcher) recreated(ctx context.Context, name string) {
	t.c.cfg.logger.Warn("topic was deleted and created again: starting over with it", zap.String("topic", name))
	t.c.board.raiseFor(noticeFor, HealthReason{Kind: HealthTopicRecreated, Topic: name, Partition: -1})
	if slices.Contains(t.own, name) {
		t.c.handOff.recreated()
	}
	if name != t.c.cfg.dlqName() {
		t.c.intakeOf(name).startOver(ctx, name)
	}
}

// startOver gives up what is held of a topic that is another one by now, and reads
// it from its start.
func (in *intake) startOver(ctx context.Context, name string) {
	var gone []*window
	for _, w := range in.snapshot() {
		if w.topic == name {
			gone = append(gone, w)
		}
	}
	in.give(ctx, gone, PartitionsLost, 0)
	in.client.PurgeTopicsFromClient(name)
	if in.feed.pattern {
		in.client.ForceMetadataRefresh()
	} else {
		in.client.AddConsumeTopics(name)
	}
}
