package kstage_test

import (
	"context"
	"fmt"
	"os"

	"github.com/kstage/kstage"
)

// Every wrong variable is named, with what it takes.
func ExampleConsumerOptionsFromEnv() {
	for name, value := range map[string]string{"KAFKA_CONSUMER_WORKERS": "five", "KAFKA_CONSUMER_RETRY_DELAYS": "10,60"} {
		if err := os.Setenv(name, value); err != nil { // a deployment does that
			fmt.Println(err)
		}
		defer func() { _ = os.Unsetenv(name) }()
	}
	_, err := kstage.ConsumerOptionsFromEnv()
	fmt.Println(err)
	// Output:
	// kstage: KAFKA_CONSUMER_WORKERS="five": it takes a whole number from 1 to 100000
	// kstage: KAFKA_CONSUMER_RETRY_DELAYS="10,60": it takes durations such as 10s,1m,10m: each more than 0, none shorter than the one before: 10 of which unit?
}

// Later options replace those of the environment.
func ExampleProducerOptionsFromEnv() {
	opts, err := kstage.ProducerOptionsFromEnv()
	if err != nil {
		fmt.Println(err)
		return
	}
	producer, err := kstage.NewProducer(append(opts, kstage.WithTopic("orders"))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(producer.Topic())
	fmt.Println("closed:", producer.Close(context.Background()))
	// Output:
	// orders
	// closed: <nil>
}

// lines prints what is counted.
type lines struct{}

func (lines) IncPublished()     { fmt.Println("published") }
func (lines) IncPublishFailed() { fmt.Println("publish failed") }
func (lines) IncReceived()      { fmt.Println("received") }
func (lines) IncProcessed()     { fmt.Println("processed") }
func (lines) IncFailed()        { fmt.Println("failed") }
func (lines) IncRetried()       { fmt.Println("retried") }
func (lines) IncSentToDLQ()     { fmt.Println("sent to the DLQ") }

// Any type with seven counters is a collector.
func ExampleNewCounterMetrics() {
	metrics := kstage.NewCounterMetrics(lines{}) // kstage.WithMetrics(metrics)
	metrics.Received(kstage.ReceivedEvent{Records: 2})
	metrics.Handled(kstage.HandledEvent{Outcome: kstage.OutcomeProcessed})
	metrics.HandedOff(kstage.HandedOffEvent{Target: "billing-retry-1"})
	// Output:
	// received
	// received
	// processed
	// retried
}
