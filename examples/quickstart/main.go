// Quickstart publishes six orders and consumes them: one is handled at once, one at
// its second attempt in this process, two after waiting in a retry topic; two are
// dead and end in the dead-letter topic, one for good, one after all its retries.
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

	dead     = 2 // of the orders
	attempts = 6 // two in each of main, stage 1, stage 2
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
		kstage.WithImmediateRetries(1, kstage.Backoff{Min: 20 * time.Millisecond, Max: 20 * time.Millisecond}),
		kstage.WithRetryStages(100*time.Millisecond, 300*time.Millisecond),
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
	if err := publish(ctx, brokers, out); err != nil {
		return err
	}

	return consume(ctx, consumer, shop, func() error { return showDeadLetters(ctx, client, started, out) })
}

// consume runs the consumer until no order is left and the dead letters were shown.
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
	fmt.Fprintf(shop.out, "\nreceived %d = handled %d + sent to retry topics %d + dead-lettered %d; %d handler calls failed\n",
		s.Received, s.Processed, s.Retried, s.SentToDLQ, s.Failed)
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

func publish(ctx context.Context, brokers []string, out io.Writer) (err error) {
	producer, err := kstage.NewProducer(kstage.WithBrokers(brokers...), kstage.WithTopic(topic))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, producer.Close(ctx)) }()
	for n := 1; n <= orders; n++ {
		r := &kgo.Record{Key: fmt.Appendf(nil, "order-%d", n), Value: fmt.Appendf(nil, `{"order":%d,"amount":%d}`, n, 10*n)}
		if err := producer.Publish(ctx, r); err != nil {
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
		fmt.Fprintf(s.out, "handled  %s  attempt %d%s\n", msg.Key(), msg.Attempt(), waited(msg))
	} else {
		fmt.Fprintf(s.out, "failed   %s  attempt %d%s: %v\n", msg.Key(), msg.Attempt(), waited(msg), err)
	}
	if err == nil || kstage.IsPermanent(err) || msg.Attempt() == attempts {
		if s.ended++; s.ended == orders {
			close(s.done)
		}
	}
	return err
}

// waited tells of a record from a retry topic.
func waited(msg kstage.Message) string {
	failed, ok := msg.FirstFailedAt()
	if msg.Stage() == 0 || !ok {
		return ""
	}
	return fmt.Sprintf(", from retry topic %d, %v after it failed first", msg.Stage(), time.Since(failed).Round(10*time.Millisecond))
}

// charge is where the work would be.
func charge(msg kstage.Message) error {
	switch string(msg.Key()) {
	case "order-2": // fails once, and is tried again in this process
		if msg.Attempt() == 1 {
			return errors.New("the payment service did not answer")
		}
	case "order-3": // recovers while it waits in the first retry topic
		if msg.Stage() == 0 {
			return errors.New("the payment service is down")
		}
	case "order-4": // knows when it makes sense to try again
		if msg.Stage() == 0 {
			return kstage.RetryAfter(errors.New("too many requests"), 250*time.Millisecond)
		}
	case "order-5": // no retry can help
		return kstage.Permanent(errors.New("the card was refused"))
	case "order-6": // every retry fails
		return errors.New("the payment service has a bug")
	}
	return nil
}

// showDeadLetters waits for the dead letters of this run and prints what they tell.
func showDeadLetters(ctx context.Context, client *kgo.Client, started time.Time, out io.Writer) error {
	for shown := 0; shown < dead; {
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
			shown++
			fmt.Fprintf(out, "\ndead letter in %s:\n", r.Topic)
			fmt.Fprintf(out, "  key       %s\n  value     %s\n", r.Key, r.Value)
			fmt.Fprintf(out, "  from      %s, partition %d\n", d.Origin.Topic, d.Origin.Partition)
			fmt.Fprintf(out, "  reason    %s at attempt %d, in stage %d\n", d.Reason, d.Attempt, d.Stage)
			fmt.Fprintf(out, "  error     %s\n", d.Error)
		}
	}
	return nil
}
