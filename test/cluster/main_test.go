//go:build cluster

// Package cluster_test shows on three real brokers what an embedded one cannot: what
// becomes of records when brokers die, and what a broker's security says.
package cluster_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/kstage/kstage/test/kafka/launcher"
)

// brokers is three nodes with a second, secure listener each. The tests run one after
// the other: each has the brokers to itself.
var brokers *launcher.Cluster

func TestMain(m *testing.M) {
	code, err := withBrokers(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// withBrokers runs the tests on the cluster in KSTAGE_CLUSTER_DIR, which it leaves up,
// or on one of its own, which it ends.
func withBrokers(run func() int) (code int, err error) {
	ctx := context.Background() //nolint:forbidigo // there is no test yet
	dir, keep := os.Getenv("KSTAGE_CLUSTER_DIR"), true
	if dir == "" {
		keep = false
		if dir, err = os.MkdirTemp("", "kstage-cluster-"); err != nil {
			return 1, err
		}
		dir += "/data"
	}
	if brokers, err = launcher.Up(ctx, dir, 3, "-s", "-m", "160m", "-c", "connections.max.reauth.ms=3000"); err != nil {
		return 1, err
	}
	if !keep {
		defer func() { err = brokers.Down(ctx) }()
	}
	return run(), nil
}
