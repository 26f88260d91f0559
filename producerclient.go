package kstage

import (
	"context"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// healBackoff paces the looks whether what was refused is granted by now.
var healBackoff = Backoff{Min: 500 * time.Millisecond, Max: 10 * time.Second} //nolint:gochecknoglobals // a constant in all but type

// link is one client of a Producer. There is a new one where the old cannot write any
// more, whatever is granted: a client that was refused a producer's id keeps the
// refusal for its life.
type link struct {
	client  *kgo.Client
	direct  bool  // no code but the client's sees the records on their way
	refusal error // why it was closed, for what it then still has; set before that
}

// connect makes a client; it dials when it is first used.
func (p *Producer) connect() (*link, error) {
	cl, err := p.cfg.newClient(RoleProducer, p.clientOptions()...)
	if err != nil {
		return nil, err
	}
	if err := p.cfg.checkClient(cl); err != nil {
		cl.Close()
		return nil, err
	}
	return &link{client: cl, direct: !showsRecords(cl)}, nil
}

func (p *Producer) clientOptions() []kgo.Opt {
	c := &p.cfg
	opts := []kgo.Opt{
		kgo.WithContext(p.ctx),
		kgo.WithHooks(p.connections),
		kgo.RequiredAcks(map[Acks]kgo.Acks{AcksAll: kgo.AllISRAcks(), AcksLeader: kgo.LeaderAck(), AcksNone: kgo.NoAck()}[c.acks]),
		kgo.ProducerLinger(c.linger),
		kgo.ProducerBatchCompression(c.compression...),
		kgo.ProduceRequestTimeout(replicateTimeout),
		kgo.RecordRetries(c.retries),
		kgo.RetryBackoffFn(func(n int) time.Duration { return c.retryBackoff.wait(n, jitter) }),
		kgo.RecordDeliveryTimeout(0),           // see term
		kgo.MaxBufferedRecords(math.MaxInt32),  // room bounds what it gets,
		kgo.MaxBufferedBytes(0),                // so it never refuses a record
		kgo.DefaultProduceTopic(""),            // the copy has one
		kgo.ProducerOnDataLossDetected(p.loss), // and goes on
	}
	if c.idempotent {
		opts = append(opts, kgo.AllowIdempotentProduceCancellation()) // or a withheld answer would keep its records for ever
	} else {
		opts = append(opts, kgo.DisableIdempotentWrite())
	}
	if c.partitioner != nil {
		opts = append(opts, kgo.RecordPartitioner(&guardedPartitioner{p: c.partitioner, guard: p.guard}))
	}
	return opts
}

// checkClient refuses what WithClientOptions must not say and what cannot be taken back.
func (c *producerConfig) checkClient(cl *kgo.Client) error {
	var errs mistakes
	errs.check(cl.OptValue(kgo.ManualFlushing) == false, "WithClientOptions: with kgo.ManualFlushing nothing would be sent before a flush")
	errs.check(cl.OptValue(kgo.DisableIdempotentWrite) == !c.idempotent, "WithClientOptions: kgo.DisableIdempotentWrite is WithIdempotence(false)")
	errs.check(cl.OptValue(kgo.StopProducerOnDataLossDetected) == false, "WithClientOptions: kgo.StopProducerOnDataLossDetected ends the client for good")
	return errs.join()
}

func (p *Producer) loss(topic string, partition int32) {
	p.log.log.Error("a broker has lost records that it had acknowledged", zap.String("topic", topic), zap.Int32("partition", partition))
}

// keep looks after the clients until ctx is done.
func (p *Producer) keep(ctx context.Context) {
	p.greet(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.refused:
			p.heal(ctx)
		case topic := <-p.recreated:
			p.forget(topic)
		}
	}
}

// greet asks for a sign of life until there is one: producing alone does not tell that
// credentials are wrong.
func (p *Producer) greet(ctx context.Context) {
	for n := 1; ; n++ {
		l := p.ledger.now()
		if l == nil { // refused, by an answer to a record
			return
		}
		err := p.ping(ctx, l)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			p.reached(n)
			return
		case isAuthentication(err):
			p.refuse(l, explain(err, ""))
			return
		case n == 1:
			p.log.log.Warn("no broker answers, trying on", zap.Strings("brokers", p.cfg.brokers), zap.Error(err))
		}
		p.board.raise(HealthReason{Kind: HealthDisconnected, Partition: -1, Err: err})
		wait(ctx, startBackoff.limit(n), nil)
	}
}

// reached says that the n-th try was answered.
func (p *Producer) reached(n int) {
	p.board.clear(HealthDisconnected, "", -1)
	if n > 1 {
		p.log.log.Info("a broker answers")
	}
}

func (p *Producer) ping(ctx context.Context, l *link) error {
	limited, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	_, err := within(limited, func() (struct{}, error) { return struct{}{}, topicAdmin{l.client}.ping(limited) })
	return err
}

// refuse lets no record in until keep has found that what was refused is granted. It
// may be called for a link that is not the present one any more.
func (p *Producer) refuse(l *link, err error) {
	if !p.ledger.refuse(l, err) {
		return
	}
	if p.board.raise(HealthReason{Kind: HealthAuthFailing, Partition: -1, Err: err}) {
		p.log.log.Error("the brokers refuse this producer; records fail until they do not", zap.Error(err))
	}
	poke(p.refused)
}

// heal closes a link that cannot write and makes one that can.
func (p *Producer) heal(ctx context.Context) {
	if old := p.ledger.takeRefused(); old != nil {
		p.hangUp(ctx, old)
	}
	for n := 1; ; n++ {
		wait(ctx, healBackoff.limit(n), nil)
		if ctx.Err() != nil {
			return
		}
		l, err := p.connect()
		if err != nil { // a function of the options fails now and did not before
			p.log.log.Error("cannot make a new client", zap.Error(err))
			continue
		}
		if err = p.try(ctx, l); err == nil && p.ledger.install(l) {
			p.board.clear(HealthAuthFailing, "", -1)
			p.log.log.Info("the brokers accept this producer again")
			return
		}
		p.hangUp(ctx, l)
		if isAuthentication(err) || isAuthorization(err) { // it may be another one by now
			err = explain(err, p.cfg.grantWrite())
			p.ledger.refuseStill(err)
			p.board.raise(HealthReason{Kind: HealthAuthFailing, Partition: -1, Err: err})
		}
	}
}

func (c *producerConfig) grantWrite() string {
	if c.topic == "" {
		return "WRITE on the topics that it publishes to"
	}
	return grantWrite(c.topic)
}

// try says whether a link can write.
func (p *Producer) try(ctx context.Context, l *link) error {
	if err := p.ping(ctx, l); err != nil || !p.cfg.idempotent {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	_, _, err := l.client.ProducerID(limited)
	return err
}

// hangUp closes a link that is not the present one any more: what it still has fails,
// and what it is just being given. The end of ctx makes it quick.
func (p *Producer) hangUp(ctx context.Context, l *link) {
	stop := context.AfterFunc(ctx, p.cancel)
	defer stop()
	l.client.Close()
}

// forget makes the client look at a topic anew that was deleted and created again: it
// would fail for ever.
func (p *Producer) forget(topic string) {
	if l := p.ledger.now(); l != nil {
		p.log.log.Warn("the topic was deleted and created again", zap.String("topic", topic))
		l.client.PurgeTopicsFromProducing(topic)
	}
}
