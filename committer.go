package kstage

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/kstage/kstage/internal/hook"
)

const (
	commitTimeout = 3 * time.Second
	commitPause   = 200 * time.Millisecond // between tries at the end of Run
	// commitMetadata marks our commits, so that a later version can keep more in it.
	commitMetadata = "kstage/1"
)

// gate lets one commit at a time, or one give-up of partitions. A channel, since
// it is held over I/O: a mutex would freeze virtual time.
type gate chan struct{}

func newGate() gate   { return make(gate, 1) }
func (g gate) enter() { g <- struct{}{} }
func (g gate) leave() { <-g }

// enterWithin gives up when ctx is done.
func (g gate) enterWithin(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// committer commits what has moved, each interval, until ctx is done; it also
// looks for heads that do not move.
func (in *intake) committer(ctx context.Context) {
	tick := time.NewTicker(in.cfg.commitInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			in.commitAll(in.base) //nolint:contextcheck // the end of ctx must not cancel a commit under way
			in.lookAtHeads(time.Now())
			in.board.sweep()
		}
	}
}

func (in *intake) commitAll(ctx context.Context) {
	hook.Stretch(hook.BeforeGate)
	in.gate.enter()
	events := in.commit(ctx, in.snapshot())
	in.gate.leave()
	in.tellCommitted(events)
}

// tellCommitted tells the collector; outside the gate, since it is a user's code.
func (in *intake) tellCommitted(events []CommittedEvent) {
	for _, e := range events {
		in.metrics.Committed(e)
	}
}

// commit sends the marks that moved and waits for the answer. The gate is held.
// What the broker refuses, or does not answer, stays to be committed again.
func (in *intake) commit(ctx context.Context, ws []*window) (events []CommittedEvent) {
	moved := map[string]map[int32]kgo.EpochOffset{}
	for _, w := range ws {
		if m, ok := w.mark(); ok {
			if moved[w.topic] == nil {
				moved[w.topic] = map[int32]kgo.EpochOffset{}
			}
			moved[w.topic][w.partition] = kgo.EpochOffset{Epoch: m.Epoch, Offset: m.Offset}
		}
	}
	if len(moved) == 0 {
		return nil
	}
	hook.Stretch(hook.BeforeCommit)
	limited, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	limited = kgo.PreCommitFnContext(limited, in.sign)
	in.client.CommitOffsetsSync(limited, moved, func(_ *kgo.Client, req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		hook.Stretch(hook.AfterCommit)
		events = in.answered(ws, moved, commitErrors(req, resp, err))
	})
	return events
}

// sign marks a request as ours. One that goes out as another member than the
// partitions were assigned to does not: the client has joined anew, and not said
// yet which of them are ours still.
func (in *intake) sign(req *kmsg.OffsetCommitRequest) error {
	if req.MemberID != in.memberID() {
		return errRejoining
	}
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			req.Topics[i].Partitions[j].Metadata = kmsg.StringPtr(commitMetadata)
		}
	}
	return nil
}

// commitErrors returns what became of one partition's commit: an answer without
// the partition is an error, too. New brokers answer with topic ids alone.
func commitErrors(req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) func(topicPartition) error {
	if err != nil && len(req.Topics) == 0 { // it waited for a join, and was never built
		err = errRejoining
	}
	if err != nil {
		return func(topicPartition) error { return err }
	}
	names := map[[16]byte]string{}
	for _, t := range req.Topics {
		names[t.TopicID] = t.Topic
	}
	answers := map[topicPartition]error{}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			answers[topicPartition{cmp.Or(t.Topic, names[t.TopicID]), p.Partition}] = kerr.ErrorForCode(p.ErrorCode)
		}
	}
	return func(tp topicPartition) error {
		if answer, ok := answers[tp]; ok {
			return answer
		}
		return errNoAnswer
	}
}

var (
	errNoAnswer  = errors.New("kstage: the broker's answer leaves the partition out")
	errRejoining = errors.New("kstage: nothing can be committed while the group rebalances")
)

// answered takes the answer to a commit.
func (in *intake) answered(ws []*window, moved map[string]map[int32]kgo.EpochOffset, errOf func(topicPartition) error) (events []CommittedEvent) {
	for _, w := range ws {
		o, ok := moved[w.topic][w.partition]
		if !ok {
			continue
		}
		err := errOf(w.topicPartition)
		events = append(events, CommittedEvent{Topic: w.topic, Partition: w.partition, Offset: o.Offset, Err: err})
		switch {
		case err == nil:
			w.setCommitted(o.Offset)
			in.board.clear(HealthCommitFailing, w.topic, w.partition)
		case isFenced(err):
			in.fail(explain(err, in.grantGroup()))
		case !isRebalancing(err):
			in.commitFailed(w, err)
		}
	}
	return events
}

// commitFailed reports; the log, once.
func (in *intake) commitFailed(w *window, err error) {
	err = explain(err, in.grantGroup()+" and "+grantRead(w.topic))
	if in.board.raise(HealthReason{Kind: HealthCommitFailing, Topic: w.topic, Partition: w.partition, Err: err}) {
		in.log.Warn("commit failed, it is tried again", zap.String("topic", w.topic), zap.Int32("partition", w.partition), zap.Error(err))
	}
	if isAuthorization(err) {
		in.unauthorized(w.topic, err)
	}
}

// isRebalancing: the commit may be sent again as soon as the group is stable.
func isRebalancing(err error) bool {
	return errors.Is(err, kerr.RebalanceInProgress) || errors.Is(err, errRejoining)
}

// isHopeless: no try can help before the end of Run.
func isHopeless(err error) bool {
	return isFenced(err) || isAuthorization(err) ||
		errors.Is(err, kerr.UnknownMemberID) || errors.Is(err, kerr.IllegalGeneration)
}

func firstFailure(events []CommittedEvent) error {
	for _, e := range events {
		if e.Err != nil {
			return e.Err
		}
	}
	return nil
}

// lookAtHeads raises Health for each partition whose oldest unfinished record has
// been that for too long, and clears it when it has moved. Called by the
// committer only.
func (in *intake) lookAtHeads(now time.Time) {
	for _, w := range in.snapshot() {
		offset, since, ok := w.stuck(now)
		if w.stuckAt >= 0 && (!ok || w.stuckAt != offset) {
			in.board.clearRecord(HealthStuckRecord, Coordinates{w.topic, w.partition, w.stuckAt})
			w.stuckAt = -1
		}
		if ok && now.Sub(since) >= in.cfg.stuckAfter {
			in.board.raise(HealthReason{Kind: HealthStuckRecord, Topic: w.topic, Partition: w.partition, Offset: offset})
			w.stuckAt = offset
		}
	}
}
