package kstage

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/kstage/kstage/internal/hook"
	"github.com/kstage/kstage/internal/lanes"
)

const (
	pollTimeout     = 10 * time.Second       // so that an idle poll loop is seen to turn
	stalledAfter    = time.Minute            // a loop that has not turned for so long is not live
	firstErrorPause = 250 * time.Millisecond // between polls that hold only errors: the client may return them without end
	maxErrorPause   = time.Second
)

// intake is one client and its group: it fetches, keeps a window for each
// assigned partition, pauses what is full, and commits.
//
// Lock order: gate, then mu, then a window's mu.
type intake struct {
	feed     feed
	plain    bool // the pipeline needs nothing but the handler
	cfg      *consumerConfig
	pool     *lanes.Pool[*batch]
	base     context.Context // what handlers' contexts descend from: it carries Run's values and never ends
	log      *zap.Logger
	metrics  MetricsCollector
	counters *Counters // metrics, where it only counts; else nil
	board    *healthBoard
	records  *recordLog
	handOff  *handOff
	claims   *claims                  // nil: no deduplication
	identify func(*kgo.Record) string // WithMessageID; nil: none
	fail     func(error)              // ends Run with an error
	kill     func()                   // ends the client's requests; Run's end calls it, at the latest when its limit has passed
	client   *kgo.Client              // set by connect, and by the first callback: it may come before connect has returned

	gate     gate          // held from the snapshot of marks to the commit's answer, and to forget windows
	nudged   chan struct{} // one slot: something was drained while a window is paused; read by pauser
	turned   chan struct{} // one slot: a partition came, went or was resumed; read by the poll loop while all are paused
	lookSoon chan struct{} // one slot, of all intakes: a poll met an unknown topic; read by the topic watcher
	late     chan struct{} // closed by the shutdown when its soft limit has passed: drains end

	full     atomic.Int32 // windows paused for backpressure: only then is a nudge worth it
	polled   atomic.Int64 // unix nanoseconds of the poll loop's last turn; 0: it does not run
	callback atomic.Bool  // a rebalance callback runs: polls wait for it

	arrived []ReceivedEvent // to be told of after the poll; the poll goroutine's own

	mu           sync.Mutex // guards all below; never held over I/O or user code
	windows      map[topicPartition]*window
	zombies      []*window          // forgotten with handlers still running
	member       string             // member id when partitions were last assigned
	stopping     bool               // no new windows
	uncommitted  error              // of what was given back while stopping
	allPaused    bool               // by the user
	topicsPaused map[string]bool    // by the user
	refusals     map[string]*outage // authorization refused, by topic; "": the group
}

func newIntake(c *Consumer, p *pipeline, f feed) *intake {
	return &intake{
		feed: f, plain: p.plain && f.stages == nil, cfg: &c.cfg, pool: c.pool,
		log: c.cfg.logger, metrics: c.metrics, counters: countersOf(c.metrics), board: c.board, records: c.records,
		handOff: c.handOff, claims: c.claims, identify: c.identify, fail: c.failed.set,
		gate: newGate(), nudged: make(chan struct{}, 1), turned: make(chan struct{}, 1),
		lookSoon: c.lookSoon, late: make(chan struct{}),
		windows: map[topicPartition]*window{}, topicsPaused: map[string]bool{}, refusals: map[string]*outage{},
	}
}

// connect makes the client, which joins the group at once.
func (in *intake) connect(base context.Context) error {
	in.base = base
	life, kill := context.WithCancel(base)
	in.kill = kill
	cl, err := in.cfg.newClient(in.feed.role, append(in.options(), kgo.WithContext(life))...)
	if err != nil {
		return err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.client == nil { // a callback was not first
		in.client = cl
	}
	return nil
}

// options of the intake's client.
func (in *intake) options() []kgo.Opt {
	f := in.feed.fetch
	opts := []kgo.Opt{
		kgo.ConsumerGroup(in.feed.group),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(in.assigned),
		kgo.OnPartitionsRevoked(in.revoked),
		kgo.OnPartitionsLost(in.lost),
		kgo.OnOffsetsFetched(in.offsetsFetched),
		kgo.RebalanceTimeout(rebalanceTimeout),
		kgo.FetchMinBytes(f.MinBytes), kgo.FetchMaxBytes(f.MaxBytes), kgo.FetchMaxPartitionBytes(f.MaxPartitionBytes),
		kgo.FetchMaxWait(f.MaxWait), kgo.MaxDecompressBatchBytes(maxBatchBytes), kgo.BrokerMaxReadBytes(maxReadBytes),
		kgo.WithHooks(newConnections(in.board, in.log), &groupErrors{in}),
	}
	opts = append(opts, in.feed.source...)
	if in.cfg.instanceID != "" {
		opts = append(opts, kgo.InstanceID(in.cfg.instanceID))
	}
	if in.cfg.nextGen {
		opts = append(opts, kgo.ServerSideBalancer())
	}
	return opts
}

// poll fetches until ctx is done. Rebalances are blocked from a poll's return
// until its records are registered with their windows, and never longer.
func (in *intake) poll(ctx context.Context) {
	defer in.polled.Store(0)
	pause := time.Duration(0)
	for ctx.Err() == nil {
		in.polled.Store(time.Now().UnixNano())
		if in.nothingToPoll() {
			wait(ctx, pollTimeout, in.turned)
			continue
		}
		received, failed := in.pollOnce(ctx)
		if received || !failed {
			pause = 0
			continue
		}
		pause = min(max(2*pause, firstErrorPause), maxErrorPause)
		wait(ctx, pause, nil)
	}
}

// wait returns when ctx is done, d has passed, or early says so.
func wait(ctx context.Context, d time.Duration, early <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-early:
	}
}

// pollOnce tells the collector of what came when rebalances may go on: it is a
// user's code.
func (in *intake) pollOnce(ctx context.Context) (received, failed bool) {
	received, failed = in.fetch(ctx)
	for i := range in.arrived {
		in.metrics.Received(in.arrived[i])
	}
	clear(in.arrived)
	in.arrived = in.arrived[:0]
	return received, failed
}

func (in *intake) fetch(ctx context.Context) (received, failed bool) {
	limited, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	fetches := in.client.PollFetches(limited)
	defer in.client.AllowRebalance()
	debug := in.records.debug()
	hook.Stretch(hook.AfterPoll)
	for i := range fetches {
		for j := range fetches[i].Topics {
			t := &fetches[i].Topics[j]
			for k := range t.Partitions {
				p := &t.Partitions[k]
				if p.Err != nil {
					failed = in.failed(ctx, t.Topic, p) || failed
				}
				if len(p.Records) > 0 {
					received = true
					in.admit(t, p, debug)
				}
			}
		}
	}
	if received {
		in.pauseFull()
	}
	return received, failed
}

// admit gives a partition's records to its window. Records of a partition that
// is not ours any more, or not ours yet, are left to its owner.
func (in *intake) admit(t *kgo.FetchTopic, p *kgo.FetchPartition, debug bool) {
	w := in.window(topicPartition{t.Topic, p.Partition})
	if w == nil {
		return
	}
	first := p.Records[0].Offset
	expected := w.look(p)
	if expected >= 0 && first > expected && p.LogStartOffset > expected {
		if !in.gap(w, expected, min(first, p.LogStartOffset)) {
			return
		}
	}
	if expected >= 0 && first < expected {
		if w = in.reopen(w, first, expected); w == nil {
			return
		}
		w.look(p)
	}
	in.received(w)
	if bytes, ok := w.admit(t.TopicID, p.Records, debug); ok {
		in.arrived = append(in.arrived, ReceivedEvent{Topic: t.Topic, Partition: p.Partition, Records: len(p.Records), Bytes: bytes})
	}
}

// window returns a partition's window; nil where it is not ours, or nothing new may start.
func (in *intake) window(tp topicPartition) *window {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.stopping {
		return nil
	}
	return in.windows[tp]
}

// waiting returns the copy of a record that does not run; nil where it is not held.
func (in *intake) waiting(co Coordinates) *held {
	in.mu.Lock()
	w := in.windows[topicPartition{co.Topic, co.Partition}]
	in.mu.Unlock()
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if h := w.held.byOffset(co.Offset); h != nil && h.state != heldRunning {
		return h
	}
	return nil
}

// look remembers what a fetch says of its partition and returns the offset that
// was expected to come next; -1 at the start of a group.
func (w *window) look(p *kgo.FetchPartition) (expected int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.logEnd = p.HighWatermark
	return w.expected
}

// gap tells of records that were deleted before they were read; false where
// that ends Run.
func (in *intake) gap(w *window, expected, logStart int64) (goOn bool) {
	err := &GapError{Topic: w.topic, Partition: w.partition, Expected: expected, LogStart: logStart}
	in.log.Error("records were deleted before they were read",
		zap.String("topic", w.topic), zap.Int32("partition", w.partition), zap.Int64("expected", expected), zap.Int64("log_start", logStart))
	in.board.raiseFor(noticeFor, HealthReason{Kind: HealthGap, Topic: w.topic, Partition: w.partition, Offset: expected, Err: err})
	if in.cfg.onGap == StopOnGap {
		in.fail(err)
		in.stop()
		return false
	}
	return true
}

// reopen begins a new assignment of a partition whose log was cut back: the same
// offsets may hold other records now. What runs may finish, and changes nothing.
func (in *intake) reopen(old *window, first, expected int64) *window {
	in.log.Warn("the partition's log was cut back: reading again from an earlier offset",
		zap.String("topic", old.topic), zap.Int32("partition", old.partition), zap.Int64("offset", first), zap.Int64("expected", expected))
	in.give(in.base, []*window{old}, PartitionsLost, 0)
	w := in.openUnlessStopping(old.topicPartition)
	if w != nil {
		in.tellAssigned(w.topic, []int32{w.partition})
	}
	return w
}

func (in *intake) openUnlessStopping(tp topicPartition) *window {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.stopping {
		return nil
	}
	return in.open(tp)
}

// open makes the window of a new assignment and applies the user's pauses to
// it before its first fetch. in.mu is held.
func (in *intake) open(tp topicPartition) *window {
	w := newWindow(in, tp)
	in.windows[tp] = w
	in.apply(w)
	return w
}

// snapshot lists the windows.
func (in *intake) snapshot() []*window {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.all()
}

// all lists the windows. in.mu is held.
func (in *intake) all() []*window {
	ws := make([]*window, 0, len(in.windows))
	for _, w := range in.windows {
		ws = append(ws, w)
	}
	return ws
}

// stalled says that the poll loop hangs outside a callback.
func (in *intake) stalled(now time.Time) bool {
	at := in.polled.Load()
	return at != 0 && !in.callback.Load() && now.Sub(time.Unix(0, at)) > stalledAfter
}
