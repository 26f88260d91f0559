package kstage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
	if err == nil {
		err = p.ledger.accept(ctx, pd)
	}
	if err != nil {
		p.notAccepted(r, err)
		return nil, err
	}
	p.hand(pd)
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
	pd := &pending{caller: r, done: done, ctx: ctx, record: kgo.Record{
		Topic: topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Timestamp: r.Timestamp, Context: endless(ctx, r),
	}}
	if r.Timestamp.IsZero() {
		pd.record.Timestamp = now
	}
	if err := p.setHeaders(pd, r, now); err != nil {
		return nil, err
	}
	pd.size = recordSize(&pd.record)
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

// setHeaders turns a panic of WithMessageIDs into an error: another id would not be the
// application's.
func (p *Producer) setHeaders(pd *pending, r *kgo.Record, now time.Time) (err error) {
	err = errMessageIDs
	defer p.guard.caught("WithMessageIDs")
	pd.setHeaders(r, p.newID, now)
	return nil
}

var errMessageIDs = errors.New("kstage: WithMessageIDs panicked; see Health")

// hand gives the client a record. A hook that panics on the way has kept it from the
// client, and nobody else will answer.
func (p *Producer) hand(pd *pending) {
	given := false
	defer func() {
		if !given {
			p.answered(pd, errHook)
		}
	}()
	defer p.guard.caught("a hook of WithClientOptions")
	pd.term.line.client.TryProduce(pd.term.ctx, &pd.record, func(_ *kgo.Record, err error) { p.answered(pd, err) })
	given = true
}

var errHook = errors.New("kstage: a hook of WithClientOptions panicked; see Health")

// answered is the client's answer, by which it is done with the record. Room comes
// first: who is told of one record may publish the next at once.
func (p *Producer) answered(pd *pending, err error) {
	p.learn(pd, err)
	mine, waits := pd.claim()
	p.ledger.finish(pd, mine)
	if mine {
		p.tell(pd, waits, pd.record.Partition, p.outcome(pd, err))
		p.ledger.told(pd.term)
	}
}

// learn takes from an answer what it says of more than its record. It must not wait.
func (p *Producer) learn(pd *pending, err error) {
	p.note(pd, err)
	switch {
	case err == nil:
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		p.refuse(pd.term.line, explain(err, grantWrite(pd.record.Topic)))
	case errors.Is(err, kerr.UnknownTopicID), errors.Is(err, kerr.InconsistentTopicID):
		select {
		case p.recreated <- pd.record.Topic:
		default: // the next answer says it again
		}
	}
}

// late tells of records that have run out of their delivery timeout.
func (p *Producer) late(pds []*pending) {
	p.giveUp(pds, p.timeout())
}

// giveUp tells of records that the client has not answered, and returns what it told.
func (p *Producer) giveUp(pds []*pending, why error) (errs []error) {
	var mine []*pending
	for _, pd := range pds {
		if ok, waits := pd.claim(); ok {
			err := p.named(pd, &UnconfirmedError{Err: why})
			p.tell(pd, waits, -1, err)
			mine, errs = append(mine, pd), append(errs, err)
		}
	}
	p.ledger.settle(mine)
	return errs
}

// tell tells everybody of a record's end. waits: its caller has not left.
func (p *Producer) tell(pd *pending, waits bool, partition int32, err error) {
	if err != nil {
		partition = -1
	}
	p.metrics.Published(PublishedEvent{Topic: pd.record.Topic, Partition: partition, Err: err})
	if err == nil && waits {
		pd.caller.Partition, pd.caller.Offset, pd.caller.Timestamp = partition, p.offset(&pd.record), pd.record.Timestamp
	}
	p.write(pd, waits, partition, err)
	if waits {
		p.call(pd.done, pd.caller, err)
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

// write logs a record's end: at debug, and as an error where nobody is told of one.
func (p *Producer) write(pd *pending, waits bool, partition int32, err error) {
	level, text := zapcore.DebugLevel, "record published"
	if err != nil {
		text = "record not published"
		if !waits || pd.done == nil {
			level = zapcore.ErrorLevel
		}
	}
	line := p.log.log.Check(level, text)
	if line == nil {
		return
	}
	fields := []zap.Field{zap.String("topic", pd.record.Topic), zap.String("key", p.log.key(pd.record.Key)), zap.ByteString("message_id", pd.id()), requestID(pd.record.Headers)}
	if err == nil {
		fields = append(fields, zap.Int32("partition", partition), zap.Int64("offset", p.offset(&pd.record)))
	} else {
		fields = append(fields, zap.Error(err))
	}
	if p.log.fields != nil {
		fields = append(fields, p.log.fields(pd.ctx)...)
	}
	line.Write(fields...)
}
