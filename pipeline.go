package kstage

import (
	"context"
	"time"

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
