package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/kstage/kstage"
)

const sessionTimeout = 10 * time.Second // a killed process's partitions wait so long

// consumer is the handler of a consumer process: it fails as planned, and tells of every
// call on its standard output.
type consumer struct {
	kstage.NopMetrics
	broken string

	mu     sync.Mutex // guards epochs, and writing
	epochs map[assignment]uint32
}

type assignment struct {
	topic     string
	partition int32
}

// consume is a consumer process: it ends in order when ctx is done.
func consume(ctx context.Context, c config) error {
	log, err := zap.NewProduction(zap.IncreaseLevel(zap.InfoLevel))
	if err != nil {
		return err
	}
	h := &consumer{broken: c.broken, epochs: map[assignment]uint32{}}
	consumer, err := kstage.NewConsumer(h, h.options(c, log.Named(c.consumer))...)
	if err != nil {
		return err
	}
	return consumer.Run(ctx)
}

func (h *consumer) options(c config, log *zap.Logger) []kstage.ConsumerOption {
	delays := stageDelays
	ordering := kstage.ByKey
	switch h.broken {
	case "early":
		delays = []time.Duration{stageDelays[0] / 2, stageDelays[1]}
	case "reorder":
		ordering = kstage.Unordered
	}
	return []kstage.ConsumerOption{
		kstage.WithBrokers(strings.Split(c.brokers, ",")...),
		kstage.WithGroup(c.prefix), kstage.WithTopics(c.prefix + "-main"),
		kstage.WithRetryStages(delays...), kstage.WithOrdering(ordering),
		kstage.WithImmediateRetries(1, kstage.Backoff{Min: 5 * time.Millisecond, Max: 20 * time.Millisecond}),
		kstage.WithLogger(log), kstage.WithMetrics(h),
		kstage.WithClientOptions(func(role kstage.ClientRole) []kgo.Opt {
			if role == kstage.RoleMain || role == kstage.RoleRetry {
				return []kgo.Opt{kgo.SessionTimeout(sessionTimeout), kgo.HeartbeatInterval(time.Second)}
			}
			return nil
		}),
	}
}

// Assigned implements kstage.MetricsCollector: each assignment of a partition is another
// one. Telling of it comes before its first record.
func (h *consumer) Assigned(e kstage.AssignedEvent) {
	if e.Kind != kstage.PartitionsAssigned {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range e.Partitions {
		h.epochs[assignment{e.Topic, p}]++
	}
}

// tell writes an event. Without a reader there is nothing to live for.
func (h *consumer) tell(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.At = time.Now().UnixNano()
	if err := e.write(os.Stdout); err != nil {
		os.Exit(3)
	}
}

func (h *consumer) begin(msg kstage.Message) event {
	seq, _ := strconv.ParseInt(strings.TrimLeft(string(msg.Value()), "."), 10, 64)
	r := msg.Record
	h.mu.Lock()
	epoch := h.epochs[assignment{r.Topic, r.Partition}]
	h.mu.Unlock()
	e := event{
		Kind: begun, Stage: uint8(msg.Stage()), Attempt: uint16(msg.Attempt()),
		Partition: r.Partition, Epoch: epoch, Offset: r.Offset, Seq: seq,
	}
	if due, ok := msg.Header("kstage-due"); ok {
		ms, _ := strconv.ParseInt(string(due), 10, 64)
		e.Due = time.UnixMilli(ms).UnixNano()
	}
	h.tell(e)
	return e
}

var (
	errPlanned = errors.New("planned failure")
	errChance  = errors.New("failure by chance")
)

// Handle implements kstage.Handler.
func (h *consumer) Handle(ctx context.Context, msg kstage.Message) error {
	e := h.begin(msg)
	if rand.N(50) == 0 {
		work(ctx, rand.N(5*time.Millisecond))
	}
	if ctx.Err() != nil {
		e.Kind = cancelled
		h.tell(e)
		return ctx.Err()
	}
	if h.broken == "lose" && rand.N(10_000) == 0 {
		e.Kind = cancelled
		h.tell(e)
		return kstage.Skip(errors.New("lost on purpose"))
	}
	err := decide(e)
	e.Kind = succeeded
	if err != nil {
		e.Kind = failed
	}
	h.tell(e)
	return err
}

// decide fails as planned, and now and then by chance.
func decide(e event) error {
	failsBelow, dead := fate(e.Seq)
	switch {
	case dead && failsBelow == 0:
		return kstage.Permanent(errPlanned)
	case int(e.Stage) < failsBelow:
		return errPlanned
	case e.Stage == 0 && rand.N(500) == 0: // not above: it could be one time too many
		return errChance
	}
	return nil
}

func work(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
