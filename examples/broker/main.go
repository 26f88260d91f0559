// Broker is an embedded Kafka broker on a port, with the topics that the environment
// names (docs/configuration.md): for trying producer and consumer on a machine that has
// nothing but Go. It keeps everything in memory, and it is no broker for production.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/kstage/kstage"
)

func main() {
	port := flag.Int("port", 9092, "to listen on, on loopback; 0: any free one")
	partitions := flag.Int("partitions", 3, "of each topic")
	flag.Parse()
	if err := run(*port, int32(*partitions)); err != nil {
		fmt.Fprintln(os.Stderr, "broker:", err)
		os.Exit(1)
	}
}

func run(port int, partitions int32) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	opts, err := kstage.ConsumerOptionsFromEnv()
	if err != nil {
		return err
	}
	topology, err := kstage.NewTopology(opts...)
	if err != nil {
		return err
	}
	broker := []kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(partitions, topology.Topics...)}
	if port != 0 {
		broker = append(broker, kfake.Ports(port))
	}
	cluster, err := kfake.NewCluster(broker...)
	if err != nil {
		return fmt.Errorf("%w (-port chooses another port)", err)
	}
	defer cluster.Close()
	addr := cluster.ListenAddrs()[0]
	if err := kstage.EnsureTopics(ctx, topology, kstage.WithBrokers(addr)); err != nil { // the retry topics, and the dead-letter topic
		return err
	}
	fmt.Printf("broker on %s with topics %s; Ctrl-C ends it and forgets everything\n", addr, strings.Join(names(topology), ", "))
	<-ctx.Done()
	return nil
}

func names(t kstage.Topology) []string {
	all := t.Topics
	for _, s := range t.Stages {
		all = append(all, s.Topic)
	}
	return append(all, t.DLQ)
}
