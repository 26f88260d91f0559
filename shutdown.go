package kstage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
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

	ws := c.main.stop()
	if !c.main.settle(ws, soft) {
		for _, w := range ws {
			w.cancel(ErrShutdown)
		}
		c.main.settle(ws, hard/5)
	}
	stopLoops()
	c.main.endDrains()

	limited, cancel := context.WithDeadline(base, end.Add(-min(closeReserve, hard/5)))
	defer cancel()
	abandoned, err := c.main.finish(limited, end.Add(-min(closeReserve, 2*hard/5)))
	c.leave(limited)
	loops.Wait()
	if len(abandoned) > 0 {
		return errors.Join(&DrainError{Abandoned: abandoned}, err)
	}
	return err
}

// leave leaves the group and ends the client, and with it a poll under way.
func (c *Consumer) leave(ctx context.Context) {
	if err := c.main.client.LeaveGroupContext(ctx); err != nil {
		c.cfg.logger.Warn("could not leave the group: its session has to run out", zap.Error(err))
	}
	c.main.client.CloseAllowingRebalance()
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

// settle waits for running handlers and copies on their way; false when limit
// passed before.
func (in *intake) settle(ws []*window, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	return arrive(ws, timer.C, nil)
}

// endDrains ends the drain of a rebalance that runs beside the shutdown.
func (in *intake) endDrains() { close(in.late) }

// finish commits what is finished and gives all partitions back. It returns the
// records that are still in progress.
func (in *intake) finish(ctx context.Context, commitBy time.Time) ([]Coordinates, error) {
	if err := in.gate.enterWithin(ctx); err != nil {
		return in.abandon(), fmt.Errorf("kstage: a commit hangs; what was finished since the last one is handled again: %w", err)
	}
	defer in.gate.leave()
	limited, cancel := context.WithDeadline(ctx, commitBy)
	defer cancel()
	ws := in.snapshot()
	in.commit(limited, ws)
	var err error
	for _, w := range ws {
		if m, ok := w.mark(); ok {
			err = errors.Join(err, fmt.Errorf("kstage: %s/%d: offset %d could not be committed: what was finished since the last commit is handled again", w.topic, w.partition, m.Offset))
		}
	}
	return in.abandon(), err
}

// abandon gives all partitions back and lists what is in progress in them, and in
// those that went before.
func (in *intake) abandon() (cs []Coordinates) {
	ws := in.snapshot()
	in.mu.Lock()
	zombies := slices.Clone(in.zombies)
	in.mu.Unlock()
	for _, w := range slices.Concat(ws, zombies) {
		cs = append(cs, w.inProgress()...)
	}
	in.giveBack(ws, PartitionsRevoked, 0)
	return cs
}
