package kstage

import (
	"cmp"
	"errors"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/kstage/kstage/internal/hook"
	"github.com/kstage/kstage/internal/lanes"
)

// What follows from a handler call: the verdict, and what it asks for.

// settle judges a call that has returned, and acts.
func (p *pipeline) settle(c call) time.Duration {
	hook.Stretch(hook.AfterHandler)
	if c.err != nil {
		c.err = readable(c.err)
	}
	a := c.facts()
	return p.act(c, a, judge(&p.policy, a, c.err))
}

// act does what a verdict asks for, and says how long the record's key has to wait.
func (p *pipeline) act(c call, a attempt, v verdict) time.Duration {
	if p.counters != nil {
		c.b.done.SetApart(c.i) // tell counts it
	}
	switch v.kind {
	case finished:
		return p.handled(c)
	case duplicate:
		return p.finish(c, OutcomeDuplicate, "")
	case unclaimed:
		return p.waitForClaim(c, a, v)
	case skipped:
		return p.finish(c, OutcomeSkipped, "")
	case foreign:
		p.board.raiseFor(noticeFor, HealthReason{Kind: HealthForeignRecords, Topic: c.b.w.topic, Partition: -1})
		return p.finish(c, OutcomeForeign, "")
	case retryHere:
		return p.retryHere(c, a, v)
	case retryLater:
		return p.leave(c, a, v, laterOutcome(v))
	case hopped:
		return p.leave(c, a, v, OutcomeHopped)
	case dead:
		c.reason = v.reason
		return p.bury(c, a)
	case released:
		return p.release(c)
	case handleNow:
	}
	panic("kstage: BUG: unknown verdict")
}

// laterOutcome tells a failure from a snooze.
func laterOutcome(v verdict) Outcome {
	if v.spends {
		return OutcomeRetryLater
	}
	return OutcomeSnoozed
}

// facts gathers what judge goes by. A nil error needs none of it.
func (c *call) facts() attempt {
	if c.err == nil {
		return attempt{}
	}
	a := attempt{now: hook.Now(c.b.w.ctx), cancelled: c.b.w.ctx.Err() != nil, stage: c.msg.facts.stage, number: c.msg.facts.attempt, firstFailedAt: c.msg.facts.firstFailedAt}
	if a.firstFailedAt.IsZero() {
		a.firstFailedAt = a.now
	}
	if c.h != nil {
		a.retries, a.blocked = c.h.retries, c.h.blocks > 0
	}
	return a
}

// handled ends a record whose handler returned nil: confirmed first where it was
// claimed, whoever has the partition by now.
func (p *pipeline) handled(c call) time.Duration {
	if p.claims == nil {
		return p.end(c, OutcomeProcessed, "")
	}
	l := c.b.w.takeClaim(c.msg.Record.Offset)
	hook.Stretch(hook.BeforeConfirm)
	if l == nil || p.claims.confirm(c.b.w.intake.base, l) == nil {
		return p.end(c, OutcomeProcessed, "")
	}
	return p.confirmLater(c, l)
}

// confirmLater keeps the record open until the store has answered; its key goes on.
// The handler is not called again while the assignment lives.
func (p *pipeline) confirmLater(c call, l *lent) time.Duration {
	h := c.hold(c.msg.facts.firstFailedAt)
	if !c.b.w.hold(h, heldConfirming) {
		p.claims.confirmAgain(l, nil)
		return p.release(c)
	}
	p.claims.confirmAgain(l, func() {
		if c.b.w.resolve(h) {
			p.board.clearRecord(HealthStuckRecord, h.coordinates())
			p.tell(c, OutcomeProcessed, "")
		}
	})
	return 0
}

// waitForClaim lets the key wait until the store is asked again. It is no attempt.
func (p *pipeline) waitForClaim(c call, a attempt, v verdict) time.Duration {
	h := c.hold(a.firstFailedAt)
	h.spent = false
	if !c.b.w.hold(h, heldParked) {
		return p.release(c)
	}
	return v.wait
}

// finish ends a record whose claim, if it has one, is not confirmed.
func (p *pipeline) finish(c call, o Outcome, message string) time.Duration {
	p.giveBack(c)
	return p.end(c, o, message)
}

// giveBack lets go of a claim that is not confirmed.
func (p *pipeline) giveBack(c call) {
	if p.claims != nil {
		c.b.w.endClaim(c.msg.Record.Offset)
	}
}

// end finishes the record. What its window has given up meanwhile is somebody else's:
// told as released.
func (p *pipeline) end(c call, o Outcome, message string) time.Duration {
	switch {
	case c.h == nil && c.b.w.gone.Load(), c.h != nil && !c.b.w.resolve(c.h):
		o, message, c.reason = OutcomeReleased, "", ""
	case c.h != nil && c.h.blocks > 0:
		p.board.clearRecord(HealthStuckRecord, c.h.coordinates())
	}
	p.tell(c, o, message)
	return 0
}

// retryHere lets the key wait and then handles the record again.
func (p *pipeline) retryHere(c call, a attempt, v verdict) time.Duration {
	h := c.hold(a.firstFailedAt)
	o := OutcomeSnoozed
	if h.spent = v.spends; v.spends {
		o = OutcomeRetryHere
		h.retries++
	}
	if !c.b.w.hold(h, heldParked) {
		return p.release(c)
	}
	p.tell(c, o, "")
	hook.Stretch(hook.BeforePark)
	return v.wait
}

// leave sends a copy to a retry topic; the key goes on.
func (p *pipeline) leave(c call, a attempt, v verdict, o Outcome) time.Duration {
	h := c.hold(a.firstFailedAt)
	if !c.b.w.hold(h, heldLeaving) {
		return p.release(c)
	}
	p.tell(c, o, "")
	hook.Stretch(hook.BeforeDepart)
	to := p.ladder[v.to-1]
	d := departure{topic: to.topic, stage: v.as, attempt: c.msg.facts.attempt, due: a.now.Add(to.delay), notBefore: v.notBefore, lastFailure: lastFailure{at: a.now}}
	if !v.spends {
		d.attempt--
	}
	if !v.notBefore.IsZero() {
		d.due = earlier(d.due, v.notBefore)
	}
	p.handOff.start(h, d, c.err)
	return 0
}

// hold returns the record's copy, making it when it is needed for the first time.
func (c *call) hold(firstFailedAt time.Time) *held {
	h := c.h
	if h == nil {
		h = newHeld(c.b, c.i, c.msg.Record, c.msg.facts)
	}
	h.facts.firstFailedAt = firstFailedAt
	return h
}

// release leaves no trace of the attempt: whoever gets the partition next handles
// the record again.
func (p *pipeline) release(c call) time.Duration {
	c.reason = "" // it is not dead, whatever was decided
	return p.letGo(c, "")
}

func (p *pipeline) letGo(c call, message string) time.Duration {
	c.b.w.giveUp(c.b, c.i)
	p.giveBack(c)
	p.tell(c, OutcomeReleased, message)
	return lanes.Never
}

// bury does with a dead record what the options say.
func (p *pipeline) bury(c call, a attempt) time.Duration {
	switch p.dead {
	case 0:
		h := c.hold(a.firstFailedAt)
		if !c.b.w.hold(h, heldLeaving) {
			return p.release(c)
		}
		p.tell(c, OutcomeDead, "record is dead: to the dead-letter topic")
		d := departure{topic: p.handOff.dlq, stage: c.msg.facts.stage, attempt: c.msg.facts.attempt, reason: c.reason, lastFailure: lastFailure{at: a.now}}
		if c.err == nil { // it expired: there was no call
			d.attempt--
		}
		p.handOff.start(h, d, c.err)
		return 0
	case Drop:
		return p.finish(c, OutcomeDropped, "record is dead and dropped: WithoutDLQ(Drop)")
	case Block:
		return p.block(c, a)
	case Stop:
		p.stop(&StoppedError{Coordinates: c.coordinates(), Err: cmp.Or(c.err, errExpired)})
		return p.letGo(c, "record is dead and stops the consumer: WithoutDLQ(Stop)")
	}
	panic("kstage: BUG: unknown dead policy")
}

// errExpired is why a record is dead whose handler was not called.
var errExpired = errors.New("kstage: older than WithMaxAge allows")

// blockBackoff paces the calls of a handler whose dead record blocks its key.
var blockBackoff = Backoff{Min: time.Second, Max: time.Minute} //nolint:gochecknoglobals // a constant in all but type

// block keeps a dead record: its key waits until the handler takes it or Skip does.
func (p *pipeline) block(c call, a attempt) time.Duration {
	h := c.hold(a.firstFailedAt)
	h.blocks++
	h.spent = false // calls of a blocked record are no attempts
	if !c.b.w.hold(h, heldParked) {
		return p.release(c)
	}
	co := c.coordinates()
	p.board.raise(HealthReason{Kind: HealthStuckRecord, Topic: co.Topic, Partition: co.Partition, Offset: co.Offset, Err: p.log.redacted(cmp.Or(c.err, errExpired))})
	if c.b.w.gone.Load() { // meanwhile, and what Health said of it was taken back before it was said
		p.board.clearRecord(HealthStuckRecord, co)
	}
	if h.blocks == 1 {
		p.tell(c, OutcomeRetryHere, "record is dead and blocks its key: WithoutDLQ(Block)")
	} else {
		p.tell(c, OutcomeRetryHere, "")
	}
	limit := blockBackoff.limit(h.blocks)
	wait := limit/2 + blockBackoff.wait(h.blocks, p.policy.random)/2
	if r := h.facts.retry; r != nil { // it may have expired while it hopped
		wait = max(wait, r.notBefore.Sub(a.now))
	}
	return wait
}

func (c *call) coordinates() Coordinates {
	return Coordinates{c.msg.Record.Topic, c.msg.Record.Partition, c.msg.Record.Offset}
}

func (h *held) coordinates() Coordinates {
	return Coordinates{h.record.Topic, h.record.Partition, h.record.Offset}
}

// tell reports the call. A message makes it an error line, else it is one at debug.
func (p *pipeline) tell(c call, o Outcome, message string) {
	if p.events || p.counters != nil {
		p.metrics.Handled(HandledEvent{
			Topic: c.b.w.topic, Partition: c.b.w.partition, Stage: c.msg.facts.stage, Attempt: c.msg.facts.attempt,
			Outcome: o, Reason: c.reason, Duration: c.took, Late: c.late, Err: c.err,
		})
	}
	switch {
	case message != "":
		p.log.record(c.b.w.ctx, zapcore.ErrorLevel, message, c.msg, zap.Stringer("outcome", o), zap.String("reason", string(c.reason)), p.log.err(c.err))
	case c.b.debug:
		p.log.record(c.b.w.ctx, zapcore.DebugLevel, "record handled", c.msg, zap.Stringer("outcome", o), p.log.err(c.err))
	}
}
