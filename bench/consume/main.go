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
	case "broker":
		err = serve()
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

// result is what one run has measured.
type result struct {
	Records int64
	CPU     float64 // ns a record
	Rate    float64 // records a second
	Allocs  float64 // a record
	GCs     uint32
}

// compare runs the two in turns.
func compare() error {
	broker, addr, err := startBroker()
	if err != nil {
		return err
	}
	defer func() { _ = broker.Process.Kill(); _ = broker.Wait() }()
	runs := map[string][]result{}
	var ratios []float64
	for n := range *rounds {
		order := []string{"raw", "kstage"}
		if n%2 == 1 {
			slices.Reverse(order)
		}
		pair := map[string]result{}
		for _, role := range order {
			if pair[role], err = runOnce(role, addr); err != nil {
				return err
			}
			runs[role] = append(runs[role], pair[role])
		}
		ratios = append(ratios, pair["kstage"].CPU/pair["raw"].CPU)
		fmt.Printf("round %2d: raw %4.0f ns, kstage %4.0f ns, ratio %.2f\n", n+1, pair["raw"].CPU, pair["kstage"].CPU, ratios[n])
	}
	for _, role := range []string{"raw", "kstage"} {
		show(role, runs[role])
	}
	low, mid, high := spread(ratios)
	fmt.Printf("ratio of pairs: min %.2f, median %.2f, max %.2f\n", low, mid, high)
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
	fmt.Printf("%-7s CPU ns/record min %.0f, median %.0f, max %.0f; %.2f M records/s; %.4f allocations/record; %.0f collections\n",
		role, low, mid, high, rate/1e6, allocs, gcs)
}

func spread(vs []float64) (low, mid, high float64) {
	s := slices.Sorted(slices.Values(vs))
	return s[0], (s[(len(s)-1)/2] + s[len(s)/2]) / 2, s[len(s)-1]
}

// child is this program in another role.
func child(role, addr string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-role", role, "-addr", addr, "-seconds", strconv.Itoa(*seconds), "-value", strconv.Itoa(*value),
		"-batch", strconv.Itoa(*batch), "-ballast", strconv.Itoa(*ballast), "-profile", *profile)
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
