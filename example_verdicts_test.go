package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/kstage/kstage"
)

// No retry can help: the record is dead at once.
func ExamplePermanent_deadLetter() {
	broker := ordered("tea")
	defer broker.Close()
	consumer := consumerOf(broker, func(context.Context, kstage.Message) error {
		return kstage.Permanent(errors.New("no such customer"))
	}, kstage.WithRetryStages(time.Hour))
	d := deadLetter(context.Background(), broker, consumer)
	fmt.Println(d.Reason, "at attempt", d.Attempt)
	// Output:
	// permanent at attempt 1
}

// A dead letter is the record, and says where it is from and why.
func ExampleDecodeDeadLetter_consumer() {
	broker := ordered("tea")
	defer broker.Close()
	consumer := consumerOf(broker, func(context.Context, kstage.Message) error {
		return errors.New("the till is closed")
	}, kstage.WithRetryStages(10*time.Millisecond))
	d := deadLetter(context.Background(), broker, consumer) // polls billing-dlq and calls kstage.DecodeDeadLetter
	fmt.Printf("%s = %s\n", d.Record.Key, d.Record.Value)
	fmt.Printf("from %s/%d@%d\n", d.Origin.Topic, d.Origin.Partition, d.Origin.Offset)
	fmt.Printf("%s at attempt %d, in stage %d: %s\n", d.Reason, d.Attempt, d.Stage, d.Error)
	// Output:
	// customer-1 = tea
	// from orders/0@0
	// exhausted at attempt 2, in stage 1: the till is closed
}

// The handler knows when it makes sense to try again.
func ExampleRetryAfter() {
	broker := ordered("tea")
	defer broker.Close()
	ctx, stop := context.WithCancel(context.Background())
	consumer := consumerOf(broker, func(_ context.Context, msg kstage.Message) error {
		fmt.Printf("attempt %d, stage %d\n", msg.Attempt(), msg.Stage())
		if msg.Stage() == 0 {
			return kstage.RetryAfter(errors.New("too many requests"), 100*time.Millisecond)
		}
		stop()
		return nil
	}, kstage.WithRetryStages(10*time.Millisecond, 150*time.Millisecond)) // the first stage is too short
	fmt.Println("ended:", consumer.Run(ctx))
	// Output:
	// attempt 1, stage 0
	// attempt 2, stage 2
	// ended: <nil>
}

// Nothing has failed, it is too early: that costs no attempt.
func ExampleSnooze() {
	broker := ordered("tea")
	defer broker.Close()
	ctx, stop := context.WithCancel(context.Background())
	opens := time.Now().Add(100 * time.Millisecond)
	consumer := consumerOf(broker, func(_ context.Context, msg kstage.Message) error {
		if wait := time.Until(opens); wait > 0 {
			return kstage.Snooze(wait)
		}
		fmt.Println("open, attempt", msg.Attempt())
		stop()
		return nil
	})
	fmt.Println("ended:", consumer.Run(ctx))
	// Output:
	// open, attempt 1
	// ended: <nil>
}

// The record needs nothing done: it is finished, and counted as skipped.
func ExampleSkip_handler() {
	broker := ordered("tea", "milk")
	defer broker.Close()
	ctx, stop := context.WithCancel(context.Background())
	var counters kstage.Counters
	consumer := consumerOf(broker, func(_ context.Context, msg kstage.Message) error {
		if string(msg.Value()) == "tea" {
			return kstage.Skip(errors.New("tea is not for sale any more"))
		}
		stop()
		return nil
	}, kstage.WithMetrics(&counters))
	fmt.Println("ended:", consumer.Run(ctx))
	s := counters.Snapshot()
	fmt.Println("processed", s.Processed, "skipped", s.Skipped)
	// Output:
	// ended: <nil>
	// processed 1 skipped 1
}

// Which errors no retry can cure is said in one place.
func ExampleWithClassifier() {
	broker := ordered("tea")
	defer broker.Close()
	errNoCustomer := errors.New("no such customer")
	consumer := consumerOf(broker,
		func(context.Context, kstage.Message) error { return fmt.Errorf("charge: %w", errNoCustomer) },
		kstage.WithRetryStages(time.Hour),
		kstage.WithClassifier(func(err error) kstage.Class {
			if errors.Is(err, errNoCustomer) {
				return kstage.ClassPermanent
			}
			return kstage.ClassRetry
		}))
	d := deadLetter(context.Background(), broker, consumer)
	fmt.Println(d.Reason, d.Error)
	// Output:
	// permanent charge: no such customer
}

// Without a dead-letter topic, a dead record can end the consumer.
func ExampleWithoutDLQ() {
	broker := ordered("tea")
	defer broker.Close()
	consumer := consumerOf(broker, func(context.Context, kstage.Message) error {
		return errors.New("the till is closed")
	}, kstage.WithoutDLQ(kstage.Stop))
	err := consumer.Run(context.Background())
	var stopped *kstage.StoppedError
	fmt.Println(errors.As(err, &stopped), stopped.Coordinates)
	// Output:
	// true orders/0@0
}

// A blocked record keeps its key waiting until somebody decides.
func ExampleConsumer_Skip() {
	broker := ordered("tea", "milk")
	defer broker.Close()
	ctx, stop := context.WithCancel(context.Background())
	consumer := consumerOf(broker, func(_ context.Context, msg kstage.Message) error {
		if string(msg.Value()) == "tea" {
			return errors.New("the till is closed")
		}
		fmt.Printf("%s is handled\n", msg.Value())
		stop()
		return nil
	}, kstage.WithoutDLQ(kstage.Block))
	var skipping sync.WaitGroup
	skipping.Go(func() { // an operator, who has seen stuck-record in Health
		for consumer.Skip("orders", 0, 0) != nil { // it is not blocked yet
			<-time.After(10 * time.Millisecond)
		}
		fmt.Println("tea is skipped")
	})
	err := consumer.Run(ctx)
	skipping.Wait()
	fmt.Println("ended:", err)
	// Unordered output:
	// tea is skipped
	// milk is handled
	// ended: <nil>
}
