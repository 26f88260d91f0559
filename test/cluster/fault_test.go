//go:build cluster

package cluster_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

// The tests of this file crash or restart nodes under load. Nothing acknowledged may be
// missing afterwards, and a partition whose leader lives may not be silent for longer
// than one and a half times what a plain kgo consumer sees of it in the same run.

func TestKillALeader(t *testing.T) {
	w := newWorld(t)
	l := w.underLoad()
	l.rideOut(w.otherThan(w.leaders(l.topic), w.coordinator(w.name("g")), w.controller()))
}

func TestKillTheGroupCoordinator(t *testing.T) {
	w := newWorld(t)
	l := w.underLoad()
	l.rideOut(w.coordinator(w.name("g")))
}

func TestKillTheController(t *testing.T) {
	w := newWorld(t)
	l := w.underLoad()
	l.rideOut(w.controller())
}

func TestKillTheGroupCoordinatorOfANextGenGroup(t *testing.T) {
	w := newWorld(t)
	l := w.underLoad(kstage.WithNextGenGroup())
	l.rideOut(w.coordinator(w.name("g")))
}

func TestRollingRestart(t *testing.T) {
	w := newWorld(t)
	l := w.underLoad()
	l.reset()
	require.NoError(t, brokers.RestartRolling(t.Context()))
	after(5 * time.Second)
	l.tellSilences("rolling restart", loadPartitionNumbers())
	l.finish()
}

// rideOut kills a node, waits until all partitions are consumed again, starts it again,
// and checks what became of the records.
func (l *load) rideOut(node int32) {
	l.w.t.Helper()
	healthy := l.healthyWithout(node)
	l.reset()
	require.NoError(l.w.t, brokers.Kill(l.w.t.Context(), node))
	killed := time.Now()
	l.w.within(time.Minute, func() bool { return l.seen.allSince(killed) && l.plain.allSince(killed) })
	after(15 * time.Second) // sessions end within it, where they do
	l.tellSilences("all partitions", loadPartitionNumbers())
	ours, plain := l.tellSilences("partitions whose leader lives", healthy)
	require.NoError(l.w.t, brokers.Start(l.w.t.Context(), node))
	l.finish()
	require.LessOrEqual(l.w.t, ours, max(plain*3/2, time.Second), "a healthy partition was silent for too long")
}

// healthyWithout lists the partitions that other nodes lead.
func (l *load) healthyWithout(node int32) (partitions []int32) {
	ds, err := l.w.adm.ListTopics(l.w.t.Context(), l.topic)
	require.NoError(l.w.t, err)
	for _, p := range ds[l.topic].Partitions {
		if p.Leader != node {
			partitions = append(partitions, p.Partition)
		}
	}
	return partitions
}

func (l *load) reset() {
	l.seen.reset()
	l.plain.reset()
}

// tellSilences logs the longest silences and returns them.
func (l *load) tellSilences(what string, partitions []int32) (ours, plain time.Duration) {
	l.w.t.Helper()
	ours, plain = l.seen.worst(partitions), l.plain.worst(partitions)
	l.w.t.Logf("%s: longest silence of a partition %.1f s, of a plain consumer %.1f s", what, ours.Seconds(), plain.Seconds())
	return ours, plain
}

func loadPartitionNumbers() []int32 {
	ps := make([]int32, loadPartitions)
	for i := range ps {
		ps[i] = int32(i)
	}
	return ps
}

// leaders are the nodes that lead a partition of the topic.
func (w *world) leaders(topic string) (nodes []int32) {
	ds, err := w.adm.ListTopics(w.t.Context(), topic)
	require.NoError(w.t, err)
	for _, p := range ds[topic].Partitions {
		nodes = append(nodes, p.Leader)
	}
	return nodes
}

// otherThan picks a node that is none of those to spare, or at least not the first of
// them where there is no such.
func (w *world) otherThan(nodes []int32, spare ...int32) int32 {
	w.t.Helper()
	for n := len(spare); n > 0; n-- {
		for _, node := range nodes {
			if !slices.Contains(spare[:n], node) {
				return node
			}
		}
	}
	w.t.Fatal("one node leads everything and coordinates the group")
	return 0
}
