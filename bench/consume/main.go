// Consume measures what kstage costs a record beyond a raw kgo loop: the CPU of
// the consuming process, with a handler that does nothing, against a broker in a
// process of its own that serves the same batch for ever.
//
// It runs both in turns, each in a new process, and prints the CPU per record of
// each and the ratio of each pair. Run nothing beside it.
//
//	go run ./consume -rounds 10
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/kstage/kstage/bench/internal/rig"
)

const (
	topic      = "bench"
	partitions = 6
	keys       = 1000
)

var (
	role    = flag.String("role", "", "what a child process is: broker, raw or kstage")
	addr    = flag.String("addr", "", "of the broker, for a child")
	rounds  = flag.Int("rounds", 10, "pairs of runs")
	seconds = flag.Int("seconds", 3, "of one run, after one second of warm-up")
	value   = flag.Int("value", 100, "bytes of a value")
	batch   = flag.Int("batch", 1000, "records of a batch")
	ballast = flag.Int("ballast", 64, "MiB of live heap in each run, so that both collect garbage equally often")
	profile = flag.String("profile", "", "file for the CPU profile of a child")
)

func main() {
	flag.Parse()
	var err error
	switch *role {
	case "broker": // every fetch returns the same batch, at ever higher offsets
		err = rig.Serve(kfake.SeedTopics(partitions, topic), kfake.SyntheticFetch(kfake.SyntheticBatch{Batch: encodedBatch(*batch, *value)}))
	case "raw", "kstage":
		err = consume(*role)
	default:
		err = compare()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "consume:", err)
		os.Exit(1)
	}
}

// compare runs the two in turns.
func compare() error {
	addr, stop, err := rig.StartBroker()
	if err != nil {
		return err
	}
	defer stop()
	roles := []string{"raw", "kstage"}
	runs, err := rig.Rounds(*rounds, roles, addr, func(n int, of map[string]rig.Result) {
		raw, ours := of["raw"].CPU, of["kstage"].CPU
		fmt.Printf("round %2d: raw %4.0f ns, kstage %4.0f ns, ratio %.2f\n", n, raw, ours, ours/raw)
	})
	if err != nil {
		return err
	}
	for _, role := range roles {
		rig.Show(role, runs[role])
	}
	low, mid, high := rig.Spread(rig.Ratios(runs["kstage"], runs["raw"]))
	fmt.Printf("ratio of pairs: min %.2f, median %.2f, max %.2f\n", low, mid, high)
	return nil
}

func measured() time.Duration { return time.Duration(*seconds) * time.Second }
