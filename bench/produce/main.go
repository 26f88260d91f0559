// Produce measures what kstage costs a published record beyond raw kgo: the CPU of
// the producing process, one goroutine that publishes without waiting, against a
// broker in a process of its own that acknowledges everything and keeps nothing.
//
// It runs raw kgo, kstage without message ids and kstage with them in turns, each in a
// new process, and prints the CPU per record of each and the ratios to raw of the same
// round. Run nothing beside it.
//
//	go run ./produce -rounds 10
//
// All sides run the same settings, those that a service gets which sets nothing, with the
// client or with kstage, and there is a flag for each:
//
//   - idempotent, acks of all replicas, snappy: the defaults of both.
//   - linger 10ms: the client's default. kstage's is 0, for the sake of who waits for each
//     record; this benchmark publishes without waiting.
//   - 50,000 records and 64 MiB buffered, kstage's default: it must be the same on all
//     sides, since more records on their way are more memory and fewer, larger requests.
//   - keys of 16 bytes, values of 200 bytes: JSON whose field names repeat and whose
//     contents, half of it, are random. Constant values cost the compression nothing, and
//     random ones everything; services have neither.
//   - a new record each time, as services make them; its key and value are from a store of
//     some thousands, since what a service pays to make them has nothing to do with this.
//   - a live heap of 64 MiB, so that garbage is collected equally often.
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
	values     = 4096
)

var (
	role    = flag.String("role", "", "what a child process is: broker, raw, plain or ids")
	addr    = flag.String("addr", "", "of the broker, for a child")
	rounds  = flag.Int("rounds", 10, "rounds of runs")
	seconds = flag.Int("seconds", 3, "of one run, after one second of warm-up")
	value   = flag.Int("value", 200, "bytes of a value")
	random  = flag.Float64("random", 0.5, "how much of a value is random, from 0 to 1")
	codec   = flag.String("codec", "snappy", "compression: snappy or none")
	linger  = flag.Duration("linger", 10*time.Millisecond, "of all sides")
	buffer  = flag.Int("buffer", 50_000, "records that may be on their way")
	ballast = flag.Int("ballast", 64, "MiB of live heap in each run, so that all collect garbage equally often")
	profile = flag.String("profile", "", "file for the CPU profile of a child")
)

func main() {
	flag.Parse()
	var err error
	switch *role {
	case "broker": // it acknowledges and forgets
		err = rig.Serve(kfake.SeedTopics(partitions, topic), kfake.BlackholeProduce())
	case "":
		err = compare()
	default:
		err = produce(*role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "produce:", err)
		os.Exit(1)
	}
}

// compare runs all in turns.
func compare() error {
	addr, stop, err := rig.StartBroker()
	if err != nil {
		return err
	}
	defer stop()
	roles := []string{"raw", "plain", "ids"}
	runs, err := rig.Rounds(*rounds, roles, addr, func(n int, of map[string]rig.Result) {
		raw, plain, ids := of["raw"].CPU, of["plain"].CPU, of["ids"].CPU
		fmt.Printf("round %2d: raw %4.0f ns, plain %4.0f ns = %.2f, ids %4.0f ns = %.2f\n", n, raw, plain, plain/raw, ids, ids/raw)
	})
	if err != nil {
		return err
	}
	for _, role := range roles {
		rig.Show(role, runs[role])
	}
	for _, role := range roles[1:] {
		low, mid, high := rig.Spread(rig.Ratios(runs[role], runs["raw"]))
		fmt.Printf("%s to raw: min %.2f, median %.2f, max %.2f\n", role, low, mid, high)
	}
	return nil
}
