// Consumer handles the events of examples/producer, as the environment says
// (docs/configuration.md). SIGTERM and Ctrl-C end it in good order: running handlers
// end, what is finished is committed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/kstage/kstage"
	"github.com/kstage/kstage/examples/internal/probes"
)

func main() {
	var s service
	flag.DurationVar(&s.work, "work", 5*time.Millisecond, "how long an event takes")
	startTimeout := flag.Duration("start-timeout", 30*time.Second, "end where no broker answers for so long at the start; 0: never")
	flag.Parse()
	if err := run(&s, *startTimeout); err != nil {
		fmt.Fprintln(os.Stderr, "consumer:", err)
		os.Exit(1)
	}
}

func run(s *service, startTimeout time.Duration) error {
	log, logErr := kstage.LoggerFromEnv()
	opts, optsErr := kstage.ConsumerOptionsFromEnv()
	if err := errors.Join(logErr, optsErr); err != nil {
		return err
	}
	s.log = log
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once

	var counters kstage.Counters
	consumer, err := kstage.NewConsumer(s, append(opts,
		kstage.WithLogger(log),
		kstage.WithMetrics(&counters),
		kstage.WithDedupe(kstage.NewMemoryDedupeStore(time.Hour, 100_000)),
		kstage.WithStartTimeout(startTimeout),
	)...)
	if err != nil {
		return err
	}
	addr, stopProbes, err := probes.Serve(consumer, "localhost:8080")
	if err != nil {
		return err
	}
	defer stopProbes()
	log.Info("consumer started", zap.String("health", "http://"+addr+"/readyz"), zap.Any("topology", consumer.Topology()))
	go consumer.WatchHealth(ctx, 10*time.Second, func(t kstage.Transition) {
		if t.Reconnected() {
			log.Info("reconnected")
		}
	})

	err = consumer.Run(ctx)
	c := counters.Snapshot()
	fmt.Printf("received %d = processed %d + retried %d + sent to DLQ %d + skipped %d + dropped %d + duplicates %d + released %d + foreign %d; failed %d\n",
		c.Received, c.Processed, c.Retried, c.SentToDLQ, c.Skipped, c.Dropped, c.Duplicates, c.Released, c.Foreign, c.Failed)
	return err
}

// service is the application.
type service struct {
	log  *zap.Logger
	work time.Duration
}

// Handle implements kstage.Handler.
func (s *service) Handle(ctx context.Context, msg kstage.Message) error {
	var e struct {
		Number int    `json:"number"`
		Fails  string `json:"fails"`
	}
	if err := json.Unmarshal(msg.Value(), &e); err != nil {
		return kstage.Permanent(fmt.Errorf("not an event: %w", err)) // no retry can help
	}
	switch {
	case e.Fails == "always":
		return kstage.Permanent(fmt.Errorf("event %d is refused", e.Number))
	case e.Fails == "once" && msg.Attempt() == 1:
		return fmt.Errorf("event %d fails once", e.Number)
	}
	select {
	case <-time.After(s.work):
	case <-ctx.Done(): // the shutdown has taken too long: whoever gets the partition next handles it
		return context.Cause(ctx)
	}
	requestID, _ := msg.Header("request-id")
	s.log.Info("event handled",
		zap.String("topic", msg.Record.Topic), zap.ByteString("key", msg.Key()), zap.String("message_id", msg.ID()), zap.ByteString("request_id", requestID),
		zap.Int("number", e.Number), zap.Int("attempt", msg.Attempt()))
	return nil
}
