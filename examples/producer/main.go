// Producer publishes events, as the environment says (docs/configuration.md). Some of
// them are such that examples/consumer fails on them: once, or for good.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/kstage/kstage"
	"github.com/kstage/kstage/examples/internal/probes"
)

// event is what is published. Consumers of this example know it, too.
type event struct {
	Number int    `json:"number"`
	Fails  string `json:"fails,omitempty"` // "once": its first handler call; "always": it is refused
}

func main() {
	var p program
	flag.IntVar(&p.count, "n", 100, "events to publish; 0: until it is stopped")
	flag.DurationVar(&p.every, "every", 20*time.Millisecond, "pause between two events")
	flag.IntVar(&p.once, "fail-once", 7, "each so many-th event fails once; 0: none")
	flag.IntVar(&p.refused, "refused", 20, "each so many-th event is refused; 0: none")
	flag.Parse()
	if err := p.run(); err != nil {
		fmt.Fprintln(os.Stderr, "producer:", err)
		os.Exit(1)
	}
}

type program struct {
	count, once, refused int
	every                time.Duration

	log      *zap.Logger
	producer *kstage.Producer
	counters kstage.Counters
}

func (p *program) run() (err error) {
	log, logErr := kstage.LoggerFromEnv()
	opts, optsErr := kstage.ProducerOptionsFromEnv()
	if err := errors.Join(logErr, optsErr); err != nil {
		return err
	}
	p.log = log
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	p.producer, err = kstage.NewProducer(append(opts, kstage.WithLogger(log), kstage.WithMetrics(&p.counters))...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.end()) }()
	addr, stopProbes, err := probes.Serve(p.producer, "localhost:8081")
	if err != nil {
		return err
	}
	defer stopProbes()
	log.Info("producer started", zap.String("health", "http://"+addr+"/readyz"))
	go p.producer.WatchHealth(ctx, 10*time.Second, func(t kstage.Transition) {
		if t.Reconnected() {
			log.Info("reconnected")
		}
	})
	return p.publishAll(ctx)
}

// publishAll publishes until all events are, one fails, or ctx is done.
func (p *program) publishAll(ctx context.Context) error {
	pace := time.NewTicker(max(p.every, time.Microsecond))
	defer pace.Stop()
	for n := 1; p.count == 0 || n <= p.count; n++ {
		if err := p.publish(context.WithoutCancel(ctx), n); err != nil { // the delivery timeout ends it
			return err
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// publish publishes one event and waits for its acknowledgement.
func (p *program) publish(ctx context.Context, n int) error {
	value, err := json.Marshal(event{Number: n, Fails: p.fails(n)})
	if err != nil {
		return err
	}
	messageID, requestID := rand.Text(), rand.Text()
	r := &kgo.Record{
		Topic: p.producer.Topic(),
		Key:   fmt.Appendf(nil, "customer-%d", n%10), Value: value,
		Headers: []kgo.RecordHeader{{Key: "message-id", Value: []byte(messageID)}, {Key: "request-id", Value: []byte(requestID)}},
	}
	if err := p.producer.Publish(ctx, r); err != nil {
		return err
	}
	p.log.Info("event published",
		zap.String("topic", r.Topic), zap.ByteString("key", r.Key), zap.String("message_id", messageID), zap.String("request_id", requestID),
		zap.Int32("partition", r.Partition), zap.Int64("offset", r.Offset))
	return nil
}

func (p *program) fails(n int) string {
	switch {
	case p.refused > 0 && n%p.refused == 0:
		return "always"
	case p.once > 0 && n%p.once == 0:
		return "once"
	}
	return ""
}

// end waits for what is on its way, and prints the counters.
func (p *program) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := p.producer.Close(ctx)
	s := p.counters.Snapshot()
	fmt.Printf("published %d, failed %d\n", s.Published, s.PublishFailed)
	return err
}
