package kstage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/kstage/kstage/internal/hook"
)

// closeReserve is kept of the hard limit for the client's own end, which takes
// up to so long when brokers do not answer.
const closeReserve = 2 * time.Second

// shutdown drains. The soft limit is the running handlers'; all that comes after
// it fits into the hard one: cancelled handlers and copies on their way a fifth
// of it, then the commit, the leave and the client's end.
func (c *Consumer) shutdown(base context.Context, stopLoops func(), loops *sync.WaitGroup) error {
	soft, hard := c.cfg.softShutdown, c.cfg.hardShutdown
	end := time.Now().Add(soft + hard)
	c.board.raise(HealthReason{Kind: HealthDraining, Partition: -1})
	c.cfg.logger.Info("shutting down: running handlers may end", zap.Duration("soft", soft))

	ws := c.stopIntakes()
	if !settle(ws, soft) {
		for _, w := range ws {
			w.cancel(ErrShutdown)
		}
		settle(ws, hard/5)
	}
	hook.Stretch(hook.BeforeEnd)
	stopLoops()
	var over sync.WaitGroup
	ends := make([]intakeEnd, len(c.intakes()))
	for i, in := range c.intakes() {
		over.Go(func() { ends[i] = in.end(base, end, hard) })
	}
	over.Wait()
	loops.Wait()
	c.flushClaims(base, end)
	return joinEnds(ends)
}

// flushClaims lets others have what this consumer does not hold any more.
func (c *Consumer) flushClaims(base context.Context, end time.Time) {
	if c.claims == nil {
		return
	}
	limited, cancel := context.WithTimeout(base, min(flushLimit, max(time.Until(end), 0)))
	defer cancel()
	c.claims.flush(limited)
}

// stopIntakes lets nothing new start anywhere, and returns the windows that are left.
func (c *Consumer) stopIntakes() (ws []*window) {
	for _, in := range c.intakes() {
		ws = append(ws, in.stop()...)
	}
	return ws
}

// settle waits for running handlers and copies on their way; false when limit
// passed before.
func settle(ws []*window, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	return arrive(ws, timer.C, nil)
}

// intakeEnd is how one intake ended.
type intakeEnd struct {
	abandoned []Coordinates
	err       error
}

func joinEnds(ends []intakeEnd) error {
	var abandoned []Coordinates
	var errs []error
	for _, e := range ends {
		abandoned = append(abandoned, e.abandoned...)
		errs = append(errs, e.err)
	}
	if len(abandoned) > 0 {
		errs = append([]error{&DrainError{Abandoned: abandoned}}, errs...)
	}
	return errors.Join(errs...)
}

// end commits, leaves the group and ends the client.
func (in *intake) end(base context.Context, end time.Time, hard time.Duration) (e intakeEnd) {
	close(in.late)
	limited, cancel := context.WithDeadline(base, end.Add(-min(closeReserve, hard/5)))
	defer cancel()
	stop := context.AfterFunc(limited, in.kill)
	defer stop()
	e.abandoned, e.err = in.finish(limited, end.Add(-min(closeReserve, 2*hard/5)))
	hook.Stretch(hook.BeforeLeave)
	in.leave(limited)
	return e
}

// leave leaves the group and ends the client, and with it a poll under way.
func (in *intake) leave(ctx context.Context) {
	defer in.kill()
	if err := in.client.LeaveGroupContext(ctx); err != nil {
		in.log.Warn("could not leave the group: its session has to run out", zap.String("group", in.feed.group), zap.Error(err))
	}
	in.client.CloseAllowingRebalance()
	in.client.AllowRebalance() // the close polls, too: what that returns would hold a goroutine of the client for ever
}

// stop lets nothing new start, and no partition come, and returns what is left.
func (in *intake) stop() []*window {
	in.mu.Lock()
	in.stopping = true
	ws := slices.Concat(in.all(), in.zombies)
	in.mu.Unlock()
	for _, w := range ws {
		w.fence()
	}
	return ws
}

// finish commits what is finished and gives all partitions back. It returns the
// records that are still in progress, and an error for what is not committed.
func (in *intake) finish(ctx context.Context, commitBy time.Time) ([]Coordinates, error) {
	limited, cancel := context.WithDeadline(ctx, commitBy)
	defer cancel()
	cause := in.commitRest(limited)
	entered := in.gate.enterWithin(ctx) == nil // else a commit hangs, and must not hold up the end
	in.noteUncommitted(in.snapshot(), cause)
	abandoned, given := in.abandon()
	if entered {
		in.gate.leave()
	}
	in.tellGiven(given, 0)
	in.mu.Lock()
	defer in.mu.Unlock()
	return abandoned, in.uncommitted
}

// commitRest commits until nothing is left, no try can help, or ctx is done: a
// rebalance or a coordinator that moves must not make finished records be handled
// again. Between the tries it leaves the gate: a rebalance may need it. It returns
// how the last try failed.
func (in *intake) commitRest(ctx context.Context) error {
	for {
		if err := in.gate.enterWithin(ctx); err != nil {
			return fmt.Errorf("a commit hangs: %w", err)
		}
		events := in.commit(ctx, in.snapshot())
		in.gate.leave()
		in.tellCommitted(events)
		err := firstFailure(events)
		if err == nil || isHopeless(err) || ctx.Err() != nil {
			return err
		}
		wait(ctx, commitPause, nil)
	}
}

// noteUncommitted keeps for Run's error what is finished in windows that are about
// to be forgotten, and was not committed. Before the shutdown it is no error of
// Run's.
func (in *intake) noteUncommitted(ws []*window, cause error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.stopping {
		return
	}
	for _, w := range ws {
		if m, ok := w.mark(); ok {
			in.uncommitted = errors.Join(in.uncommitted, fmt.Errorf("kstage: %s/%d: offset %d is not committed, what was finished since the last commit is handled again: %w",
				w.topic, w.partition, m.Offset, cmp.Or(cause, errTooLate)))
		}
	}
}

// errTooLate: it was finished after the last commit.
var errTooLate = errors.New("it was finished too late")

// abandon gives all partitions back and lists what is in progress in them, and in
// those that went before.
func (in *intake) abandon() (cs []Coordinates, given map[string]*AssignedEvent) {
	ws := in.snapshot()
	in.mu.Lock()
	zombies := slices.Clone(in.zombies)
	in.mu.Unlock()
	for _, w := range slices.Concat(ws, zombies) {
		cs = append(cs, w.inProgress()...)
	}
	return cs, in.forgetAll(ws, PartitionsRevoked)
}
