package kstage

import (
	"cmp"
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/kstage/kstage/internal/hook"
	"github.com/kstage/kstage/internal/lanes"
)

// pipeline takes one record through one attempt: handler, verdict, and what
// follows from it. It is immutable and used by all workers.
type pipeline struct {
	handle    HandlerFunc // middleware folded in
	plain     bool        // no timeout, no durations, no events: most records are as quick as can be
	timeout   time.Duration
	policy    policy
	ladder    []stage
	dead      DeadPolicy
	claims    *claims // nil: no deduplication
	handOff   *handOff
	metrics   MetricsCollector
	events    bool      // somebody wants each one
	counters  *Counters // instead of a collector; nil: none
	durations bool
	log       *recordLog
	board     *healthBoard
	stop      func(error) // ends Run; starts nothing more
}

func newPipeline(c *Consumer) *pipeline {
	p := &pipeline{
		handle:  handle(c.cfg.handler),
		timeout: c.cfg.handlerTimeout,
		policy: policy{
			immediate: c.cfg.immediate, backoff: c.cfg.immediateBackoff, stages: c.cfg.delays, maxAge: c.cfg.maxAge,
			classify: c.guard.classifier(c.cfg.classifier), random: jitter,
		},
		ladder: c.cfg.stages(), dead: c.cfg.dead, claims: c.claims, handOff: c.handOff,
		metrics: c.metrics, events: wantsEvents(c.metrics), counters: countersOf(c.metrics), durations: c.metrics.Durations(),
		log: c.records, board: c.board, stop: c.stop,
	}
	p.plain = p.timeout == 0 && !p.durations && !p.events && p.claims == nil
	return p
}

// handle is h as a function: one call less for each record where it is one.
func handle(h Handler) HandlerFunc {
	if f, ok := h.(HandlerFunc); ok {
		return f
	}
	return h.Handle
}

// wantsEvents says that a collector is told of each record. Our own are not: an
// event a record costs more than all the rest of the pipeline.
func wantsEvents(m MetricsCollector) bool {
	switch m.(type) {
	case NopMetrics, *Counters:
		return false
	}
	return true
}

// countersOf is m where it only counts; else nil.
func countersOf(m MetricsCollector) *Counters {
	c, _ := m.(*Counters)
	return c
}

// run is what lanes calls for record i of b. It must not wait for a broker or a
// timer. The first half is the path of nearly every record: nothing is asked for
// that only a failure, a retry or a listener needs.
func (p *pipeline) run(b *batch, i int) time.Duration {
	if b.plain && b.holding.Load() == 0 {
		msg := b.message(i)
		err := p.handle(b.ctx, msg)
		if err != nil || b.w.gone.Load() {
			return p.settle(call{b: b, i: i, msg: msg, err: err})
		}
		return 0 // counted when lanes reports the range
	}
	h, ok := b.w.rerun(b, i)
	if !ok {
		return lanes.Never
	}
	if h != nil {
		return p.attempt(call{b: b, i: i, msg: h.message, h: h})
	}
	c := call{b: b, i: i, msg: b.message(i)}
	if b.facts == nil {
		return p.attempt(c)
	}
	return p.arrive(c)
}

// arrive begins with a record of a retry topic that is due.
func (p *pipeline) arrive(c call) time.Duration {
	now := hook.Now(c.b.w.ctx)
	c.late = now.Sub(c.msg.facts.retry.due)
	c.b.w.late.Store(int64(c.late))
	if v := await(&p.policy, c.msg.facts, now); v.kind != handleNow {
		a := attempt{now: now, firstFailedAt: c.msg.facts.firstFailedAt}
		if a.firstFailedAt.IsZero() { // forged: it would hop for ever
			a.firstFailedAt = now
		}
		return p.act(c, a, v)
	}
	return p.attempt(c)
}

// attempt claims the record, calls the handler once, and settles.
func (p *pipeline) attempt(c call) time.Duration {
	if p.claims != nil {
		if v := p.claims.before(c); v.kind != handleNow {
			return p.act(c, attempt{firstFailedAt: c.msg.facts.firstFailedAt}, v)
		}
	}
	var start time.Time
	if p.durations {
		start = time.Now()
	}
	c.err = p.call(c.b.w.ctx, c.msg)
	if p.durations {
		c.took = time.Since(start)
	}
	return p.settle(c)
}

// call runs the handler under its own timeout where there is one.
func (p *pipeline) call(ctx context.Context, msg Message) error {
	if p.timeout == 0 {
		return p.handle(ctx, msg)
	}
	limited, cancel := context.WithTimeoutCause(ctx, p.timeout, ErrHandlerTimeout)
	defer cancel()
	err := p.handle(limited, msg)
	if err != nil && context.Cause(limited) == ErrHandlerTimeout { //nolint:errorlint // the cause is ours, never wrapped
		return &timeoutError{p.timeout, readable(err)}
	}
	return err
}

// unwound is what lanes calls instead of taking run's answer when the handler
// panicked with v, or ended its goroutine (v is nil).
func (p *pipeline) unwound(b *batch, i int, v any) time.Duration {
	c := call{b: b, i: i, h: b.w.heldCopy(b, i), err: newPanicError(v)}
	if c.h != nil {
		c.msg = c.h.message
	} else {
		c.msg = b.message(i)
	}
	return p.settle(c)
}

// call is one handler call that has returned.
type call struct {
	b      *batch
	i      int
	msg    Message
	h      *held // the record's copy; nil at its first call
	err    error
	took   time.Duration
	late   time.Duration // of a record from a retry topic, at its first call here
	reason Reason        // of a dead record
}

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
		return p.finish(c, OutcomeProcessed, "")
	}
	l := c.b.w.takeClaim(c.msg.Record.Offset)
	hook.Stretch(hook.BeforeConfirm)
	if l == nil || p.claims.confirm(c.b.w.intake.base, l) == nil {
		return p.finish(c, OutcomeProcessed, "")
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

// finish ends the record. What its window has given up meanwhile is somebody
// else's: told as released.
func (p *pipeline) finish(c call, o Outcome, message string) time.Duration {
	switch {
	case c.h == nil && c.b.w.gone.Load(), c.h != nil && !c.b.w.resolve(c.h):
		o, message, c.reason = OutcomeReleased, "", ""
	case c.h != nil && c.h.blocks > 0:
		p.board.clearRecord(HealthStuckRecord, c.h.coordinates())
	}
	p.giveBack(c)
	p.tell(c, o, message)
	return 0
}

// giveBack lets go of a claim that is not confirmed.
func (p *pipeline) giveBack(c call) {
	if p.claims != nil {
		c.b.w.endClaim(c.msg.Record.Offset)
	}
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
	d := departure{topic: to.topic, stage: v.as, attempt: c.msg.facts.attempt, due: a.now.Add(to.delay), notBefore: v.notBefore, err: c.err, at: a.now}
	if !v.spends {
		d.attempt--
	}
	if !v.notBefore.IsZero() {
		d.due = earlier(d.due, v.notBefore)
	}
	p.handOff.start(h, d)
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
	c.b.w.giveUp(c.b, c.i)
	p.giveBack(c)
	c.reason = "" // it is not dead, whatever was decided
	p.tell(c, OutcomeReleased, "")
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
		d := departure{topic: p.handOff.dlq, stage: c.msg.facts.stage, attempt: c.msg.facts.attempt, reason: c.reason, err: c.err, at: a.now}
		if c.err == nil { // it expired: there was no call
			d.attempt--
		}
		p.handOff.start(h, d)
		return 0
	case Drop:
		return p.finish(c, OutcomeDropped, "record is dead and dropped: WithoutDLQ(Drop)")
	case Block:
		return p.block(c, a)
	case Stop:
		p.stop(&StoppedError{Coordinates: c.coordinates(), Err: cmp.Or(c.err, errExpired)})
		c.b.w.giveUp(c.b, c.i)
		p.giveBack(c)
		p.tell(c, OutcomeReleased, "record is dead and stops the consumer: WithoutDLQ(Stop)")
		return lanes.Never
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
