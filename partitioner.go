package kstage

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// guardedPartitioner is a user's partitioner whose mistakes fail a record and nothing
// else: the client calls it under a lock, partly on goroutines of its own, and a panic
// would end the process or the topic.
type guardedPartitioner struct {
	p     kgo.Partitioner
	guard *guard
}

// ForTopic implements kgo.Partitioner. What a partitioner can do beside changes how the
// client treats it, so the guard can do just that, too.
func (g *guardedPartitioner) ForTopic(topic string) kgo.TopicPartitioner {
	t := &guardedTopic{t: g.forTopic(topic), guard: g.guard}
	onNewBatch, ofBatches := t.t.(kgo.TopicPartitionerOnNewBatch)
	_, byBackup := t.t.(kgo.TopicBackupPartitioner)
	switch {
	case ofBatches && byBackup:
		return struct {
			backupTopic
			newBatch
		}{backupTopic{t}, newBatch{onNewBatch, g.guard}}
	case ofBatches:
		return struct {
			*guardedTopic
			newBatch
		}{t, newBatch{onNewBatch, g.guard}}
	case byBackup:
		return backupTopic{t}
	}
	return t
}

func (g *guardedPartitioner) forTopic(topic string) (t kgo.TopicPartitioner) {
	t = noPartitioner{}
	defer g.guard.caught("WithPartitioner")
	return g.p.ForTopic(topic)
}

// noPartitioner is in the place of one that could not be made.
type noPartitioner struct{}

func (noPartitioner) RequiresConsistency(*kgo.Record) bool { return true }
func (noPartitioner) Partition(*kgo.Record, int) int       { return -1 }

type guardedTopic struct {
	t     kgo.TopicPartitioner
	guard *guard
}

// RequiresConsistency implements kgo.TopicPartitioner.
func (g *guardedTopic) RequiresConsistency(r *kgo.Record) (yes bool) {
	defer g.guard.caught("WithPartitioner")
	return g.t.RequiresConsistency(r)
}

// Partition implements kgo.TopicPartitioner.
func (g *guardedTopic) Partition(r *kgo.Record, n int) int {
	return g.choose(r, n, func() int { return g.t.Partition(r, n) })
}

// choose is the partitioner's choice, or -1, which fails the record.
func (g *guardedTopic) choose(r *kgo.Record, n int, partition func() int) (choice int) {
	choice = -1
	defer func() {
		if choice < 0 || choice >= n {
			r.Context = context.WithValue(r.Context, badPartitionKey{}, fmt.Errorf("kstage: WithPartitioner has chosen partition %d of %d", choice, n))
			choice = -1
		}
	}()
	defer g.guard.caught("WithPartitioner")
	return partition()
}

type backupTopic struct{ *guardedTopic }

// PartitionByBackup implements kgo.TopicBackupPartitioner.
func (g backupTopic) PartitionByBackup(r *kgo.Record, n int, backup kgo.TopicBackupIter) int {
	return g.choose(r, n, func() int { return g.t.(kgo.TopicBackupPartitioner).PartitionByBackup(r, n, backup) })
}

type newBatch struct {
	t     kgo.TopicPartitionerOnNewBatch
	guard *guard
}

// OnNewBatch implements kgo.TopicPartitionerOnNewBatch.
func (g newBatch) OnNewBatch() {
	defer g.guard.caught("WithPartitioner")
	g.t.OnNewBatch()
}

type badPartitionKey struct{}

// badPartition is what choose has noted of a record; nil: nothing.
func badPartition(r *kgo.Record) error {
	err, _ := r.Context.Value(badPartitionKey{}).(error)
	return err
}
