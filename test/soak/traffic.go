package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

const producers = 2

// traffic is the producers. Numbers are given out without a gap.
type traffic struct {
	c       config
	brokers []string
	checker *checker
	next    atomic.Int64
}

// produce publishes its share of the rate until ctx is done, and returns when every
// record has its answer.
func (t *traffic) produce(ctx context.Context) error {
	p, err := kstage.NewProducer(kstage.WithBrokers(t.brokers...), kstage.WithTopic(t.c.prefix+"-main"),
		kstage.WithDeliveryTimeout(2*time.Minute), kstage.WithLinger(5*time.Millisecond))
	if err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	began, sent := time.Now(), 0
	base := context.WithoutCancel(ctx)
	for ctx.Err() == nil {
		for due := int(time.Since(began).Seconds() * float64(t.c.rate) / producers); sent < due; sent++ {
			seq := t.next.Add(1) - 1
			r := &kgo.Record{Key: strconv.AppendInt(nil, keyOf(seq), 10), Value: value(seq)}
			p.PublishAsync(base, r, func(_ *kgo.Record, err error) { t.checker.answered(seq, err) })
		}
		<-tick.C
	}
	if err := p.Close(base); err != nil {
		return fmt.Errorf("close a producer: %w", err)
	}
	return nil
}

// value is a record's number, filled up to 100 bytes.
func value(seq int64) []byte {
	s := strconv.FormatInt(seq, 10)
	return []byte(strings.Repeat(".", 100-len(s)) + s)
}

// number is a value's.
func number(value []byte) (int64, error) {
	return strconv.ParseInt(strings.TrimLeft(string(value), "."), 10, 64)
}

// observe is a plain consumer of the same topic in a group of its own: the measure of
// what a fault takes.
func observe(ctx context.Context, c config, brokers []string, seen *silences) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumerGroup(c.prefix+"-plain"), kgo.ConsumeTopics(c.prefix+"-main"),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.AutoCommitMarks(), kgo.AutoCommitInterval(time.Second),
		kgo.SessionTimeout(sessionTimeout), kgo.HeartbeatInterval(time.Second), kgo.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.CloseAllowingRebalance()
	for ctx.Err() == nil {
		fs := cl.PollFetches(ctx)
		now := time.Now()
		fs.EachPartition(func(p kgo.FetchTopicPartition) {
			if len(p.Records) > 0 {
				seen.note(p.Partition, now)
			}
		})
		cl.MarkCommitRecords(fs.Records()...)
	}
	return nil
}

// readDeadLetters reads the whole dead-letter topic.
func readDeadLetters(ctx context.Context, cl *kgo.Client, topic string, ends map[int32]int64, c *checker) error {
	offsets := map[int32]kgo.Offset{}
	left := int64(0)
	for p, end := range ends {
		offsets[p] = kgo.NewOffset().At(0)
		left += end
	}
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic: offsets})
	for left > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			return fmt.Errorf("read the dead-letter topic: %w", err)
		}
		for _, r := range fs.Records() {
			left--
			d, err := kstage.DecodeDeadLetter(r)
			if err != nil {
				return err
			}
			seq, err := number(d.Record.Value)
			if err != nil {
				return err
			}
			c.deadLetter(seq)
		}
	}
	return nil
}
