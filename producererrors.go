package kstage

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// What the client's answers mean to whoever published the record.

// topicTrouble is how long Health shows a topic that cannot be written: nobody may ever
// write to it again, and say that it works.
const topicTrouble = time.Minute

var errTimedOut = fmt.Errorf("no acknowledgement within WithDeliveryTimeout: %w", kgo.ErrRecordTimeout)

// outcome is the error that a record ends with, by the client's answer. c: the copy.
func (p *Producer) outcome(l *link, c *kgo.Record, err error) error {
	return p.named(c, p.meaning(l, c, err))
}

// meaning is err as its reader can do something about it. What no answer of a broker
// has decided may have been written: the client gives up records that it has sent.
func (p *Producer) meaning(l *link, c *kgo.Record, err error) error {
	if bad := badPartition(c); bad != nil {
		return bad
	}
	topic := c.Topic
	switch {
	case errors.Is(err, errHook):
		return err
	case errors.Is(err, kgo.ErrClientClosed):
		return l.ended()
	case isAuthorization(err):
		return explain(err, grantWrite(topic))
	case isPurged(err):
		return p.meaning(l, c, kerr.UnknownTopicOrPartition)
	case isUnknownTopic(err):
		return fmt.Errorf("kstage: topic %q does not exist, or may not be seen: create it, or grant WRITE on it: %w", topic, err)
	case isTooLarge(err):
		return fmt.Errorf("kstage: the record, or the batch that it was in, is more than topic %q or the client takes: "+
			"raise the topic's max.message.bytes, and set kgo.ProducerBatchMaxBytes to it by WithClientOptions: %w", topic, err)
	case isFinal(err) && !isAuthentication(err):
		return fmt.Errorf("kstage: the broker refuses the record: %w", err)
	}
	return &UnconfirmedError{Err: p.givenUp(err)}
}

// isPurged: it waited for a topic that forget made the client forget.
func isPurged(err error) bool { return err.Error() == "topic purged while buffered" }

// isFinal says that a broker has decided.
func isFinal(err error) bool {
	ke := (*kerr.Error)(nil)
	return errors.As(err, &ke) && !ke.Retriable
}

// ended is what a record gets that the client still had when it was closed.
func (l *link) ended() error {
	if l.refusal != nil {
		return l.refusal // nothing was written: none of its requests was ever accepted
	}
	return &UnconfirmedError{Err: ErrClosed}
}

// givenUp is why the client has let go of a record.
func (p *Producer) givenUp(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("an older record of its partition has waited for too long: %w", p.timeout())
	case errors.Is(err, kgo.ErrRecordRetries):
		return fmt.Errorf("it was sent as often as WithRetries(%d) allows: %w", p.cfg.retries, err)
	case isAuthentication(err): // by now: it may have been written before
		return explain(err, "")
	}
	return err
}

// timeout is the end of the delivery timeout, with what keeps brokers from answering
// where that is known.
func (p *Producer) timeout() error {
	for _, r := range p.board.health(true).Reasons {
		if r.Kind == HealthDisconnected && r.Err != nil {
			return fmt.Errorf("%w; %w", errTimedOut, r.Err)
		}
	}
	return errTimedOut
}

// named adds which record it was: its partition and offset are not known.
func (p *Producer) named(c *kgo.Record, err error) error {
	name := fmt.Sprintf("topic %q", c.Topic)
	if len(c.Key) > 0 {
		name += fmt.Sprintf(", key %q", p.log.key(c.Key))
	}
	if id := messageIDOf(c); len(id) > 0 {
		name += fmt.Sprintf(", message-id %q", id)
	}
	if u := (*UnconfirmedError)(nil); errors.As(err, &u) {
		return &UnconfirmedError{Err: fmt.Errorf("%w (%s)", u.Err, name)}
	}
	return fmt.Errorf("%w (%s)", err, name)
}

func tooLargeForBuffer(size, most int64) error {
	return fmt.Errorf("kstage: the record has %d bytes, the whole buffer %d (WithBuffer): %w", size, most, kerr.MessageTooLarge)
}

// note shows in Health what the answers of a topic say of it.
func (p *Producer) note(l *link, c *kgo.Record, err error) {
	topic := c.Topic
	switch {
	case err == nil && p.board.quiet():
	case err == nil:
		p.board.clear(HealthTopicMissing, topic, -1)
		p.board.clear(HealthAuthFailing, topic, -1)
	case isUnknownTopic(err):
		p.trouble(HealthReason{Kind: HealthTopicMissing, Topic: topic, Partition: -1, Err: p.meaning(l, c, err)})
	case errors.Is(err, kerr.TopicAuthorizationFailed):
		p.trouble(HealthReason{Kind: HealthAuthFailing, Topic: topic, Partition: -1, Err: p.meaning(l, c, err)})
	}
}

// trouble is a topic that cannot be written.
func (p *Producer) trouble(r HealthReason) {
	if p.board.raiseFor(topicTrouble, r) {
		p.log.log.Warn("records of a topic fail", zap.String("topic", r.Topic), zap.Error(r.Err))
	}
}

// closeError names the records that Close gave up on.
type closeError struct{ errs []error }

func (e *closeError) Error() string {
	const most = 10
	var b strings.Builder
	fmt.Fprintf(&b, "kstage: closed with %d records that were not acknowledged:", len(e.errs))
	for i, err := range e.errs {
		if i == most {
			fmt.Fprintf(&b, "\n  and %d more", len(e.errs)-most)
			break
		}
		fmt.Fprintf(&b, "\n  %v", err)
	}
	return b.String()
}

func (e *closeError) Unwrap() []error { return e.errs }
