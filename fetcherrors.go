package kstage

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// Polls return errors as data, group errors come by a hook, commits have their
// own: here it is decided what each means for Health, and which end Run.

// failed classifies an error of a poll; false where there is nothing to slow down for.
func (in *intake) failed(ctx context.Context, topic string, p *kgo.FetchPartition) bool {
	err := p.Err
	switch {
	case ctx.Err() != nil, errors.Is(err, kgo.ErrClientClosed):
		return false
	case isGroupSession(err): // groupErrors was told, in order with assignments
	case topic == "" && errors.Is(err, context.DeadlineExceeded): // nothing came within pollTimeout; a dial's time-out is one of a topic
		return false
	case isAuthorization(err):
		in.unauthorized(topic, explain(err, grantRead(topic)))
	case isUnknownTopic(err):
		poke(in.lookSoon)
	case isDataLoss(err):
		in.log.Warn("records that were consumed are gone: the log was cut back", zap.String("topic", topic), zap.Int32("partition", p.Partition), zap.Error(err))
	case in.window(topicPartition{topic, p.Partition}) != nil:
		in.board.raise(HealthReason{Kind: HealthFetchFailing, Topic: topic, Partition: p.Partition, Err: err})
	}
	return true
}

func isGroupSession(err error) bool {
	e := (*kgo.ErrGroupSession)(nil)
	return errors.As(err, &e)
}

func isDataLoss(err error) bool {
	e := (*kgo.ErrDataLoss)(nil)
	return errors.As(err, &e)
}

// received is the sign that a partition can be read.
func (in *intake) received(w *window) {
	if in.board.quiet() {
		return
	}
	in.board.clear(HealthFetchFailing, w.topic, w.partition)
	in.authorized(w.topic)
}

// groupErrors hears what ends a group session: on the client's goroutine that
// also calls back on assignments, so that a rejoin is not mistaken for its end.
type groupErrors struct{ in *intake }

// OnGroupManageError implements kgo.HookGroupManageError.
func (g *groupErrors) OnGroupManageError(err error) {
	in := g.in
	explained := explain(err, in.grantGroup())
	in.board.raise(HealthReason{Kind: HealthNotJoined, Partition: -1, Group: in.feed.group, Err: explained})
	switch {
	case isFenced(err):
		in.fail(explained)
	case isAuthorization(err):
		in.unauthorized("", explained)
	}
}

const (
	authLimit = time.Minute      // a refused authorization that lasts longer ends Run
	authGap   = 15 * time.Second // without a refusal for so long: it was granted again
)

// unauthorized notes a refusal for a topic, or for the group (no topic).
func (in *intake) unauthorized(topic string, err error) {
	in.board.raiseFor(authGap, in.authFailing(topic, err))
	in.mu.Lock()
	o := in.refusals[topic]
	if o == nil {
		o = &outage{}
		in.refusals[topic] = o
	}
	lasted := o.failed(time.Now())
	in.mu.Unlock()
	if lasted >= authLimit {
		in.fail(err)
	}
}

// authorized ends what unauthorized began.
func (in *intake) authorized(topic string) {
	in.board.clearReason(in.authFailing(topic, nil))
	in.mu.Lock()
	defer in.mu.Unlock()
	delete(in.refusals, topic)
}

// authFailing is the reason for a refusal; one for the group names it.
func (in *intake) authFailing(topic string, err error) HealthReason {
	r := HealthReason{Kind: HealthAuthFailing, Topic: topic, Partition: -1, Err: err}
	if topic == "" {
		r.Group = in.feed.group
	}
	return r
}

// outage measures how long something keeps failing.
type outage struct{ since, last time.Time }

// failed notes a failure and returns how long they have lasted.
func (o *outage) failed(now time.Time) time.Duration {
	if now.Sub(o.last) > authGap {
		o.since = now
	}
	o.last = now
	return now.Sub(o.since)
}
