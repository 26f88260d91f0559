package kstage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// send gives a record to the client. Where it returns an error, it was not accepted
// and nobody else is told.
func (p *Producer) send(ctx context.Context, r *kgo.Record, done func(*kgo.Record, error)) (*pending, error) {
	pd, err := p.prepare(ctx, r, done)
	if err != nil {
		p.notAccepted(r, err)
		return nil, err
	}
	t, err := p.ledger.accept(ctx, pd)
	if err != nil {
		p.notAccepted(r, err)
		return nil, err
	}
	if t.link.direct {
		pd.record.Context = pd                                 //nolint:fatcontext // each record has its own
		t.link.client.TryProduce(t.ctx, &pd.record, t.promise) //nolint:contextcheck // the end of ctx would end other records, too: see term
	} else {
		pd.record.Context = endless(ctx, r)
		p.hand(t, pd)
	}
	return pd, nil
}

// notAccepted counts a record that failed before it was accepted.
func (p *Producer) notAccepted(r *kgo.Record, err error) {
	e := PublishedEvent{Topic: p.cfg.topic, Partition: -1, Err: err}
	if r != nil && r.Topic != "" {
		e.Topic = r.Topic
	}
	p.metrics.Published(e)
}

var (
	errNilRecord = errors.New("kstage: the record is nil")
	errTopicless = errors.New("kstage: the record has no topic, and there is no WithTopic")
)

// prepare makes the copy that the client gets.
func (p *Producer) prepare(ctx context.Context, r *kgo.Record, done func(*kgo.Record, error)) (*pending, error) {
	if r == nil {
		return nil, errNilRecord
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("kstage: not published: %w", err)
	}
	topic := cmp.Or(r.Topic, p.cfg.topic)
	if topic == "" {
		return nil, errTopicless
	}
	now := time.Now() // the client's own reading for the timestamp is spared by ours
	pd, err := p.copied(r, now)
	if err != nil {
		return nil, err
	}
	pd.done, pd.ctx = done, ctx
	pd.caller.Store(r)
	c := &pd.record
	c.Topic, c.Partition, c.Key, c.Value, c.Timestamp = topic, r.Partition, r.Key, r.Value, r.Timestamp
	if r.Timestamp.IsZero() {
		c.Timestamp = now
	}
	return pd, nil
}

// endless is the context that hooks find in the record: the caller's values without its
// end, which would end other records.
func endless(ctx context.Context, r *kgo.Record) context.Context {
	if r.Context != nil {
		ctx = r.Context
	}
	if ctx.Done() == nil {
		return ctx
	}
	return context.WithoutCancel(ctx)
}

// copied turns a panic of WithMessageIDs into an error: another id would not be the
// application's.
func (p *Producer) copied(r *kgo.Record, now time.Time) (pd *pending, err error) {
	if p.cfg.messageIDs != nil {
		err = errMessageIDs
		defer p.guard.caught("WithMessageIDs")
	}
	return newPending(r, p.newID, now), nil
}

var errMessageIDs = errors.New("kstage: WithMessageIDs panicked; see Health")

// hand gives the client a record that users' hooks and partitioners see. One that panics may
// have kept it from the client, which will then not answer, or may not.
func (p *Producer) hand(t *term, pd *pending) {
	size := recordSize(&pd.record) // a hook may add headers
	var answered atomic.Bool
	answer := func(_ *kgo.Record, err error) {
		if !answered.Swap(true) {
			p.answered(t, pd, size, err)
		}
	}
	given := false
	defer func() {
		if !given {
			answer(&pd.record, errHook)
		}
	}()
	defer p.guard.caught("a hook of WithClientOptions")
	t.link.client.TryProduce(t.ctx, &pd.record, answer)
	given = true
}

var errHook = errors.New("kstage: a hook of WithClientOptions panicked; see Health")

// answered is the client's answer, by which it is done with a record that took room of so
// many bytes. Room comes first: who is told of one record may publish the next at once.
func (p *Producer) answered(t *term, pd *pending, size int64, err error) {
	p.learn(t.link, &pd.record, err)
	caller := pd.claim()
	p.ledger.finish(size)
	if caller == nil {
		return
	}
	if err == nil {
		p.acknowledged(pd, caller)
	} else {
		p.tell(pd, caller, p.outcome(t.link, &pd.record, err))
	}
	if t.link.direct {
		pd.record.Value = nil // it may stay on its page for a while
	}
	p.ledger.told(t)
}

// learn takes from an answer what it says of more than its record. It must not wait.
func (p *Producer) learn(l *link, c *kgo.Record, err error) {
	p.note(l, c, err)
	switch {
	case err == nil:
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		p.refuse(l, explain(err, grantWrite(c.Topic)))
	case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID):
		select {
		case p.recreated <- c.Topic:
		default: // the next answer says it again
		}
	}
}

// late tells of records that have run out of their delivery timeout.
func (p *Producer) late(open []openTerm) { p.giveUp(open, p.timeout()) }

// giveUp tells of records that the client has not answered, and returns what it told.
func (p *Producer) giveUp(open []openTerm, why error) (errs []error) {
	for _, t := range open {
		for _, pd := range t.records {
			if caller := pd.claim(); caller != nil {
				err := p.named(&pd.record, &UnconfirmedError{Err: why})
				p.tell(pd, caller, err)
				p.ledger.told(t.term)
				errs = append(errs, err)
			}
		}
	}
	return errs
}

// acknowledged tells everybody of a record that was written.
func (p *Producer) acknowledged(pd *pending, caller *kgo.Record) {
	c := &pd.record
	p.metrics.Published(PublishedEvent{Topic: c.Topic, Partition: c.Partition})
	if p.log.debug() {
		p.write(pd, zapcore.DebugLevel, "record published", zap.Int32("partition", c.Partition), zap.Int64("offset", p.offset(c)))
	}
	if caller != nobody {
		caller.Partition, caller.Offset, caller.Timestamp = c.Partition, p.offset(c), c.Timestamp
		p.call(pd.done, caller, nil)
	}
}

// tell tells everybody of a record that has failed. It is an error in the log where
// nobody else is told of it.
func (p *Producer) tell(pd *pending, caller *kgo.Record, err error) {
	p.metrics.Published(PublishedEvent{Topic: pd.record.Topic, Partition: -1, Err: err})
	level := zapcore.DebugLevel
	if caller == nobody || pd.done == nil {
		level = zapcore.ErrorLevel
	}
	p.write(pd, level, "record not published", zap.Error(err))
	if caller != nobody {
		p.call(pd.done, caller, err)
	}
}

// offset is where an acknowledged record is; -1 where nobody has said so.
func (p *Producer) offset(r *kgo.Record) int64 {
	if p.cfg.acks == AcksNone {
		return -1
	}
	return r.Offset
}

// call tells the caller.
func (p *Producer) call(done func(*kgo.Record, error), r *kgo.Record, err error) {
	if done == nil {
		return
	}
	defer p.guard.caught("PublishAsync's done")
	done(r, err)
}

// write logs a record's end.
func (p *Producer) write(pd *pending, level zapcore.Level, text string, what ...zap.Field) {
	line := p.log.log.Check(level, text)
	if line == nil {
		return
	}
	c := &pd.record
	fields := []zap.Field{zap.String("topic", c.Topic), zap.String("key", p.log.key(c.Key)), zap.ByteString("message_id", messageIDOf(c)), requestID(c.Headers)}
	fields = append(fields, what...)
	if p.log.fields != nil {
		fields = append(fields, p.log.fields(pd.ctx)...)
	}
	line.Write(fields...)
}
