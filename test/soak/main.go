// Soak runs producers, three consumer processes and three real brokers, kills processes
// and brokers at random, and accounts for every record:
//
//	go run ./test/soak -duration 10m
//
// It ends with acked=… handled=… dlq=… lost=0 early=0 reordered=0 duplicates=…
// worst_pause=… and exits with 1 where a promise was broken. With -break lose, early or
// reorder the consumers break one on purpose.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kstage/kstage/test/kafka/launcher"
)

type config struct {
	duration  time.Duration
	rate      int
	processes int
	dir       string
	broken    string

	consumer string // of a child: its name
	brokers  string // of a child
	prefix   string // of topics and groups
}

func main() {
	var c config
	flag.DurationVar(&c.duration, "duration", 10*time.Minute, "how long records are produced and things are killed")
	flag.IntVar(&c.rate, "rate", 4000, "records a second")
	flag.IntVar(&c.processes, "processes", 3, "consumer processes")
	flag.StringVar(&c.dir, "dir", "", "data directory of a cluster of kafka.sh, which is left up; empty: one of its own")
	flag.StringVar(&c.broken, "break", "", "what the consumers break: lose, early or reorder")
	flag.StringVar(&c.consumer, "consumer", "", "of a child process: its name")
	flag.StringVar(&c.brokers, "brokers", "", "of a child process")
	flag.StringVar(&c.prefix, "prefix", "", "of a child process")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT) //nolint:forbidigo // a program makes its own
	run := soak
	if c.consumer != "" {
		run = consume
	}
	err := run(ctx, c)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// soak runs everything and returns an error where a promise was broken.
func soak(ctx context.Context, c config) (err error) {
	work, err := os.MkdirTemp("", "kstage-soak-")
	if err != nil {
		return err
	}
	fmt.Println("logs are in", work)
	cluster, down, err := brokers(ctx, c.dir, work)
	if err != nil {
		return err
	}
	defer func() { err = firstOf(err, down()) }()
	c.prefix = fmt.Sprintf("soak%d", time.Now().Unix())
	r, err := newRun(ctx, c, cluster, work)
	if err != nil {
		return err
	}
	defer r.close()
	return r.run(ctx)
}

// brokers are those in dir, which are left up, or three of its own.
func brokers(ctx context.Context, dir, work string) (cluster *launcher.Cluster, down func() error, err error) {
	if dir != "" {
		cluster, err = launcher.Open(ctx, dir)
		return cluster, func() error { return nil }, err
	}
	fmt.Println("starting three brokers")
	cluster, err = launcher.Up(ctx, filepath.Join(work, "kafka"), nodes, "-m", "256m")
	return cluster, func() error { return cluster.Down(context.WithoutCancel(ctx)) }, err
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
