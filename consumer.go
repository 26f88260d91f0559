package kstage

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/kstage/kstage/internal/lanes"
)

// Consumer reads its topics, runs its handler, and commits what is finished. Its
// methods are safe for concurrent use, before, during and after Run.
type Consumer struct {
	cfg     consumerConfig
	ran     atomic.Bool
	failed  failure
	board   *healthBoard
	guard   *guard
	records *recordLog
	metrics MetricsCollector
	pool    *lanes.Pool[*batch]
	main    *intake
	handOff *handOff // without a dead-letter queue it only lends its client to the look at the topics
}

// NewConsumer makes a Consumer that gives records to h. It checks all options
// and reports every mistake at once; it opens no connection and starts nothing.
func NewConsumer(h Handler, opts ...ConsumerOption) (*Consumer, error) {
	cfg, err := newConsumerConfig(h, opts)
	if err != nil {
		return nil, err
	}
	c := &Consumer{cfg: cfg}
	c.board = newHealthBoard(func(e StateEvent) { c.metrics.StateChanged(e) })
	c.guard = &guard{log: cfg.logger, board: c.board}
	c.metrics = c.guard.collector(cfg.metrics)
	c.records = newRecordLog(&c.cfg, c.guard)
	c.handOff = newHandOff(c)
	p := newPipeline(c)
	c.pool = lanes.New(cfg.workers, 1, lanes.Work[*batch]{
		Run: p.run, Unwound: p.unwound, Ended: (*batch).ended, Key: keyFunc(cfg.ordering),
	})
	c.main = newIntake(c, p, 0)
	c.board.raise(HealthReason{Kind: HealthNotJoined, Partition: -1})
	return c, nil
}

// keyFunc gives lanes what is to be in order.
func keyFunc(o Ordering) func(*batch, int) (uint64, bool) {
	seed := maphash.MakeSeed()
	switch o {
	case ByKey:
		return func(b *batch, i int) (uint64, bool) {
			k := b.records[i].Key
			return maphash.Bytes(seed, k), k != nil
		}
	case ByPartition:
		return func(*batch, int) (uint64, bool) { return 0, true }
	case Unordered:
		return func(*batch, int) (uint64, bool) { return 0, false }
	}
	panic("kstage: BUG: unknown ordering")
}

// Run consumes until ctx is done, then drains: it fetches nothing more, lets
// running handlers end, commits, leaves the group and returns nil.
//
// It returns an error when it cannot go on: *TopologyError where topics are
// missing or unfit, *StoppedError, *GapError, a wrapped broker error for wrong
// credentials, an authorization refused for a minute, or an instance id that
// another process uses. *DrainError says that the end took longer than
// WithShutdownTimeout allows. An unreachable broker is no error: Run keeps
// trying (see WithStartTimeout), and Health says HealthNotJoined.
//
// A Consumer runs once: a second Run returns ErrAlreadyRun.
func (c *Consumer) Run(ctx context.Context) error {
	if !c.ran.CompareAndSwap(false, true) {
		return ErrAlreadyRun
	}
	var telling sync.WaitGroup
	ended := make(chan struct{})
	telling.Go(func() { c.board.tellAll(ended) })
	err := c.run(ctx)
	c.board.end(c.records.shown(err))
	close(ended)
	telling.Wait()
	return err
}

func (c *Consumer) run(ctx context.Context) error {
	base := context.WithoutCancel(ctx)
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.failed.onSet(func() { cancel(errFailed) })
	if err := c.handOff.connect(base, &c.cfg); err != nil {
		return err
	}
	defer c.handOff.close()
	adm := topicAdmin{c.handOff.client}
	if err := c.prepare(running, adm); err != nil {
		return c.failed.or(endedBy(running, err))
	}
	if err := c.main.connect(base); err != nil {
		return err
	}
	return c.failed.or(c.serve(running, adm))
}

var errFailed = errors.New("kstage: the consumer failed")

// endedBy is nil where err only says that ctx is done.
func endedBy(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// serve runs the loops until ctx is done, then shuts down.
func (c *Consumer) serve(ctx context.Context, adm topicAdmin) error {
	base := context.WithoutCancel(ctx)
	loops, stopLoops := context.WithCancel(base)
	defer stopLoops()
	watcher := newTopicWatcher(c.main, adm)
	var running sync.WaitGroup
	running.Go(func() { c.main.committer(loops) })
	running.Go(func() { c.main.pauser(loops) })
	running.Go(func() { watcher.watch(loops) })
	running.Go(func() { c.main.poll(ctx) })
	<-ctx.Done()
	return c.shutdown(base, stopLoops, &running)
}

// Pause stops fetching the named topics, or all where none is named, until
// Resume. Records that were fetched before are still handled. It outlives
// rebalances. Pausing what is paused changes nothing.
func (c *Consumer) Pause(topics ...string) {
	c.main.setPaused(true, topics)
}

// Resume ends what Pause began: with no names, all of it; of a pause of all
// topics, single ones cannot be resumed.
func (c *Consumer) Resume(topics ...string) {
	c.main.setPaused(false, topics)
}

// Skip finishes one record by an operator's decision: it is committed and goes
// nowhere. The record must be waiting: for an immediate retry, blocked by
// WithoutDLQ(Block), or in a failing hand-off; ErrNotParked where it is not.
func (c *Consumer) Skip(topic string, partition int32, offset int64) error {
	co := Coordinates{topic, partition, offset}
	h := c.main.waiting(co)
	if h == nil || !c.takeOut(h) || !h.b.w.resolve(h) {
		return fmt.Errorf("%w: %s", ErrNotParked, co)
	}
	c.board.clearRecord(HealthStuckRecord, co)
	c.board.clearRecord(HealthOversize, co)
	msg := Message{Record: h.record, facts: &h.facts}
	c.metrics.Handled(HandledEvent{Topic: topic, Partition: partition, Stage: msg.Stage(), Attempt: msg.Attempt(), Outcome: OutcomeSkipped})
	c.records.record(h.b.w.ctx, zapcore.WarnLevel, "record skipped by Consumer.Skip", msg, zap.Stringer("outcome", OutcomeSkipped))
	return nil
}

// takeOut takes a waiting record away from whoever would go on with it.
func (c *Consumer) takeOut(h *held) bool {
	return h.b.w.lane.Drop(h.b, h.i) || c.handOff.skip(h)
}

// Topology names the topics and groups this consumer uses.
func (c *Consumer) Topology() Topology { return c.cfg.topology() }

// Health says how the consumer is, without asking anybody.
func (c *Consumer) Health() Health { return c.board.health(!c.main.stalled(time.Now())) }

// Stats tells where each assigned partition stands, sorted by topic and
// partition. It takes locks that the consumer's own work needs: call it each few
// seconds, not in a loop.
func (c *Consumer) Stats() Stats { return Stats{Partitions: c.main.stats()} }

// stop ends Run with err after a drain, and at once starts nothing more.
func (c *Consumer) stop(err error) {
	c.failed.set(err)
	c.main.stop()
}

// failure is the first error that ends Run. Its zero value is ready.
type failure struct {
	mu  sync.Mutex // guards err and fn
	err error
	fn  func()
}

// set notes err, unless another was before it.
func (f *failure) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return
	}
	f.err = err
	if f.fn != nil {
		f.fn()
	}
}

// onSet calls fn, once, when there is an error.
func (f *failure) onSet(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fn = fn
	if f.err != nil {
		fn()
	}
}

// or joins what failed with how the end went.
func (f *failure) or(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.err == nil:
		return err
	case err == nil:
		return f.err
	}
	return errors.Join(f.err, err)
}
