package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
	"github.com/kstage/kstage/bench/internal/rig"
)

// result is what one run has measured.
type result struct {
	Rate     float64 // hand-offs a second, from the first failure to the last acknowledgement
	CPU      float64 // ns of the consuming process for each, receiving the record included
	Allocs   float64
	P50, P99 time.Duration // lateness of the records that came back
	Max      time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("%.0f hand-offs/s, %.0f ns CPU and %.1f allocations each; late p50 %v, p99 %v, max %v", r.Rate, r.CPU, r.Allocs, r.P50, r.P99, r.Max)
}

// setUp creates the topics: a broker of its own makes no others.
func setUp(addr string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return err
	}
	defer cl.Close()
	_, err = kadm.NewClient(cl).CreateTopics(context.Background(), partitions, 1, nil, topic, "bench-retry-1", "bench-dlq")
	return err
}

// meter notes lateness and when all copies are written, and all records handled.
type meter struct {
	kstage.NopMetrics
	retried, handled atomic.Int64
	began            atomic.Int64
	written, over    chan struct{}
	mu               sync.Mutex // guards late
	late             []time.Duration
}

// HandedOff implements kstage.MetricsCollector.
func (m *meter) HandedOff(e kstage.HandedOffEvent) {
	if e.Err == nil && m.retried.Add(1) == int64(*records) {
		close(m.written)
	}
}

// Handled implements kstage.MetricsCollector.
func (m *meter) Handled(e kstage.HandledEvent) {
	if e.Stage == 0 {
		m.began.CompareAndSwap(0, time.Now().UnixNano())
		return
	}
	m.mu.Lock()
	m.late = append(m.late, e.Late)
	m.mu.Unlock()
	if m.handled.Add(1) == int64(*records) {
		close(m.over)
	}
}

// consume lets every record fail once.
func consume() error {
	stop, err := rig.Profile(*profile)
	if err != nil {
		return err
	}
	defer stop()
	defer rig.Ballast(*ballast)()
	m := &meter{written: make(chan struct{}), over: make(chan struct{}), late: make([]time.Duration, 0, *records)}
	c, err := consumer(m)
	if err != nil {
		return err
	}
	r, err := m.measure(c)
	if err != nil {
		return err
	}
	return rig.Report(r)
}

// consumer is one whose handler fails for each record of the main topic.
func consumer(m *meter) (*kstage.Consumer, error) {
	failure := errors.New("the payment service did not answer")
	return kstage.NewConsumer(
		kstage.HandlerFunc(func(_ context.Context, msg kstage.Message) error {
			if msg.Stage() == 0 {
				return failure
			}
			return nil
		}),
		kstage.WithBrokers(*addr), kstage.WithGroup(*group), kstage.WithTopics(topic),
		kstage.WithRetryStages(*delay), kstage.WithImmediateRetries(0, kstage.Backoff{}),
		kstage.WithMetrics(m), kstage.WithTopicProvisioning(kstage.TrustTopics),
	)
}

// measure runs the consumer until all records have come back, and measures it until all
// of their copies are written.
func (m *meter) measure(c *kstage.Consumer) (r result, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu := rig.CPU()
	go func() { ended <- c.Run(ctx) }()
	if err := await(m.written, ended); err != nil {
		return r, err
	}
	cpu = rig.CPU() - cpu
	took := time.Since(time.Unix(0, m.began.Load()))
	runtime.ReadMemStats(&after)
	if err := await(m.over, ended); err != nil {
		return r, err
	}
	cancel()
	if err := <-ended; err != nil {
		return r, err
	}
	n := float64(*records)
	r = result{Rate: n / took.Seconds(), CPU: float64(cpu) / n, Allocs: float64(after.Mallocs-before.Mallocs) / n}
	r.P50, r.P99, r.Max = m.lateness()
	return r, nil
}

// lateness is how late records were, when all are back.
func (m *meter) lateness() (p50, p99, most time.Duration) {
	slices.Sort(m.late)
	at := func(q float64) time.Duration {
		return m.late[min(int(q*float64(len(m.late))), len(m.late)-1)].Round(10 * time.Microsecond)
	}
	return at(0.5), at(0.99), at(1)
}

func await(c <-chan struct{}, ended <-chan error) error {
	select {
	case <-c:
		return nil
	case err := <-ended:
		return fmt.Errorf("it ended early: %w", err)
	case <-time.After(5 * time.Minute):
		return errors.New("it takes too long")
	}
}
