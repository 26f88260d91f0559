package kstage

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/kstage/kstage/internal/hook"
)

const (
	// handOffTimeout is how long a copy may be unanswered until it counts as failed
	// and is sent again. The first may still have been written: copies carry an id.
	handOffTimeout = 30 * time.Second
	// replicateTimeout is what a broker is given for one request. The client waits
	// 10 s longer, and looks at handOffTimeout only when a request has ended: so two
	// that nobody answers end just behind it.
	replicateTimeout = 5 * time.Second
	// oversizeWait is how long a record that is too large for its target waits
	// until it is tried again: the topic's limit may have been raised.
	oversizeWait = time.Minute
)

// handOffBackoff paces a target that fails.
var handOffBackoff = Backoff{Min: 250 * time.Millisecond, Max: 30 * time.Second} //nolint:gochecknoglobals // a constant in all but type

// handOff writes the copies of records that leave: to retry topics and to the
// dead-letter topic. It waits for nothing; the broker's acknowledgement finishes a
// record, whenever it comes.
type handOff struct {
	client    *kgo.Client // set by connect; the look at the topics rides on it
	connectTo func() (*kgo.Client, error)
	group     string
	dlq       string     // empty: no dead-letter topic
	dead      DeadPolicy // then: what becomes of a dead record
	stop      func(error)
	stack     bool
	oversize  Oversize
	log       *recordLog
	metrics   MetricsCollector
	board     *healthBoard
	random    func(int64) int64
	ctx       context.Context  // of the copies: it never ends, since the end of one record's would fail its whole batch
	trouble   trouble          // of its clients
	retired   []*kgo.Client    // producers before, but client, that copies may be on their way by: the topic watcher's, and then close's
	batchSize map[string]int32 // max.message.bytes of the targets, as far as it is known; written before the first copy

	mu       sync.Mutex // guards all below, and what is in the outboxes; taken before window.mu, never held over a call of the client or user code
	outboxes map[topicPartition]*outbox
	sheets   sheets
	counts   map[string]int32 // partitions of the targets, as last seen
	closed   bool
	producer *kgo.Client // client, until it was renewed
	produce  func(context.Context, *kgo.Record, func(*kgo.Record, error))
	useless  bool // producer cannot write any more, whatever is granted: see renew

	busy sync.WaitGroup // copies given to the client and not answered, and goroutines that give it more
}

// departure is where a leaving record goes, and what its copy says of it.
type departure struct {
	topic     string
	stage     int       // of the record from then on
	attempt   int       // calls it has taken
	due       time.Time // zero: a dead letter
	notBefore time.Time // zero: none
	reason    Reason    // of a dead record
	lastFailure
}

// lastFailure is what a copy says of the last handler call.
type lastFailure struct {
	errorType, errorText string
	stack                string // of a panic; dead letters tell of it
	at                   time.Time
}

func newHandOff(c *Consumer) *handOff {
	o := &handOff{
		group: c.cfg.group, dlq: c.cfg.dlqName(), dead: c.cfg.dead, stop: c.stop, stack: c.cfg.dlqStack, oversize: c.cfg.dlqOversize,
		log: c.records, metrics: c.metrics, board: c.board, random: jitter,
		batchSize: map[string]int32{}, outboxes: map[topicPartition]*outbox{}, counts: map[string]int32{},
	}
	o.sheets = sheets{answered: o.answered}
	return o
}

// connect makes the client; it dials when it is first used.
//
// Its own limit of a batch is as high as it gets: it is asked for once and kept
// for ever, and a topic's may be raised. Who judges what is too large is the
// broker; that small records do not become a batch that is too large is the
// outboxes' care.
func (o *handOff) connect(base context.Context, cfg *consumerConfig) (err error) {
	o.ctx = base
	o.connectTo = func() (*kgo.Client, error) {
		return cfg.newClient(RoleHandOff,
			kgo.WithHooks(&o.trouble),
			kgo.RequiredAcks(kgo.AllISRAcks()),
			kgo.ProducerLinger(0),
			kgo.ProduceRequestTimeout(replicateTimeout),
			kgo.RecordDeliveryTimeout(handOffTimeout),
			kgo.AllowIdempotentProduceCancellation(), // or a withheld answer would never time out
			kgo.RecordPartitioner(o.partitioner()),
			kgo.ProducerBatchMaxBytes(mostBatchBytes),
			kgo.ProducerOnDataLossDetected(o.dataLoss),
		)
	}
	if o.client, err = o.connectTo(); err != nil {
		return err
	}
	o.install(o.client) // nobody else has the hand-off yet
	return nil
}

// renew replaces a producer that cannot write any more: one that was refused an
// id keeps the refusal for its life. Nothing is on its way by it then.
func (o *handOff) renew() {
	cl := o.another()
	if cl == nil {
		return
	}
	o.mu.Lock()
	old := o.producer
	if o.closed || !o.useless { // by another outbox
		old = cl
	} else {
		o.install(cl)
	}
	o.mu.Unlock()
	if old != o.client {
		old.Close()
	}
}

// recreated is told by the topic watcher that a target was created again: to a producer
// that has met the old one it stays that. Making it forget the topic would lose copies where
// it had met the new one by itself: it would count its batches anew, and the broker take them
// for those it has, and acknowledge them. So there is a producer with an id of its own; the
// old one may have copies on their way, and ends when it is seen to have none, at the next
// such moment or with the hand-off.
func (o *handOff) recreated() {
	cl := o.another()
	if cl == nil {
		return
	}
	o.retired = slices.DeleteFunc(o.retired, func(cl *kgo.Client) bool {
		over := cl.BufferedProduceRecords() == 0
		if over {
			cl.Close()
		}
		return over
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.producer != o.client {
		o.retired = append(o.retired, o.producer)
	}
	o.install(cl)
}

// another makes a client as connect does; nil where a function of the options fails now
// and did not before.
func (o *handOff) another() *kgo.Client {
	cl, err := o.connectTo()
	if err != nil {
		o.log.log.Error("cannot make a new client for copies", zap.Error(err))
	}
	return cl
}

// install makes a client the producer. o.mu is held.
func (o *handOff) install(cl *kgo.Client) {
	o.producer, o.produce, o.useless = cl, cl.TryProduce, false // which never blocks
	o.sheets.once = o.sheets.once || showsHooks(cl)
}

// partitioner sends a copy to its source's partition modulo the target's count:
// right for nil keys and for keys another partitioner placed.
func (o *handOff) partitioner() kgo.Partitioner {
	return kgo.BasicConsistentPartitioner(func(topic string) func(*kgo.Record, int) int {
		return func(r *kgo.Record, n int) int {
			o.counted(topic, n)
			return int(r.Partition) % n
		}
	})
}

// counted is told how many partitions a target has; 0: not known.
func (o *handOff) counted(topic string, n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if n > 0 {
		o.counts[topic] = int32(n)
	}
}

func (o *handOff) dataLoss(topic string, partition int32) {
	o.log.log.Error("a broker has lost copies that it had acknowledged", zap.String("target", topic), zap.Int32("target_partition", partition))
}

// start sends off a record that its window holds as leaving. It never blocks.
// Err is of the last handler call; nil: it was before the record was read.
func (o *handOff) start(h *held, d departure, err error) {
	if err == nil {
		d.lastFailure = toldFailure(h.record.Headers)
	} else {
		d.lastFailure = o.failure(err, d.at)
	}
	h.leaving = copying{held: h, departure: d, valueOmitted: -1}
	o.mu.Lock()
	box := o.box(d.topic, h.record.Partition)
	box.add(&h.leaving)
	o.depart(box)
}

// failure is what a copy says of the call that has just failed.
func (o *handOff) failure(err error, at time.Time) lastFailure {
	f := lastFailure{errorType: errorType(err), errorText: o.log.errorText(err), at: at}
	if o.stack {
		if pe, ok := errors.AsType[*PanicError](err); ok {
			f.stack = string(pe.Stack)
		}
	}
	return f
}

// toldFailure is what the record's own headers say of the last call: of one that
// hops, or expires meanwhile.
func toldFailure(hs []kgo.RecordHeader) lastFailure {
	r := headerReader{hs: hs}
	return lastFailure{errorType: r.optional(headerErrorType), errorText: r.optional(headerError), at: r.time(headerLastFailedAt)}
}

// box returns the outbox of the copies from a source partition. Until it is
// known how many partitions the target has, and what went off before is
// answered, one outbox takes all of them. o.mu is held.
func (o *handOff) box(topic string, source int32) *outbox {
	to := topicPartition{topic, -1}
	if n := o.counts[topic]; n > 0 && o.outboxes[to] == nil {
		to.partition = source % n
	}
	box := o.outboxes[to]
	if box == nil {
		box = &outbox{target: to}
		o.outboxes[to] = box
	}
	return box
}

// depart sends the next flight, where one may go. It releases o.mu, which the
// caller holds.
func (o *handOff) depart(box *outbox) {
	var flight []*copying
	if !o.closed {
		flight = box.next(o.flightBytes(box.target.topic))
		o.busy.Add(len(flight))
		o.tidy(box)
	}
	produce := o.produce
	sheets := o.sheets.take(box, flight)
	o.mu.Unlock()
	if len(sheets) == 0 {
		return
	}
	hook.Stretch(hook.BeforeProduce)
	now := time.Now() // once: the client would ask for each
	for _, sh := range sheets {
		o.write(sh, now)
	}
	for _, sh := range sheets {
		produce(o.ctx, &sh.record, sh.promise)
	}
}

// flightBytes bounds a flight, which may become one batch: a broker refuses the
// whole batch, and small records are not to suffer for their number.
func (o *handOff) flightBytes(topic string) int64 {
	if n, ok := o.batchSize[topic]; ok {
		return int64(min(n, defaultBatchBytes))
	}
	return defaultBatchBytes
}

// write makes the copy.
func (o *handOff) write(sh *sheet, now time.Time) {
	c, to := sh.copying, sh.box.target
	sh.record = kgo.Record{Topic: to.topic, Partition: to.partition, Key: c.record.Key, Headers: o.headers(sh), Timestamp: now}
	if to.partition < 0 {
		sh.record.Partition = c.record.Partition
	}
	if c.valueOmitted < 0 {
		sh.record.Value = c.record.Value
	}
}

// headers of the copy: the record's own, byte for byte, and what has become of it.
func (o *handOff) headers(sh *sheet) []kgo.RecordHeader {
	c := sh.copying
	msg := Message{Record: &c.record, facts: &c.facts}
	var given, copyID [2 * coordinatesSize]byte
	coordinates := msg.appendCoordinates(copyID[:0])
	f := copyFacts{
		id:            coordinates,
		copyID:        append(append(coordinates, '>'), sh.box.target.topic...),
		origin:        msg.Origin(),
		group:         o.group,
		attempt:       c.attempt,
		stage:         c.stage,
		due:           c.due,
		notBefore:     c.notBefore,
		firstFailedAt: c.facts.firstFailedAt,
		lastFailure:   c.lastFailure,
		reason:        c.reason,
		valueOmitted:  c.valueOmitted,
	}
	if id := msg.givenID(); len(id) > 0 {
		f.id = appendGivenID(given[:0], id)
	}
	switch {
	case c.shed:
		f.lastFailure = lastFailure{at: c.at}
	case c.reason == "":
		f.stack = ""
	}
	if len(c.record.Headers) > 0 {
		f.redriveCount, f.redriveID = redriveFacts(c.record.Headers)
	}
	return f.headers(c.record.Headers, sh)
}

// close ends the client; what it has not been answered fails, and stays unfinished.
func (o *handOff) close() {
	o.mu.Lock()
	o.closed = true
	for _, box := range o.outboxes {
		box.stop()
	}
	producers := append([]*kgo.Client{o.client, o.producer}, o.retired...)
	o.mu.Unlock()
	for _, cl := range producers { // again where it is one: nothing
		cl.Close()
	}
	o.busy.Wait()
}
