// Handoff measures what a record costs that fails once and goes through a retry
// topic: hand-offs a second, CPU and allocations of the consuming process for each,
// and how late records are when they come back. The broker is an embedded one in a
// process of its own. Run nothing beside it.
//
//	go run ./handoff                  # as fast as it goes
//	go run ./handoff -rate 1000       # so many due a second: lateness
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage/bench/internal/rig"
)

const (
	topic      = "bench"
	partitions = 6
	keys       = 1000
)

var (
	role    = flag.String("role", "", "what a child process is: broker or consumer")
	addr    = flag.String("addr", "", "of the broker, for a child")
	group   = flag.String("group", "", "for a child")
	rounds  = flag.Int("rounds", 5, "runs")
	records = flag.Int("records", 300_000, "of one run")
	rate    = flag.Int("rate", 0, "records a second; 0: all are there when the consumer starts")
	value   = flag.Int("value", 100, "bytes of a value")
	delay   = flag.Duration("delay", 2*time.Second, "of the stage")
	ballast = flag.Int("ballast", 64, "MiB of live heap in the consumer, as a service has")
	profile = flag.String("profile", "", "file for the CPU profile of a child")
)

func main() {
	flag.Parse()
	var err error
	switch *role {
	case "broker":
		err = rig.Serve()
	case "consumer":
		err = consume()
	default:
		err = run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "handoff:", err)
		os.Exit(1)
	}
}

func run() error {
	var results []result
	for n := range *rounds {
		r, err := runOnce()
		if err != nil {
			return err
		}
		results = append(results, r)
		fmt.Printf("round %d: %s\n", n+1, r)
	}
	slices.SortFunc(results, func(x, y result) int { return int(x.CPU - y.CPU) })
	fmt.Printf("median by CPU: %s\n", results[len(results)/2])
	return nil
}

// runOnce is a new broker, so that no run pays for the records of another.
func runOnce() (r result, err error) {
	addr, stop, err := rig.StartBroker()
	if err != nil {
		return r, err
	}
	defer stop()
	if err := setUp(addr); err != nil {
		return r, err
	}
	produced := make(chan error, 1)
	if *rate == 0 {
		if err := produce(addr); err != nil {
			return r, err
		}
		produced <- nil
	} else {
		go func() { produced <- produce(addr) }()
	}
	if err := rig.Run("consumer", addr, &r, "-group=bench"); err != nil {
		return r, err
	}
	return r, <-produced
}

// produce writes the records, paced by rate.
func produce(addr string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, v := context.Background(), make([]byte, *value)
	var failed error
	start := time.Now()
	for i := range *records {
		if *rate > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(*rate))))
		}
		cl.Produce(ctx, &kgo.Record{Key: fmt.Appendf(nil, "key-%012d", i%keys), Value: v, Partition: int32(i % partitions)}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed = err
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return err
	}
	return failed
}
