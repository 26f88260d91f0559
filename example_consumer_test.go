package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/kstage/kstage"
)

// ordered is an embedded broker with these values in its topic "orders", all of one key.
func ordered(values ...string) *kfake.Cluster {
	broker := exampleBroker()
	producer, err := kstage.NewProducer(kstage.WithBrokers(broker.ListenAddrs()...), kstage.WithTopic("orders"))
	if err != nil {
		panic(err)
	}
	ctx := context.Background() //nolint:forbidigo // an example has no caller
	for _, v := range values {
		r := &kgo.Record{Key: []byte("customer-1"), Value: []byte(v), Headers: []kgo.RecordHeader{{Key: "message-id", Value: []byte("id-" + v)}}}
		if err := producer.Publish(ctx, r); err != nil {
			panic(err)
		}
	}
	if err := producer.Close(ctx); err != nil {
		panic(err)
	}
	return broker
}

// consumerOf makes a consumer of the topic "orders" for an example.
func consumerOf(broker *kfake.Cluster, handle kstage.HandlerFunc, opts ...kstage.ConsumerOption) *kstage.Consumer {
	consumer, err := kstage.NewConsumer(handle, append([]kstage.ConsumerOption{
		kstage.WithBrokers(broker.ListenAddrs()...),
		kstage.WithGroup("billing"),
		kstage.WithTopics("orders"),
		kstage.WithTopicProvisioning(kstage.CreateTopics),
		kstage.WithImmediateRetries(0, kstage.Backoff{}),
	}, opts...)...)
	if err != nil {
		panic(err)
	}
	return consumer
}

// deadLetter runs a consumer until there is a dead letter, and returns it.
func deadLetter(ctx context.Context, broker *kfake.Cluster, consumer *kstage.Consumer) kstage.DeadLetter {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var running sync.WaitGroup
	running.Go(func() {
		if err := consumer.Run(ctx); err != nil {
			fmt.Println(err)
		}
	})
	defer running.Wait()
	defer stop()
	client, err := kgo.NewClient(kgo.SeedBrokers(broker.ListenAddrs()...), kgo.ConsumeTopics("billing-dlq"), kgo.MetadataMinAge(10*time.Millisecond), kgo.UnknownTopicRetries(-1))
	if err != nil {
		panic(err)
	}
	defer client.Close()
	var read []*kgo.Record
	for len(read) == 0 {
		read = client.PollFetches(ctx).Records()
	}
	d, err := kstage.DecodeDeadLetter(read[0])
	if err != nil {
		panic(err)
	}
	return d
}

// A consumer runs until its context is done: then it drains, commits and leaves.
func ExampleConsumer_Run() {
	broker := ordered("tea", "milk")
	defer broker.Close()
	ctx, stop := context.WithCancel(context.Background())

	consumer, err := kstage.NewConsumer(
		kstage.HandlerFunc(func(_ context.Context, msg kstage.Message) error {
			fmt.Printf("%s ordered %s\n", msg.Key(), msg.Value())
			if string(msg.Value()) == "milk" {
				stop() // a service stops at SIGTERM: see signal.NotifyContext
			}
			return nil
		}),
		kstage.WithBrokers(broker.ListenAddrs()...),
		kstage.WithGroup("billing"),
		kstage.WithTopics("orders"),
		kstage.WithTopicProvisioning(kstage.CreateTopics),
		kstage.WithWorkers(64),
	)
	if err != nil {
		fmt.Println(err) // every mistake at once
		return
	}
	fmt.Println("ended:", consumer.Run(ctx))
	// Output:
	// customer-1 ordered tea
	// customer-1 ordered milk
	// ended: <nil>
}

// Every mistake of the options is told at once.
func ExampleNewConsumer() {
	_, err := kstage.NewConsumer(nil, kstage.WithBrokers("localhost:9092"), kstage.WithTopics("orders", "no spaces"), kstage.WithWorkers(0))
	fmt.Println(err)
	// Output:
	// kstage: NewConsumer needs a handler, not a nil <nil>
	// kstage: WithGroup is required
	// kstage: WithTopics: topic name "no spaces": ' ' is not one of a-z A-Z 0-9 . _ -
	// kstage: WithWorkers(0): at least 1
}

// An immediate retry holds back its key: nothing of the key overtakes it.
func ExampleWithImmediateRetries() {
	broker := ordered("tea", "milk")
	defer broker.Close()
	ctx, stop := context.WithCancel(context.Background())
	consumer := consumerOf(broker, func(_ context.Context, msg kstage.Message) error {
		fmt.Printf("%s, attempt %d\n", msg.Value(), msg.Attempt())
		switch {
		case string(msg.Value()) == "milk":
			stop()
		case msg.Attempt() < 3:
			return errors.New("the till is closed")
		}
		return nil
	}, kstage.WithImmediateRetries(2, kstage.Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond}))
	fmt.Println("ended:", consumer.Run(ctx))
	// Output:
	// tea, attempt 1
	// tea, attempt 2
	// tea, attempt 3
	// milk, attempt 1
	// ended: <nil>
}

// A record that fails waits in a retry topic; later ones go on meanwhile.
func ExampleWithRetryStages() {
	broker := ordered("tea", "milk")
	defer broker.Close()
	ctx, stop := context.WithCancel(context.Background())
	consumer := consumerOf(broker, func(_ context.Context, msg kstage.Message) error {
		fmt.Printf("%s, attempt %d, stage %d\n", msg.Value(), msg.Attempt(), msg.Stage())
		switch {
		case string(msg.Value()) == "milk":
		case msg.Stage() == 2:
			failed, _ := msg.FirstFailedAt()
			fmt.Println("it waited long enough:", time.Since(failed) >= 300*time.Millisecond)
			stop()
		default:
			return errors.New("the till is closed")
		}
		return nil
	}, kstage.WithRetryStages(100*time.Millisecond, 200*time.Millisecond)) // billing-retry-1, billing-retry-2
	fmt.Println("ended:", consumer.Run(ctx))
	// Unordered output:
	// tea, attempt 1, stage 0
	// milk, attempt 1, stage 0
	// tea, attempt 2, stage 1
	// tea, attempt 3, stage 2
	// it waited long enough: true
	// ended: <nil>
}

// By partition: one record at a time, whatever its key.
func ExampleWithOrdering() {
	broker := ordered("tea", "milk", "sugar")
	defer broker.Close()
	ctx, stop := context.WithCancel(context.Background())
	consumer := consumerOf(broker, func(_ context.Context, msg kstage.Message) error {
		fmt.Printf("%s\n", msg.Value())
		if string(msg.Value()) == "sugar" {
			stop()
		}
		return nil
	}, kstage.WithOrdering(kstage.ByPartition))
	fmt.Println("ended:", consumer.Run(ctx))
	// Output:
	// tea
	// milk
	// sugar
	// ended: <nil>
}

// An id that was handled is not handled again.
func ExampleWithDedupe() {
	broker := ordered("tea", "tea", "milk") // two records with the message-id "id-tea"
	defer broker.Close()
	ctx, stop := context.WithCancel(context.Background())
	var counters kstage.Counters
	consumer := consumerOf(broker, func(_ context.Context, msg kstage.Message) error {
		fmt.Println(msg.ID())
		if string(msg.Value()) == "milk" {
			stop()
		}
		return nil
	}, kstage.WithDedupe(kstage.NewMemoryDedupeStore(time.Hour, 100_000)), kstage.WithMetrics(&counters))
	fmt.Println("ended:", consumer.Run(ctx))
	fmt.Println("duplicates:", counters.Snapshot().Duplicates)
	// Output:
	// id-tea
	// id-milk
	// ended: <nil>
	// duplicates: 1
}

// Where the id stands in the record's value.
func ExampleWithMessageID() {
	broker := ordered("tea")
	defer broker.Close()
	ctx, stop := context.WithCancel(context.Background())
	consumer := consumerOf(broker, func(_ context.Context, msg kstage.Message) error {
		fmt.Println(msg.ID())
		stop()
		return nil
	}, kstage.WithMessageID(func(r *kgo.Record) string { return "order of " + string(r.Value) }))
	fmt.Println("ended:", consumer.Run(ctx))
	// Output:
	// order of tea
	// ended: <nil>
}

// Middleware wraps the handler; the first is the outermost.
func ExampleWithMiddleware() {
	broker := ordered("tea")
	defer broker.Close()
	ctx, stop := context.WithCancel(context.Background())
	named := func(name string) kstage.Middleware {
		return func(next kstage.Handler) kstage.Handler {
			return kstage.HandlerFunc(func(ctx context.Context, msg kstage.Message) error {
				fmt.Println(name, "before")
				defer fmt.Println(name, "after")
				return next.Handle(ctx, msg)
			})
		}
	}
	consumer := consumerOf(broker, func(context.Context, kstage.Message) error {
		fmt.Println("handler")
		stop()
		return nil
	}, kstage.WithMiddleware(named("outer"), named("inner")))
	fmt.Println("ended:", consumer.Run(ctx))
	// Output:
	// outer before
	// inner before
	// handler
	// inner after
	// outer after
	// ended: <nil>
}

// Fields of every log line about a record, from Run's context.
func ExampleWithLogFields() {
	broker := ordered("tea")
	defer broker.Close()
	type podKey struct{}
	ctx := context.WithValue(context.Background(), podKey{}, "billing-0")
	logger := zap.NewExample() // prints JSON
	consumer := consumerOf(broker,
		func(context.Context, kstage.Message) error { return kstage.Permanent(errors.New("no such customer")) },
		kstage.WithLogger(logger.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
		kstage.WithKeyRedactor(func([]byte) string { return "***" }),
		kstage.WithLogFields(func(ctx context.Context) []zap.Field {
			return []zap.Field{zap.Any("pod", ctx.Value(podKey{}))}
		}))
	fmt.Println("dead:", deadLetter(ctx, broker, consumer).Reason)
	// Output:
	// {"level":"error","msg":"record is dead: to the dead-letter topic","topic":"orders","key":"***","message_id":"id-tea","partition":0,"offset":0,"attempt":1,"stage":0,"pod":"billing-0","outcome":"dead","reason":"permanent","error":"no such customer"}
	// dead: permanent
}

// Probes for Kubernetes.
func ExampleConsumer_ReadinessHandler() {
	broker := ordered()
	defer broker.Close()
	consumer := consumerOf(broker, func(context.Context, kstage.Message) error { return nil })
	mux := http.NewServeMux()
	mux.Handle("/livez", consumer.LivenessHandler())
	mux.Handle("/readyz", consumer.ReadinessHandler())

	get := func(path string) {
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
		fmt.Println(answer.Code, strings.TrimSpace(answer.Body.String()))
	}
	get("/livez")
	get("/readyz") // Run was not called yet
	// Output:
	// 200 {"live":true}
	// 503 {"ready":false}
}

// A watch hears of its first look and of every change.
func ExampleConsumer_WatchHealth() {
	broker := ordered()
	defer broker.Close()
	ctx, stop := context.WithCancel(context.Background())
	consumer := consumerOf(broker, func(context.Context, kstage.Message) error { return nil })
	var watching sync.WaitGroup
	watching.Go(func() {
		consumer.WatchHealth(ctx, 10*time.Millisecond, func(t kstage.Transition) {
			if t.After.Ready {
				fmt.Println("ready")
				stop()
			}
		})
	})
	err := consumer.Run(ctx)
	watching.Wait()
	fmt.Println("ended:", err)
	// Output:
	// ready
	// ended: <nil>
}

// What is paused is not fetched; Health and Stats say so.
func ExampleConsumer_Pause() {
	broker := ordered()
	defer broker.Close()
	consumer := consumerOf(broker, func(context.Context, kstage.Message) error { return nil })
	consumer.Pause("orders")
	fmt.Println(slices.ContainsFunc(consumer.Health().Reasons, func(r kstage.HealthReason) bool { return r.Kind == kstage.HealthPaused }))
	consumer.Resume("orders")
	fmt.Println(slices.ContainsFunc(consumer.Health().Reasons, func(r kstage.HealthReason) bool { return r.Kind == kstage.HealthPaused }))
	// Output:
	// true
	// false
}

// Topics made by a deployment, so that the service needs no permission to.
func ExampleEnsureTopics() {
	broker := exampleBroker()
	defer broker.Close()
	topology, err := kstage.NewTopology(kstage.WithGroup("billing"), kstage.WithTopics("orders"), kstage.WithRetryStages(time.Minute))
	if err != nil {
		fmt.Println(err)
		return
	}
	brokers := kstage.WithBrokers(broker.ListenAddrs()...)
	fmt.Println(kstage.EnsureTopics(context.Background(), topology, brokers))
	fmt.Println(kstage.EnsureTopics(context.Background(), topology, brokers)) // nothing is missing any more
	// Output:
	// <nil>
	// <nil>
}
