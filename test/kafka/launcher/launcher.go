// Package launcher drives kafka.sh, for the tests and the soak that crash brokers.
package launcher

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
)

// Cluster is a running Apache Kafka that kafka.sh has started. Its methods are safe
// for concurrent use as far as they name different nodes.
type Cluster struct {
	Dir     string   // data and settings
	Brokers []string // node I is the I-th of them
	Secure  []string // the same over SASL_SSL; empty where it was started without -s
	CA      string   // the file with the authority that signed the brokers' certificates
}

// Up starts as many nodes, with kafka.sh's options, or adopts those that run on the
// data in dir. It returns when all are ready.
func Up(ctx context.Context, dir string, nodes int, options ...string) (*Cluster, error) {
	if _, err := run(ctx, dir, append(options, "up", strconv.Itoa(nodes))...); err != nil {
		return nil, err
	}
	return Open(ctx, dir)
}

// Open finds the cluster of a data directory.
func Open(ctx context.Context, dir string) (*Cluster, error) {
	status, err := run(ctx, dir, "status")
	if err != nil {
		return nil, err
	}
	c := &Cluster{Dir: dir}
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch name {
		case "bootstrap":
			c.Brokers = strings.Split(value, ",")
		case "sasl-ssl":
			c.Secure = strings.Split(value, ",")
		case "ca":
			c.CA = value
		}
	}
	return c, nil
}

// Kill crashes a node (SIGKILL).
func (c *Cluster) Kill(ctx context.Context, node int32) error { return c.do(ctx, "kill", node) }

// Stop ends a node in order (SIGTERM) and waits for its end.
func (c *Cluster) Stop(ctx context.Context, node int32) error { return c.do(ctx, "stop", node) }

// Start starts a node again on its data and waits until it is ready. It does nothing
// where the node runs.
func (c *Cluster) Start(ctx context.Context, node int32) error { return c.do(ctx, "start", node) }

// RestartRolling stops and starts one node after the other, with full replication in
// between.
func (c *Cluster) RestartRolling(ctx context.Context) error {
	_, err := run(ctx, c.Dir, "restart-rolling")
	return err
}

// Tool runs one of Kafka's console tools and returns what it printed.
func (c *Cluster) Tool(ctx context.Context, name string, args ...string) (string, error) {
	return run(ctx, c.Dir, append([]string{"tool", name}, args...)...)
}

// ToolWith does so with something to read.
func (c *Cluster) ToolWith(ctx context.Context, stdin, name string, args ...string) (string, error) {
	return runWith(ctx, stdin, c.Dir, append([]string{"tool", name}, args...)...)
}

// Down ends all nodes and deletes their data.
func (c *Cluster) Down(ctx context.Context) error {
	_, err := run(ctx, c.Dir, "down", "--wipe")
	return err
}

func (c *Cluster) do(ctx context.Context, command string, node int32) error {
	_, err := run(ctx, c.Dir, command, strconv.Itoa(int(node)))
	return err
}

func run(ctx context.Context, dir string, args ...string) (string, error) {
	return runWith(ctx, "", dir, args...)
}

func runWith(ctx context.Context, stdin, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, script(), append([]string{"-d", dir}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kafka.sh %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// script is kafka.sh, wherever the caller's working directory is.
func script() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(filepath.Dir(here)), "kafka.sh")
}
