package kstage

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// PublishBatch publishes records in order and waits for all answers, as Publish does
// for one. A *BatchError says which failed and why. After one that was not accepted (no
// topic, no room, closed) the rest is not tried, or it would overtake it.
func (p *Producer) PublishBatch(ctx context.Context, rs ...*kgo.Record) error {
	b := &publishBatch{rs: rs, answers: make(chan batchAnswer, len(rs)), failed: map[int]error{}}
	for i, r := range rs {
		pd, err := p.send(ctx, r, func(_ *kgo.Record, err error) { b.answers <- batchAnswer{i, err} })
		if err != nil {
			b.failed[i] = err
			p.untried(b, rs, i)
			break
		}
		b.open = append(b.open, pd)
	}
	b.wait(ctx, p)
	if len(b.failed) > 0 {
		return &BatchError{Failed: b.failed}
	}
	return nil
}

// untried fails the records behind one that was not accepted.
func (p *Producer) untried(b *publishBatch, rs []*kgo.Record, refused int) {
	for i, r := range rs[refused+1:] {
		err := fmt.Errorf("kstage: not tried, since record %d of the batch was not accepted: %w", refused, b.failed[refused])
		b.failed[refused+1+i] = err
		p.notAccepted(r, err)
	}
}

// publishBatch is one call of PublishBatch.
type publishBatch struct {
	rs      []*kgo.Record
	open    []*pending // by index; nil: answered
	answers chan batchAnswer
	failed  map[int]error
}

type batchAnswer struct {
	i   int
	err error
}

// wait waits for all answers; for those that ctx cuts off, no longer.
func (b *publishBatch) wait(ctx context.Context, p *Producer) {
	patience := ctx.Done()
	for left := len(b.open); left > 0; {
		select {
		case a := <-b.answers:
			if b.open[a.i] = nil; a.err != nil {
				b.failed[a.i] = a.err
			}
			left--
		case <-patience:
			patience = nil
			left -= b.leave(ctx, p)
		}
	}
}

// leave ends the wait for what is not being answered.
func (b *publishBatch) leave(ctx context.Context, p *Producer) (n int) {
	for i, pd := range b.open {
		if pd != nil && pd.leave(b.rs[i]) {
			b.failed[i] = p.named(&pd.record, &UnconfirmedError{Err: ctx.Err()})
			n++
		}
	}
	return n
}
