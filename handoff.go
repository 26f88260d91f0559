package kstage

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

const (
	// handOffTimeout is how long a copy may be unanswered until it counts as failed
	// and is sent again. The first may still have been written: copies carry an id.
	handOffTimeout = 30 * time.Second
	// oversizeWait is how long a record that is too large for its target waits
	// until it is tried again: the topic's limit may have been raised.
	oversizeWait = time.Minute
)

// handOffBackoff paces a target that fails.
var handOffBackoff = Backoff{Min: 250 * time.Millisecond, Max: 30 * time.Second} //nolint:gochecknoglobals // a constant in all but type

// handOff writes the copies of records that leave: to the dead-letter topic. It
// waits for nothing; the broker's acknowledgement finishes a record, whenever
// it comes.
type handOff struct {
	client    *kgo.Client // set by connect; the look at the topics rides on it, too
	group     string
	target    string // empty: no dead-letter topic
	stack     bool
	oversize  Oversize
	log       *recordLog
	metrics   MetricsCollector
	board     *healthBoard
	random    func(int64) int64
	ctx       context.Context  // of the copies: it never ends, since the end of one record's would fail its whole batch
	batchSize map[string]int32 // of the targets, as far as their topics' limits are known; written before the first copy

	mu       sync.Mutex // guards outboxes, what is in them, and closed; taken before window.mu, never held over a call of the client
	outboxes map[route]*outbox
	closed   bool

	asked sync.WaitGroup // copies given to the client and not answered, and goroutines that give it more
}

// route is a way of copies: they keep their order on it.
type route struct {
	source topicPartition
	target string
}

// departure is what a leaving record's copy says of its end.
type departure struct {
	reason Reason
	err    error
	at     time.Time
}

func newHandOff(c *Consumer) *handOff {
	return &handOff{
		group: c.cfg.group, target: c.cfg.dlqName(), stack: c.cfg.dlqStack, oversize: c.cfg.dlqOversize,
		log: c.records, metrics: c.metrics, board: c.board, random: jitter,
		batchSize: map[string]int32{}, outboxes: map[route]*outbox{},
	}
}

// connect makes the client; it dials when it is first used.
func (o *handOff) connect(base context.Context, cfg *consumerConfig) (err error) {
	o.ctx = base
	o.client, err = newClient(append(cfg.clientOptions(RoleHandOff),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0),
		kgo.RecordDeliveryTimeout(handOffTimeout),
		kgo.AllowIdempotentProduceCancellation(), // or a withheld answer would never time out
		kgo.RecordPartitioner(sourcePartitioner()),
		kgo.ProducerBatchMaxBytesFn(o.batchMaxBytes),
		kgo.ProducerOnDataLossDetected(o.dataLoss),
	))
	return err
}

// sourcePartitioner sends a copy to its source's partition modulo the target's
// count: right for nil keys and for keys another partitioner placed.
func sourcePartitioner() kgo.Partitioner {
	return kgo.BasicConsistentPartitioner(func(string) func(*kgo.Record, int) int {
		return func(r *kgo.Record, n int) int { return int(r.Partition) % n }
	})
}

// batchMaxBytes follows the target's limit, so that the client itself refuses a
// record that is too large, and by itself: a broker refuses the whole batch.
func (o *handOff) batchMaxBytes(topic string) int32 {
	if n, ok := o.batchSize[topic]; ok {
		return n
	}
	return defaultBatchBytes
}

func (o *handOff) dataLoss(topic string, partition int32) {
	o.log.log.Error("a broker has lost copies that it had acknowledged", zap.String("target", topic), zap.Int32("target_partition", partition))
}

// start sends off a record that its window holds as leaving. It never blocks.
func (o *handOff) start(h *held, d departure) {
	c := &copying{held: h, departure: d, valueOmitted: -1}
	o.mu.Lock()
	r := route{h.b.w.topicPartition, o.target}
	box := o.outboxes[r]
	if box == nil {
		box = &outbox{route: r}
		o.outboxes[r] = box
	}
	box.add(c)
	o.pump(box)
}

// pump produces what the outbox lets go and releases o.mu, which the caller
// holds. One goroutine at a time does so for an outbox, so that the order of
// calls is the order of the outbox.
func (o *handOff) pump(box *outbox) {
	defer o.mu.Unlock()
	if box.pumping || o.closed {
		return
	}
	box.pumping = true
	for c := box.next(); c != nil && !o.closed; c = box.next() {
		box.asked++
		o.asked.Add(1)
		o.mu.Unlock()
		o.produce(box, c)
		o.mu.Lock()
	}
	box.pumping = false
}

// produce gives one copy to the client: a new record each time, since the client writes to it.
func (o *handOff) produce(box *outbox, c *copying) {
	r := &kgo.Record{Topic: box.target, Partition: box.source.partition, Key: c.record.Key, Headers: o.headers(box, c)}
	if c.valueOmitted < 0 {
		r.Value = c.record.Value
	}
	o.client.TryProduce(o.ctx, r, func(r *kgo.Record, err error) {
		defer o.asked.Done()
		o.answered(box, c, r.Partition, err)
	})
}

// headers of the copy: the record's own, byte for byte, and the facts of its end.
func (o *handOff) headers(box *outbox, c *copying) []kgo.RecordHeader {
	msg := Message{Record: c.record, facts: &c.facts}
	f := copyFacts{
		id:            msg.ID(),
		copyID:        msg.coordinatesID() + ">" + box.target,
		origin:        msg.Origin(),
		group:         o.group,
		attempt:       c.facts.attempt,
		stage:         c.facts.stage,
		firstFailedAt: c.facts.firstFailedAt,
		lastFailedAt:  c.at,
		reason:        c.reason,
		valueOmitted:  c.valueOmitted,
	}
	if !c.shed {
		f.errorType, f.errorText = errorType(c.err), o.log.errorText(c.err)
		if pe := (*PanicError)(nil); o.stack && errors.As(c.err, &pe) {
			f.stack = string(pe.Stack)
		}
	}
	f.redriveCount, f.redriveID = redriveFacts(c.record.Headers)
	return f.headers(c.record.Headers)
}

// answered is the client's promise: on its goroutine, once for each copy produced.
func (o *handOff) answered(box *outbox, c *copying, partition int32, err error) {
	stale := err == nil && !c.b.w.resolve(c.held)
	if err == nil {
		o.board.clearRecord(HealthOversize, c.coordinates())
		o.board.clearRecord(HealthStuckRecord, c.coordinates())
	}
	o.metrics.HandedOff(HandedOffEvent{Target: box.target, Dead: true, Attempt: c.facts.attempt, Stale: stale, Err: err})
	o.mu.Lock()
	defer o.mu.Unlock()
	box.asked--
	c.setFlying(false)
	if err == nil {
		o.succeeded(box, partition)
	} else {
		o.failed(box, c, partition, err)
	}
	if box.recalling && box.asked == 0 {
		o.resend(box)
	}
	if box.hasNext() && !o.closed { // not here: a promise must not wait for the client
		o.asked.Go(func() { o.mu.Lock(); o.pump(box) })
	}
}

// succeeded is told that a copy was written. o.mu is held.
func (o *handOff) succeeded(box *outbox, partition int32) {
	if box.alone = max(0, box.alone-1); len(box.waiting)+box.asked == 0 {
		box.alone = 0 // some of the announced went with their partition
	}
	if box.failing {
		o.log.log.Info("hand-off works again", zap.String("target", box.target), zap.Int32("source_partition", box.source.partition))
	}
	box.failures, box.failing = 0, false
	o.board.clear(HealthHandOffFailing, box.target, partition)
}

// failed takes a copy back. o.mu is held.
func (o *handOff) failed(box *outbox, c *copying, partition int32, err error) {
	if o.closed || c.b.w.gone.Load() {
		return
	}
	if !errors.Is(err, kerr.MessageTooLarge) {
		box.takeBack(c)
		box.backoff, box.failedAt = true, partition
		o.report(box, partition, err)
		return
	}
	switch {
	case box.alone == 0: // a broker refuses all it was sent together: each is tried by itself
		box.takeBack(c)
		box.tooLarge++
	case !c.shed:
		c.shed = true
		box.takeBack(c)
	case o.oversize == OversizeReference && c.valueOmitted < 0:
		c.valueOmitted = int64(len(c.record.Value))
		box.takeBack(c)
	default:
		box.alone--
		o.refuse(box, c, err)
	}
}

// report tells that the target fails; the log, once. o.mu is held.
func (o *handOff) report(box *outbox, partition int32, err error) {
	err = explain(err, grantWrite(box.target))
	o.board.raise(HealthReason{Kind: HealthHandOffFailing, Topic: box.target, Partition: partition, Err: err})
	if !box.failing {
		box.failing = true
		o.log.log.Warn("hand-off fails: records stay unfinished until it works again",
			zap.String("target", box.target), zap.Int32("target_partition", partition), zap.Error(err))
	}
}

// refuse blocks a record that was refused alone and has nothing left to shed. o.mu is held.
func (o *handOff) refuse(box *outbox, c *copying, err error) {
	co := c.coordinates()
	first := o.board.raise(HealthReason{Kind: HealthOversize, Topic: co.Topic, Partition: co.Partition, Offset: co.Offset, Err: err})
	if first {
		o.log.log.Error("record is too large for the dead-letter topic and stays unfinished", zap.String("topic", co.Topic),
			zap.Int32("partition", co.Partition), zap.Int64("offset", co.Offset), zap.String("target", box.target), zap.Error(err))
	}
	box.refused = append(box.refused, c)
	if box.again == nil {
		box.again = time.AfterFunc(oversizeWait, func() { o.retryRefused(box) })
	}
}

func (o *handOff) retryRefused(box *outbox) {
	o.mu.Lock()
	box.again = nil
	for _, c := range box.refused {
		c.shed, c.valueOmitted = false, -1
		box.add(c)
	}
	box.alone += len(box.refused)
	box.refused = nil
	o.pump(box)
}

// resend lets go again what was taken back, in the source's order: after a
// back-off, or at once and one by one where a record was too large. o.mu is held.
func (o *handOff) resend(box *outbox) {
	box.recalling = false
	box.sort()
	box.alone, box.tooLarge = max(box.alone, box.tooLarge), 0
	if !box.backoff {
		return
	}
	box.backoff = false
	box.failures++
	limit := handOffBackoff.limit(box.failures)
	box.rest(limit/2+time.Duration(o.random(int64(limit/2))), func() {
		o.mu.Lock()
		box.wake()
		o.pump(box)
	})
}

// skip takes a record out of a failing hand-off; false where it is not in one.
func (o *handOff) skip(h *held) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for r, box := range o.outboxes {
		if r.source == h.b.w.topicPartition && box.remove(h) {
			return true
		}
	}
	return false
}

// forget drops what a dead window has waiting: the partition's next owner meets
// those records again.
func (o *handOff) forget(tp topicPartition) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for r, box := range o.outboxes {
		if r.source != tp {
			continue
		}
		box.dropDead()
		if box.failing && len(box.waiting) == 0 {
			box.failing = false
			o.board.clear(HealthHandOffFailing, box.target, box.failedAt)
		}
		if box.empty() {
			box.stop()
			delete(o.outboxes, r)
		}
	}
}

// close ends the client; what it has not been answered fails, and stays unfinished.
func (o *handOff) close() {
	o.mu.Lock()
	o.closed = true
	for _, box := range o.outboxes {
		box.stop()
	}
	o.mu.Unlock()
	o.client.Close()
	o.asked.Wait()
}
