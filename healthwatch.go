package kstage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// watchEvery is the interval of a watch that asks for none.
const watchEvery = 30 * time.Second

// Transition is a change that WatchHealth has seen, or its first look.
type Transition struct {
	Before, After Health
}

// Reconnected says that brokers answer again: no broker could be reached before, and
// now one can. The first connection is none.
func (t Transition) Reconnected() bool {
	before, was := t.Before.disconnected()
	_, is := t.After.disconnected()
	return was && before.Err != nil && !is // without an error none was asked yet
}

func (h Health) disconnected() (HealthReason, bool) {
	for _, r := range h.Reasons {
		if r.Kind == HealthDisconnected {
			return r, true
		}
	}
	return HealthReason{}, false
}

// same says that nothing has changed but errors.
func (h Health) same(other Health) bool {
	if h.Live != other.Live || h.Ready != other.Ready || len(h.Reasons) != len(other.Reasons) {
		return false
	}
	for i, r := range h.Reasons { // both are sorted
		if keyOf(r) != keyOf(other.Reasons[i]) {
			return false
		}
	}
	return true
}

// HealthCheck asks a broker for a sign of life, until ctx ends, and then says what keeps the
// consumer from being ready. Nil: a broker answers, and Health is Ready. Before and
// after Run it is ErrNotRunning.
func (c *Consumer) HealthCheck(ctx context.Context) error {
	if err := c.ask(ctx); err != nil {
		return err
	}
	return c.Health().unready()
}

// ask asks a broker for a sign of life.
func (c *Consumer) ask(ctx context.Context) error {
	cl := c.asks.Load()
	if cl == nil {
		return ErrNotRunning
	}
	err := askBroker(ctx, cl)
	if errors.Is(err, kgo.ErrClientClosed) { // meanwhile
		return ErrNotRunning
	}
	return err
}

// unready is what keeps from being ready, as an error.
func (h Health) unready() error {
	if h.Ready {
		return nil
	}
	errs := []error{errors.New("kstage: not ready")}
	for _, r := range h.Reasons {
		if r.Kind.hindersReady() {
			errs = append(errs, &reasonError{r})
		}
	}
	return errors.Join(errs...)
}

// reasonError is a reason as an error: it wraps the reason's.
type reasonError struct{ r HealthReason }

func (e *reasonError) Error() string { return e.r.String() }
func (e *reasonError) Unwrap() error { return e.r.Err }

var errUnreached = errors.New("kstage: no broker answers")

// askBroker asks any broker for a sign of life.
func askBroker(ctx context.Context, cl *kgo.Client) error {
	_, err := within(ctx, func() (struct{}, error) { return struct{}{}, topicAdmin{cl}.ping(ctx) })
	switch {
	case err == nil:
		return nil
	case isAuthentication(err):
		return explain(err, "")
	case errors.Is(err, kgo.ErrClientClosed):
		return err
	}
	return fmt.Errorf("%w: %w", errUnreached, err)
}

// WatchHealth asks a broker for a sign of life at once and then every so often. It calls f
// after the first look, and when Health has changed since the last one: Live, Ready, or
// the set of reasons. It returns when ctx is done, so it is to be called with go. What
// comes and goes between two looks is not seen. Where no broker answers, Health says
// HealthDisconnected, also when nothing else would have noticed; the client connects again
// by itself.
//
// f is called by one goroutine, one call after the other; while it runs nobody looks. A
// panic in it shows in Health. every of zero or less is 30 s. Several may watch.
func (c *Consumer) WatchHealth(ctx context.Context, every time.Duration, f func(Transition)) {
	w := watch{board: c.board, guard: c.guard, health: c.Health, ask: c.ask}
	w.run(ctx, every, f)
}

// WatchHealth is Consumer.WatchHealth, of a Producer.
func (p *Producer) WatchHealth(ctx context.Context, every time.Duration, f func(Transition)) {
	w := watch{board: p.board, guard: p.guard, health: p.Health, ask: p.HealthCheck}
	w.run(ctx, every, f)
}

// watch looks at what has a healthBoard.
type watch struct {
	board  *healthBoard
	guard  *guard
	health func() Health
	ask    func(context.Context) error // a broker
}

func (w *watch) run(ctx context.Context, every time.Duration, f func(Transition)) {
	if every <= 0 {
		every = watchEvery
	}
	before := w.health()
	for first := true; ; first = false {
		w.look(ctx)
		if ctx.Err() != nil {
			return
		}
		after := w.health()
		if first || !after.same(before) {
			w.tell(f, Transition{before, after})
		}
		before = after
		wait(ctx, every, nil)
	}
}

func (w *watch) look(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	err := w.ask(limited)
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, errUnreached):
		w.board.raise(HealthReason{Kind: HealthDisconnected, Partition: -1, Err: err})
	case err == nil:
		w.board.clear(HealthDisconnected, "", -1)
	}
}

func (w *watch) tell(f func(Transition), t Transition) {
	defer w.guard.caught("WatchHealth's function")
	f(t)
}
