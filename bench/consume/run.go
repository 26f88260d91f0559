package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
	"github.com/kstage/kstage/bench/internal/rig"
)

// consume runs one side and prints what it has measured.
func consume(role string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer rig.Ballast(*ballast)()
	start := startKstage
	if role == "raw" {
		start = startRaw
	}
	ended := make(chan error, 1)
	received, err := start(ctx, ended)
	if err != nil {
		return err
	}
	select {
	case <-time.After(time.Second):
	case err := <-ended:
		return fmt.Errorf("it ended early: %w", err)
	}
	r, err := measure(received)
	if err != nil {
		return err
	}
	cancel()
	if err := <-ended; err != nil {
		return err
	}
	return rig.Report(r)
}

func group() string { return fmt.Sprintf("bench-%d", time.Now().UnixNano()) }

// startRaw is the loop one would write by hand: poll, handle, commit each second.
func startRaw(ctx context.Context, ended chan<- error) (func() int64, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(*addr), kgo.ConsumerGroup(group()), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(),
		kgo.FetchMaxBytes(16<<20), kgo.FetchMaxPartitionBytes(1<<20), kgo.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		return nil, err
	}
	var n atomic.Int64
	handle := func(context.Context, *kgo.Record) error { return nil }
	go func() {
		defer cl.Close()
		committed := time.Now()
		for ctx.Err() == nil {
			fetches := cl.PollFetches(ctx)
			fetches.EachPartition(func(p kgo.FetchTopicPartition) {
				for _, r := range p.Records {
					if err := handle(ctx, r); err != nil {
						panic(err)
					}
				}
				n.Add(int64(len(p.Records)))
			})
			if time.Since(committed) > time.Second {
				committed = time.Now()
				_ = cl.CommitUncommittedOffsets(ctx)
			}
		}
		ended <- nil
	}()
	return n.Load, nil
}

// startKstage is a Consumer as people run it: order by key, counters on.
func startKstage(ctx context.Context, ended chan<- error) (func() int64, error) {
	var counters kstage.Counters
	c, err := kstage.NewConsumer(
		kstage.HandlerFunc(func(context.Context, kstage.Message) error { return nil }),
		kstage.WithBrokers(*addr), kstage.WithGroup(group()), kstage.WithTopics(topic),
		kstage.WithMetrics(&counters), kstage.WithTopicProvisioning(kstage.TrustTopics),
	)
	if err != nil {
		return nil, err
	}
	go func() { ended <- c.Run(ctx) }()
	return func() int64 { return int64(counters.Snapshot().Processed) }, nil
}

// measure measures from now on.
func measure(received func() int64) (r rig.Result, err error) {
	stop, err := rig.Profile(*profile)
	if err != nil {
		return r, err
	}
	defer stop()
	return rig.Measure(measured(), received)
}
