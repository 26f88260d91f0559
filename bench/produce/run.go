package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
	"github.com/kstage/kstage/bench/internal/rig"
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
	defer rig.Ballast(*ballast)()
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
	return rig.Report(r)
}

// publishAll publishes until ctx is done.
func publishAll(ctx context.Context, p publisher) {
	vs, ks := makeValues(), make([][]byte, keys)
	for i := range ks {
		ks[i] = fmt.Appendf(nil, "key-%012d", i)
	}
	for i := 0; ctx.Err() == nil; i++ {
		p.publish(&kgo.Record{Topic: topic, Key: ks[i*7919%keys], Value: vs[i%values]})
	}
}

// makeValues makes values of the wanted size, in which pieces that are random stand among
// pieces that are the same in all.
func makeValues() [][]byte {
	const piece = 20
	const digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"
	const same = `", "customer_name": "`
	rnd := rand.New(rand.NewPCG(1, 2))
	vs := make([][]byte, values)
	for i := range vs {
		var v []byte
		for owed := 0.0; len(v) < *value; {
			if owed += *random; owed < 1 {
				v = append(v, same[:piece]...)
				continue
			}
			owed--
			for range piece {
				v = append(v, digits[rnd.IntN(len(digits))])
			}
		}
		vs[i] = v[:*value]
	}
	return vs
}

func start(ctx context.Context, role string) (publisher, error) {
	ctx = context.WithoutCancel(ctx) // of a service that waits for its answers
	if role == "raw" {
		return startRaw(ctx)
	}
	return startKstage(ctx, role == "ids")
}

const bufferBytes = 64 << 20

func compression() kgo.CompressionCodec {
	if *codec == "none" {
		return kgo.NoCompression()
	}
	return kgo.SnappyCompression()
}

// startRaw is a client with the same settings.
func startRaw(ctx context.Context) (publisher, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(*addr), kgo.ProducerLinger(*linger), kgo.ProducerBatchCompression(compression()),
		kgo.MaxBufferedRecords(*buffer), kgo.MaxBufferedBytes(bufferBytes))
	if err != nil {
		return publisher{}, err
	}
	return publisher{publish: func(r *kgo.Record) { cl.Produce(ctx, r, answered) }, close: cl.Close}, nil
}

// startKstage is a Producer as people run it, counters on.
func startKstage(ctx context.Context, ids bool) (publisher, error) {
	opts := []kstage.ProducerOption{
		kstage.WithBrokers(*addr), kstage.WithMetrics(&kstage.Counters{}), kstage.WithCompression(compression()),
		kstage.WithLinger(*linger), kstage.WithBuffer(*buffer, bufferBytes),
	}
	if !ids {
		opts = append(opts, kstage.WithMessageIDs(nil))
	}
	p, err := kstage.NewProducer(opts...)
	if err != nil {
		return publisher{}, err
	}
	return publisher{
		publish: func(r *kgo.Record) { p.PublishAsync(ctx, r, answered) },
		close: func() {
			now, cancel := context.WithCancel(ctx)
			cancel()
			_ = p.Close(now)
		},
	}, nil
}

// measure measures from now on.
func measure() (r rig.Result, err error) {
	stop, err := rig.Profile(*profile)
	if err != nil {
		return r, err
	}
	defer stop()
	return rig.Measure(time.Duration(*seconds)*time.Second, acked.Load)
}
