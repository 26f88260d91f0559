package kstage_test

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// exampleBroker is an embedded broker with a topic "orders".
func exampleBroker() *kfake.Cluster {
	return kfake.MustCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "orders"))
}

func ExampleProducer_Publish() {
	broker := exampleBroker()
	defer broker.Close()
	ctx := context.Background()
	producer, err := kstage.NewProducer(kstage.WithBrokers(broker.ListenAddrs()...), kstage.WithTopic("orders"))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, value := range []string{"tea", "milk"} {
		r := &kgo.Record{Key: []byte("customer-1"), Value: []byte(value)}
		if err := producer.Publish(ctx, r); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s is at offset %d of partition %d\n", value, r.Offset, r.Partition)
	}
	err = producer.Publish(ctx, &kgo.Record{Topic: "no-such-topic", Value: []byte("sugar")})
	var kafka *kerr.Error
	if errors.As(err, &kafka) {
		fmt.Println(kafka.Message)
	}
	fmt.Println("closed:", producer.Close(ctx))
	// Output:
	// tea is at offset 0 of partition 0
	// milk is at offset 1 of partition 0
	// UNKNOWN_TOPIC_OR_PARTITION
	// closed: <nil>
}

func ExampleProducer_PublishAsync() {
	broker := exampleBroker()
	defer broker.Close()
	ctx := context.Background()
	producer, err := kstage.NewProducer(kstage.WithBrokers(broker.ListenAddrs()...), kstage.WithTopic("orders"))
	if err != nil {
		fmt.Println(err)
		return
	}
	var mu sync.Mutex // answers may come by several goroutines
	acknowledged := 0
	for i := range 1000 {
		producer.PublishAsync(ctx, &kgo.Record{Value: fmt.Appendf(nil, "order %d", i)}, func(_ *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				acknowledged++
			}
		})
	}
	fmt.Println("flushed:", producer.Flush(ctx)) // every answer has come
	mu.Lock()
	fmt.Println(acknowledged, "acknowledged")
	mu.Unlock()
	fmt.Println("closed:", producer.Close(ctx))
	// Output:
	// flushed: <nil>
	// 1000 acknowledged
	// closed: <nil>
}

func ExampleProducer_PublishBatch() {
	broker := exampleBroker()
	defer broker.Close()
	ctx := context.Background()
	producer, err := kstage.NewProducer(kstage.WithBrokers(broker.ListenAddrs()...), kstage.WithTopic("orders"))
	if err != nil {
		fmt.Println(err)
		return
	}
	err = producer.PublishBatch(ctx,
		&kgo.Record{Value: []byte("tea")},
		&kgo.Record{Value: []byte("milk"), Topic: "no-such-topic"},
		&kgo.Record{Value: []byte("sugar")},
	)
	var batch *kstage.BatchError
	if errors.As(err, &batch) {
		for i, err := range batch.Failed {
			fmt.Println(i, errors.Is(err, kerr.UnknownTopicOrPartition))
		}
	}
	fmt.Println("closed:", producer.Close(ctx))
	// Output:
	// 1 true
	// closed: <nil>
}
