package kstage

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
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
	retry   *intake  // of the retry topics; nil without stages
	claims  *claims  // nil: no deduplication
	handOff *handOff // without a topic to write to it only lends its client to the look at the topics

	asks     atomic.Pointer[kgo.Client] // for a broker's sign of life: the hand-off's client; nil while Run does not run
	lookSoon chan struct{}              // one slot: a poll met an unknown topic; read by the topic watcher
	identify func(*kgo.Record) string   // WithMessageID; nil: none
	pausing  sync.Mutex                 // makes Pause and Resume one after the other, of all intakes and in Health; taken before their mu
}

// NewConsumer makes a Consumer that gives records to h. It checks all options
// and reports every mistake at once; it opens no connection and starts nothing.
func NewConsumer(h Handler, opts ...ConsumerOption) (*Consumer, error) {
	cfg, err := newConsumerConfig(h, opts)
	if err != nil {
		return nil, err
	}
	cfg.warn()
	c := &Consumer{cfg: cfg, lookSoon: make(chan struct{}, 1)}
	c.board = newHealthBoard(func(e StateEvent) { c.metrics.StateChanged(e) })
	c.guard = &guard{log: cfg.logger, board: c.board}
	c.metrics = c.guard.collector(cfg.metrics)
	c.records = newRecordLog(&c.cfg, c.guard)
	c.identify = c.guard.messageID(cfg.messageID)
	c.handOff = newHandOff(c)
	c.claims = newClaims(c)
	p := newPipeline(c)
	work := lanes.Work[*batch]{Run: p.run, Unwound: p.unwound, Ended: (*batch).ended, Key: keyFunc(cfg.ordering)}
	c.pool = lanes.New(cfg.workers, min(2, 1+len(cfg.delays)), work)
	c.main = newIntake(c, p, cfg.mainFeed())
	if len(cfg.delays) > 0 {
		c.retry = newIntake(c, p, cfg.retryFeed(c.identify))
	}
	for _, in := range c.intakes() {
		c.board.raise(HealthReason{Kind: HealthNotJoined, Partition: -1, Group: in.feed.group})
	}
	return c, nil
}

// intakes lists them: of the main topics, and of the retry topics where there are any.
func (c *Consumer) intakes() []*intake {
	if c.retry == nil {
		return []*intake{c.main}
	}
	return []*intake{c.main, c.retry}
}

// intakeOf returns the one that reads a topic.
func (c *Consumer) intakeOf(topic string) *intake {
	if c.retry != nil && c.retry.feed.stages[topic] != nil {
		return c.retry
	}
	return c.main
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
	endTelling := c.board.tell()
	err := c.run(ctx)
	c.board.end(c.cfg.group, c.records.shown(err))
	endTelling()
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
	c.asks.Store(c.handOff.client)
	defer c.asks.Store(nil)
	adm := topicAdmin{c.handOff.client}
	seen, err := c.prepare(running, adm)
	if err != nil {
		return c.failed.or(endedBy(running, err))
	}
	for _, in := range c.intakes() {
		if err := in.connect(base); err != nil {
			c.disconnect()
			return err
		}
	}
	return c.failed.or(c.serve(running, adm, seen))
}

// disconnect ends the clients of a Run that does not begin.
func (c *Consumer) disconnect() {
	for _, in := range c.intakes() {
		if in.kill != nil {
			in.kill()
		}
		if in.client != nil {
			in.client.CloseAllowingRebalance()
		}
	}
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
func (c *Consumer) serve(ctx context.Context, adm topicAdmin, seen *sight) error {
	base := context.WithoutCancel(ctx)
	loops, stopLoops := context.WithCancel(base)
	defer stopLoops()
	watcher := newTopicWatcher(c, adm, seen)
	var running sync.WaitGroup
	running.Go(func() { watcher.watch(loops) })
	if c.claims != nil {
		running.Go(func() { c.claims.keep(loops) })
	}
	for _, in := range c.intakes() {
		running.Go(func() { in.committer(loops) })
		running.Go(func() { in.pauser(loops) })
		running.Go(func() { in.poll(ctx) })
	}
	<-ctx.Done()
	return c.shutdown(base, stopLoops, &running)
}

// Pause stops fetching the named topics, or all where none is named, retry topics
// included, until Resume. Records that were fetched before are still handled. It
// outlives rebalances. Pausing what is paused changes nothing.
func (c *Consumer) Pause(topics ...string) { c.setPaused(true, topics) }

// Resume ends what Pause began: with no names, all of it; of a pause of all
// topics, single ones cannot be resumed.
func (c *Consumer) Resume(topics ...string) { c.setPaused(false, topics) }

// setPaused tells Health under the same lock, or two callers at once could leave it
// with the earlier state.
func (c *Consumer) setPaused(paused bool, topics []string) {
	c.pausing.Lock()
	defer c.pausing.Unlock()
	for _, in := range c.intakes() {
		in.setPaused(paused, topics)
	}
	c.board.replace(HealthPaused, c.main.pausedByUser()) // all intakes are told the same
}

// Skip finishes one record by an operator's decision: it is committed and goes
// nowhere. The record must be waiting: for an immediate retry, blocked by
// WithoutDLQ(Block), or in a failing hand-off; ErrNotParked where it is not.
func (c *Consumer) Skip(topic string, partition int32, offset int64) error {
	co := Coordinates{topic, partition, offset}
	h := c.intakeOf(topic).waiting(co)
	if h == nil || !c.takeOut(h) || !h.b.w.resolve(h) {
		return fmt.Errorf("%w: %s", ErrNotParked, co)
	}
	c.board.clearRecord(HealthStuckRecord, co)
	c.board.clearRecord(HealthOversize, co)
	msg := Message{Record: &h.record, facts: &h.facts}
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
func (c *Consumer) Health() Health {
	now := time.Now()
	stalled := slices.ContainsFunc(c.intakes(), func(in *intake) bool { return in.stalled(now) })
	return c.board.health(!stalled)
}

// Stats tells where each assigned partition stands: of the main topics, then of the
// retry topics, each sorted by topic and partition. It takes locks that the consumer's own work needs: call it each few
// seconds, not in a loop.
func (c *Consumer) Stats() (s Stats) {
	for _, in := range c.intakes() {
		s.Partitions = append(s.Partitions, in.stats()...)
	}
	return s
}

// stop ends Run with err after a drain, and at once starts nothing more.
func (c *Consumer) stop(err error) {
	c.failed.set(err)
	for _, in := range c.intakes() {
		in.stop()
	}
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
