// Produce measures what kstage costs a published record beyond raw kgo: the CPU of
// the producing process, one goroutine that publishes without waiting, against a
// broker in a process of its own that acknowledges everything and keeps nothing.
//
// It runs raw kgo, kstage without message ids and kstage with them in turns, each in a
// new process, and prints the CPU per record of each and the ratios to raw of the same
// round. Run nothing beside it.
//
//	go run ./produce -rounds 10
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

const (
	topic      = "bench"
	partitions = 6
	keys       = 1000
)

var (
	role    = flag.String("role", "", "what a child process is: broker, raw, plain or ids")
	addr    = flag.String("addr", "", "of the broker, for a child")
	rounds  = flag.Int("rounds", 10, "rounds of runs")
	seconds = flag.Int("seconds", 3, "of one run, after one second of warm-up")
	value   = flag.Int("value", 100, "bytes of a value")
	codec   = flag.String("codec", "snappy", "compression: snappy or none")
	linger  = flag.Duration("linger", 0, "of all sides; the client's own default is 10ms")
	ballast = flag.Int("ballast", 64, "MiB of live heap in each run, so that all collect garbage equally often")
	profile = flag.String("profile", "", "file for the CPU profile of a child")
)

// roles are what is compared: raw kgo first.
var roles = []string{"raw", "plain", "ids"}

func main() {
	flag.Parse()
	var err error
	switch *role {
	case "broker":
		err = serve()
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

// serve is a broker that acknowledges and forgets.
func serve() error {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topic), kfake.BlackholeProduce())
	if err != nil {
		return err
	}
	defer cluster.Close()
	fmt.Println(cluster.ListenAddrs()[0])
	select {} // until it is killed
}

// result is what one run has measured.
type result struct {
	Records int64
	CPU     float64 // ns a record
	Rate    float64 // records a second
	Allocs  float64 // a record
	GCs     uint32
}

// compare runs all in turns.
func compare() error {
	broker, addr, err := startBroker()
	if err != nil {
		return err
	}
	defer func() { _ = broker.Process.Kill(); _ = broker.Wait() }()
	runs, ratios := map[string][]result{}, map[string][]float64{}
	for n := range *rounds {
		order := slices.Clone(roles)
		if n%2 == 1 {
			slices.Reverse(order)
		}
		round := map[string]result{}
		for _, role := range order {
			if round[role], err = runOnce(role, addr); err != nil {
				return err
			}
			runs[role] = append(runs[role], round[role])
		}
		fmt.Printf("round %2d: raw %4.0f ns", n+1, round["raw"].CPU)
		for _, role := range roles[1:] {
			ratio := round[role].CPU / round["raw"].CPU
			ratios[role] = append(ratios[role], ratio)
			fmt.Printf(", %s %4.0f ns = %.2f", role, round[role].CPU, ratio)
		}
		fmt.Println()
	}
	for _, role := range roles {
		show(role, runs[role])
	}
	for _, role := range roles[1:] {
		low, mid, high := spread(ratios[role])
		fmt.Printf("%s to raw: min %.2f, median %.2f, max %.2f\n", role, low, mid, high)
	}
	return nil
}

func show(role string, rs []result) {
	column := func(of func(result) float64) (low, mid, high float64) {
		var vs []float64
		for _, r := range rs {
			vs = append(vs, of(r))
		}
		return spread(vs)
	}
	low, mid, high := column(func(r result) float64 { return r.CPU })
	_, rate, _ := column(func(r result) float64 { return r.Rate })
	_, allocs, _ := column(func(r result) float64 { return r.Allocs })
	_, gcs, _ := column(func(r result) float64 { return float64(r.GCs) })
	fmt.Printf("%-6s CPU ns/record min %.0f, median %.0f, max %.0f; %.2f M records/s; %.2f allocations/record; %.0f collections\n",
		role, low, mid, high, rate/1e6, allocs, gcs)
}

func spread(vs []float64) (low, mid, high float64) {
	s := slices.Sorted(slices.Values(vs))
	return s[0], (s[(len(s)-1)/2] + s[len(s)/2]) / 2, s[len(s)-1]
}

// child is this program in another role.
func child(role, addr string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-role", role, "-addr", addr, "-seconds", strconv.Itoa(*seconds), "-value", strconv.Itoa(*value),
		"-codec", *codec, "-linger", linger.String(), "-ballast", strconv.Itoa(*ballast), "-profile", *profile)
	cmd.Stderr = os.Stderr
	return cmd
}

func startBroker() (cmd *exec.Cmd, addr string, err error) {
	cmd = child("broker", "")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if err := cmd.Start(); err != nil {
		return nil, "", err
	}
	addr, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, "", fmt.Errorf("the broker said nothing: %w", err)
	}
	return cmd, addr[:len(addr)-1], nil
}

func runOnce(role, addr string) (r result, err error) {
	cmd := child(role, addr)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return r, err
	}
	if err := cmd.Start(); err != nil {
		return r, err
	}
	text, err := io.ReadAll(out)
	if err != nil {
		return r, err
	}
	if err := cmd.Wait(); err != nil {
		return r, fmt.Errorf("%s: %w", role, err)
	}
	return r, json.Unmarshal(text, &r)
}

func (r result) print() error { return json.NewEncoder(os.Stdout).Encode(r) }

func measured() time.Duration { return time.Duration(*seconds) * time.Second }
