// Quickstart publishes six orders and consumes them: four are handled at once,
// one at its second attempt, and one is dead and ends in the dead-letter topic.
//
// Without KAFKA_BROKERS it starts a broker of its own, in this process.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

const (
	topic  = "quickstart-orders"
	group  = "quickstart"
	orders = 6
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) error {
	started := time.Now().Truncate(time.Millisecond)
	brokers, stop, err := brokers(out)
	if err != nil {
		return err
	}
	defer stop()

	shop := &shop{out: out, done: make(chan struct{})}
	consumer, err := kstage.NewConsumer(shop,
		kstage.WithBrokers(brokers...),
		kstage.WithGroup(group),
		kstage.WithTopics(topic),
		kstage.WithTopicProvisioning(kstage.CreateTopics),
		kstage.WithImmediateRetries(2, kstage.Backoff{Min: 50 * time.Millisecond, Max: 200 * time.Millisecond}),
		kstage.WithMetrics(&shop.counters),
	)
	if err != nil {
		return err
	}
	if err := kstage.EnsureTopics(ctx, consumer.Topology(), kstage.WithBrokers(brokers...)); err != nil {
		return err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(consumer.Topology().DLQ))
	if err != nil {
		return err
	}
	defer client.Close()
	if err := publish(ctx, client, out); err != nil {
		return err
	}

	return consume(ctx, consumer, shop, func() error { return showDeadLetter(ctx, client, started, out) })
}

// consume runs the consumer until no order is left and the dead letter was shown.
func consume(ctx context.Context, consumer *kstage.Consumer, shop *shop, show func() error) error {
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- consumer.Run(running) }()
	select {
	case <-shop.done:
	case err := <-ended:
		return fmt.Errorf("the consumer ended early: %w", err)
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := show(); err != nil {
		return err
	}
	stop()
	if err := <-ended; err != nil {
		return err
	}
	s := shop.counters.Snapshot()
	fmt.Fprintf(shop.out, "\nreceived %d = handled %d + dead-lettered %d; %d handler calls failed\n", s.Received, s.Processed, s.SentToDLQ, s.Failed)
	return nil
}

// brokers are those of KAFKA_BROKERS, or one that ends with stop.
func brokers(out io.Writer) (addrs []string, stop func(), err error) {
	if s := os.Getenv("KAFKA_BROKERS"); s != "" {
		fmt.Fprintf(out, "broker: %s\n", s)
		return strings.Split(s, ","), func() {}, nil
	}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		return nil, nil, err
	}
	fmt.Fprintln(out, "broker: embedded (set KAFKA_BROKERS to use your own)")
	return cluster.ListenAddrs(), cluster.Close, nil
}

func publish(ctx context.Context, client *kgo.Client, out io.Writer) error {
	for n := 1; n <= orders; n++ {
		r := &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "order-%d", n), Value: fmt.Appendf(nil, `{"order":%d,"amount":%d}`, n, 10*n)}
		if err := client.ProduceSync(ctx, r).FirstErr(); err != nil {
			return fmt.Errorf("publish: %w", err)
		}
	}
	fmt.Fprintf(out, "published %d orders to %s\n\n", orders, topic)
	return nil
}

// shop is the service: a handler of orders.
type shop struct {
	counters kstage.Counters
	out      io.Writer

	mu    sync.Mutex // guards out and ended
	ended int
	done  chan struct{} // closed when no order is left
}

// Handle implements kstage.Handler.
func (s *shop) Handle(_ context.Context, msg kstage.Message) error {
	err := charge(msg)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		fmt.Fprintf(s.out, "handled  %s  attempt %d\n", msg.Key(), msg.Attempt())
	} else {
		fmt.Fprintf(s.out, "failed   %s  attempt %d: %v\n", msg.Key(), msg.Attempt(), err)
	}
	if err == nil || kstage.IsPermanent(err) {
		if s.ended++; s.ended == orders {
			close(s.done)
		}
	}
	return err
}

// charge is where the work would be: one order fails once, one for good.
func charge(msg kstage.Message) error {
	switch {
	case string(msg.Key()) == "order-2" && msg.Attempt() == 1:
		return errors.New("the payment service did not answer") // tried again, in this process
	case string(msg.Key()) == "order-5":
		return kstage.Permanent(errors.New("the card was refused")) // no retry can help
	}
	return nil
}

// showDeadLetter waits for the dead letter of this run and prints what it tells.
func showDeadLetter(ctx context.Context, client *kgo.Client, started time.Time, out io.Writer) error {
	for {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err0(); err != nil {
			return fmt.Errorf("read the dead-letter topic: %w", err)
		}
		for _, r := range fetches.Records() {
			d, err := kstage.DecodeDeadLetter(r)
			if err != nil {
				return err
			}
			if d.LastFailedAt.Before(started) {
				continue // of an earlier run
			}
			fmt.Fprintf(out, "\ndead letter in %s:\n", r.Topic)
			fmt.Fprintf(out, "  key       %s\n  value     %s\n", r.Key, r.Value)
			fmt.Fprintf(out, "  from      %s, partition %d\n", d.Origin.Topic, d.Origin.Partition)
			fmt.Fprintf(out, "  reason    %s after %d attempt\n", d.Reason, d.Attempt)
			fmt.Fprintf(out, "  error     %s\n", d.Error)
			return nil
		}
	}
}
