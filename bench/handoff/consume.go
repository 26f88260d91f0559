package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
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
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	live := make([]byte, *ballast<<20)
	defer runtime.KeepAlive(live)
	m := &meter{written: make(chan struct{}), over: make(chan struct{}), late: make([]time.Duration, 0, *records)}
	failure := errors.New("the payment service did not answer")
	c, err := kstage.NewConsumer(
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
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu := cpuTime()
	go func() { ended <- c.Run(ctx) }()
	if err := await(m.written, ended); err != nil {
		return err
	}
	cpu = cpuTime() - cpu
	took := time.Since(time.Unix(0, m.began.Load()))
	runtime.ReadMemStats(&after)
	if err := await(m.over, ended); err != nil {
		return err
	}
	cancel()
	if err := <-ended; err != nil {
		return err
	}
	n := float64(*records)
	slices.Sort(m.late)
	at := func(q float64) time.Duration {
		return m.late[min(int(q*n), len(m.late)-1)].Round(10 * time.Microsecond)
	}
	return json.NewEncoder(os.Stdout).Encode(result{
		Rate: n / took.Seconds(), CPU: float64(cpu) / n, Allocs: float64(after.Mallocs-before.Mallocs) / n,
		P50: at(0.5), P99: at(0.99), Max: at(1),
	})
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

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
