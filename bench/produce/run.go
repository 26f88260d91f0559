package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// publisher is one side: publish gives it a record, whose answer is counted.
type publisher struct {
	publish func(*kgo.Record)
	close   func()
}

// acked counts what was acknowledged; whoever ends a run looks at failed.
var acked, failed atomic.Int64

func answered(_ *kgo.Record, err error) {
	if err != nil {
		failed.Add(1)
		return
	}
	acked.Add(1)
}

// produce runs one side and prints what it has measured.
func produce(role string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	live := make([]byte, *ballast<<20)
	defer runtime.KeepAlive(live)
	p, err := start(ctx, role)
	if err != nil {
		return err
	}
	defer p.close()
	go publishAll(ctx, p)
	<-time.After(time.Second)
	r, err := measure()
	cancel()
	if err != nil {
		return err
	}
	if n := failed.Load(); n > 0 {
		return fmt.Errorf("%d records failed", n)
	}
	return r.print()
}

// publishAll publishes until ctx is done. Records are made as a service makes them: one
// by one.
func publishAll(ctx context.Context, p publisher) {
	v, ks := make([]byte, *value), make([][]byte, keys)
	for i := range v {
		v[i] = byte(i * 7)
	}
	for i := range ks {
		ks[i] = fmt.Appendf(nil, "key-%012d", i)
	}
	for i := 0; ctx.Err() == nil; i++ {
		p.publish(&kgo.Record{Topic: topic, Key: ks[i*7919%keys], Value: v})
	}
}

func start(ctx context.Context, role string) (publisher, error) {
	if role == "raw" {
		return startRaw(ctx)
	}
	return startKstage(ctx, role == "ids")
}

func compression() kgo.CompressionCodec {
	if *codec == "none" {
		return kgo.NoCompression()
	}
	return kgo.SnappyCompression()
}

// startRaw is a client with the same settings.
func startRaw(ctx context.Context) (publisher, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(*addr), kgo.ProducerLinger(*linger), kgo.ProducerBatchCompression(compression()))
	if err != nil {
		return publisher{}, err
	}
	ctx = context.WithoutCancel(ctx) // of a service that waits for its answers
	return publisher{publish: func(r *kgo.Record) { cl.Produce(ctx, r, answered) }, close: cl.Close}, nil
}

// startKstage is a Producer as people run it, counters on.
func startKstage(ctx context.Context, ids bool) (publisher, error) {
	opts := []kstage.ProducerOption{kstage.WithBrokers(*addr), kstage.WithMetrics(&kstage.Counters{}), kstage.WithCompression(compression()), kstage.WithLinger(*linger)}
	if !ids {
		opts = append(opts, kstage.WithMessageIDs(nil))
	}
	p, err := kstage.NewProducer(opts...)
	if err != nil {
		return publisher{}, err
	}
	of := context.WithoutCancel(ctx)
	return publisher{
		publish: func(r *kgo.Record) { p.PublishAsync(of, r, answered) },
		close:   func() { _ = p.Close(ctx) },
	}, nil
}

// measure counts records and CPU over the measured time.
func measure() (result, error) {
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return result{}, err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return result{}, err
		}
		defer pprof.StopCPUProfile()
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, cpu, start := acked.Load(), cpuTime(), time.Now()
	<-time.After(measured())
	n, cpu = acked.Load()-n, cpuTime()-cpu
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if n == 0 {
		return result{}, fmt.Errorf("nothing was acknowledged")
	}
	return result{
		Records: n, CPU: float64(cpu) / float64(n), Rate: float64(n) / took.Seconds(),
		Allocs: float64(after.Mallocs-before.Mallocs) / float64(n), GCs: after.NumGC - before.NumGC,
	}, nil
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
