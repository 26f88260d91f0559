package kstage

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Producer publishes records: it tells of each what has become of it, once. Its
// methods are safe for concurrent use. Close ends it.
type Producer struct {
	cfg         producerConfig
	board       *healthBoard
	guard       *guard
	log         *recordLog
	metrics     MetricsCollector
	newID       func([]byte, time.Time) []byte // nil: no message ids are added
	connections *connections
	ledger      *ledger

	ctx        context.Context    // of the clients and terms: ends when Close gives up on them
	cancel     context.CancelFunc // of ctx
	loops      context.Context    // of keep and keepTime: ends when Close has nothing more to wait for
	stopLoops  context.CancelFunc
	running    sync.WaitGroup // keep and keepTime: Close waits for them
	endTelling func()         // of changes in Health
	refused    chan struct{}  // one slot: ledger.refused is set, for keep
	recreated  chan string    // topics, for keep
	closed     chan struct{}  // closed at the end of Close, after closeErr is set
	closeErr   error
}

// NewProducer makes a Producer. It checks all options and reports every mistake at
// once. It waits for no broker: from here on it asks for one by itself, so that wrong
// credentials fail what is published within seconds. Close it.
func NewProducer(opts ...ProducerOption) (*Producer, error) {
	cfg, err := newProducerConfig(opts)
	if err != nil {
		return nil, err
	}
	cfg.warn()
	p := &Producer{
		cfg: cfg, closed: make(chan struct{}),
		refused: make(chan struct{}, 1), recreated: make(chan string, 16),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background()) //nolint:forbidigo // a Producer lives until Close
	p.loops, p.stopLoops = context.WithCancel(p.ctx)
	p.board = newHealthBoard(func(e StateEvent) { p.metrics.StateChanged(e) })
	p.guard = &guard{log: cfg.logger, board: p.board}
	p.metrics = p.guard.collector(cfg.metrics)
	p.log = &recordLog{
		log:       cfg.logger,
		fields:    p.guard.fields(cfg.logFields),
		redactKey: textFunc(p.guard, "WithKeyRedactor", cfg.keyRedactor),
	}
	p.newID = cfg.newID()
	p.connections = newConnections(p.board, cfg.logger)
	first, err := p.connect()
	if err != nil {
		p.cancel()
		return nil, err
	}
	p.ledger = newLedger(&p.cfg, first, p.newTerm)
	p.start()
	return p, nil
}

func (p *Producer) newTerm() *term {
	t := &term{}
	t.most.Store(-1)
	t.promise = func(r *kgo.Record, err error) { p.answered(t, r.Context.(*pending), recordSize(r), err) }
	t.ctx, t.cancel = context.WithCancel(p.ctx)
	return t
}

// start starts what runs until Close.
func (p *Producer) start() {
	p.endTelling = p.board.tell()
	p.board.raise(HealthReason{Kind: HealthDisconnected, Partition: -1}) // until one answers
	p.running.Go(func() { p.keep(p.loops) })
	p.running.Go(func() { p.ledger.keepTime(p.loops.Done(), p.late) })
}

// Publish publishes one record and waits for the broker's answer. On success the
// record's Partition, Offset and Timestamp say where it is; nothing else of it is ever
// changed. Its key, value and headers must not be changed before Publish returns, and not
// at all after an *UnconfirmedError.
//
// Where ctx ends first, the record may still be written: *UnconfirmedError, unless it was
// still waiting for room (ErrBufferFull with the context's error). With any other error
// it was refused: by the broker (the error wraps its *kerr.Error, and says what to grant,
// create or change), by a function of the options, or by a Producer that is closed.
func (p *Producer) Publish(ctx context.Context, r *kgo.Record) error {
	answer := make(chan error, 1)
	pd, err := p.send(ctx, r, func(_ *kgo.Record, err error) { answer <- err })
	if err != nil {
		return err
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
	}
	if pd.leave(r) {
		return p.named(&pd.record, &UnconfirmedError{Err: ctx.Err()})
	}
	return <-answer
}

// PublishAsync publishes one record and calls done, once, when it has been answered
// or has failed: with the caller's record, changed as Publish does, and the error that
// Publish would return. It waits only for room in the buffer; ctx bounds that alone.
// The record must not be changed before done is called.
//
// done may be called before PublishAsync returns, and on the goroutine that all
// answers come by: it must be quick, and not call Publish, Flush or Close, nor
// PublishAsync without a goroutine of its own. A panic in it shows in Health. Nil: a
// failure is logged.
//
// Records of one goroutine and one partition are written in the order of the calls.
func (p *Producer) PublishAsync(ctx context.Context, r *kgo.Record, done func(r *kgo.Record, err error)) {
	if _, err := p.send(ctx, r, done); err != nil {
		p.call(done, r, err)
	}
}

// Flush waits until all records accepted before it are told of: their calls have
// returned, their done was called. Records that linger are sent at once. Where ctx ends
// first, Flush returns its error, and the records go on.
func (p *Producer) Flush(ctx context.Context) error {
	defer p.hurry(ctx)()
	select {
	case <-p.ledger.flushed():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kstage: flush: %w", ctx.Err())
	}
}

// hurry sends what lingers, and lets nothing linger until the func it returns is called.
func (p *Producer) hurry(ctx context.Context) (end func()) {
	l := p.ledger.now()
	if p.cfg.linger == 0 || l == nil {
		return func() {}
	}
	flushing, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { _ = l.client.Flush(flushing) }) // of more than we wait for: cut short
	return func() { cancel(); done.Wait() }
}

// Close accepts nothing more (ErrClosed; also those who wait for room) and waits for
// the answers of what was accepted, until ctx ends. Then each record that was not
// answered fails with an *UnconfirmedError that names it and wraps ErrClosed, and
// Close's error wraps all of these. It returns when everybody was told and nothing runs
// any more: within a second or so of the last answer, or of ctx's end.
//
// Called again, it waits for the first call, or for its own ctx, and returns the same.
func (p *Producer) Close(ctx context.Context) error {
	if !p.ledger.close() {
		select {
		case <-p.closed:
			return p.closeErr
		case <-ctx.Done():
			return fmt.Errorf("kstage: still closing: %w", ctx.Err())
		}
	}
	p.board.raise(HealthReason{Kind: HealthDraining, Partition: -1})
	p.closeErr = p.shut(ctx)
	close(p.closed)
	return p.closeErr
}

// shut is the work of Close.
func (p *Producer) shut(ctx context.Context) error {
	_ = p.Flush(ctx) // what it did not wait for is given up
	p.stopLoops()
	p.running.Wait()
	errs := p.giveUp(p.ledger.open(), ErrClosed)
	for _, l := range p.ledger.takeLinks() {
		p.hangUp(ctx, l)
	}
	p.cancel()
	<-p.ledger.drained
	p.board.clear(HealthDisconnected, "", -1)
	p.endTelling()
	if len(errs) > 0 {
		return &closeError{errs}
	}
	return nil
}

// Health says how the producer is, without asking anybody. Live is always true: no
// restart helps. Not ready: no broker answers, or they refuse the producer or, for a
// minute after each try, a topic; and from Close on.
func (p *Producer) Health() Health { return p.board.health(true) }

// HealthCheck asks a broker for a sign of life, until ctx ends. It returns ErrClosed
// after Close, and why records are refused where they are.
func (p *Producer) HealthCheck(ctx context.Context) error {
	l, err := p.ledger.present()
	if err != nil {
		return err
	}
	err = askBroker(ctx, l.client)
	if errors.Is(err, kgo.ErrClientClosed) { // meanwhile, by Close or since it was refused
		if _, why := p.ledger.present(); why != nil {
			return why
		}
	}
	return err
}
