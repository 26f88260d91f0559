package kstage

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"

	"github.com/kstage/kstage/internal/hook"
)

// The client calls assigned, offsetsFetched, revoked and lost one at a time, the
// last three also with nothing in them. It may do so before NewClient has
// returned: they use the client they are given.

// assigned opens a window for each new partition. One that is still there was
// never taken away, as after a topic was purged and added again: it is lost.
func (in *intake) assigned(ctx context.Context, cl *kgo.Client, added map[string][]int32) {
	in.callback.Store(true)
	defer in.callback.Store(false)
	in.give(ctx, in.owned(added), PartitionsLost, 0)
	hook.Stretch(hook.BeforeOpen)
	opened := in.openAll(cl, added)
	in.board.clearReason(HealthReason{Kind: HealthNotJoined, Partition: -1, Group: in.feed.group})
	in.authorized("")
	for topic, partitions := range opened {
		in.tellAssigned(topic, partitions)
	}
}

func (in *intake) tellAssigned(topic string, partitions []int32) {
	in.log.Info("partitions assigned", zap.String("topic", topic), zap.Int32s("partitions", partitions))
	in.metrics.Assigned(AssignedEvent{Topic: topic, Partitions: slices.Clone(partitions), Kind: PartitionsAssigned})
}

// openAll opens windows, unless nothing new may start.
func (in *intake) openAll(cl *kgo.Client, added map[string][]int32) map[string][]int32 {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.client == nil { // written once: it is read without mu, too
		in.client = cl
	}
	in.member, _ = cl.GroupMetadata()
	if in.stopping {
		return nil
	}
	for topic, partitions := range added {
		for _, p := range partitions {
			in.open(topicPartition{topic, p})
		}
	}
	poke(in.turned)
	return added
}

// offsetsFetched learns where the group stands, so that a gap before the first
// record is seen.
func (in *intake) offsetsFetched(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	for i := range resp.Groups {
		for _, t := range resp.Groups[i].Topics {
			for _, p := range t.Partitions {
				if w := in.window(topicPartition{t.Topic, p.Partition}); w != nil && p.ErrorCode == 0 {
					w.fetched(p.Offset)
				}
			}
		}
	}
	return nil
}

// revoked gives partitions back: what runs may end, what ended is committed,
// nothing is committed after. Where the group took another member for us in
// between, they are lost (the client does not say so).
func (in *intake) revoked(ctx context.Context, cl *kgo.Client, gone map[string][]int32) {
	in.callback.Store(true)
	defer in.callback.Store(false)
	ws := in.owned(gone)
	if len(ws) == 0 { // it is called at the end of each session
		return
	}
	if member, _ := cl.GroupMetadata(); member != in.memberID() {
		in.give(ctx, ws, PartitionsLost, 0)
		return
	}
	start := time.Now()
	if !in.drain(ws, in.cfg.revokeDrain) {
		for _, w := range ws {
			w.cancel(ErrRevoked)
		}
	}
	in.give(ctx, ws, PartitionsRevoked, time.Since(start))
}

// lost forgets partitions that others own by now: nothing is committed.
func (in *intake) lost(ctx context.Context, _ *kgo.Client, gone map[string][]int32) {
	in.callback.Store(true)
	defer in.callback.Store(false)
	in.give(ctx, in.owned(gone), PartitionsLost, 0)
	in.board.raise(HealthReason{Kind: HealthNotJoined, Partition: -1, Group: in.feed.group, Err: ErrLost})
}

func (in *intake) memberID() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.member
}

// owned lists the windows of some partitions.
func (in *intake) owned(tps map[string][]int32) (ws []*window) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for topic, partitions := range tps {
		for _, p := range partitions {
			if w := in.windows[topicPartition{topic, p}]; w != nil {
				ws = append(ws, w)
			}
		}
	}
	return ws
}

// drain lets nothing more start and waits for running handlers and for copies
// on their way, at most limit, and not past the soft limit of a shutdown.
// False: some are still at it.
func (in *intake) drain(ws []*window, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for _, w := range ws {
		w.fence()
	}
	return arrive(ws, timer.C, in.late)
}

// arrive waits until no handler of the windows runs and none of their copies is
// on its way; false when it was over, or late, before.
func arrive(ws []*window, over <-chan time.Time, late <-chan struct{}) bool {
	for _, w := range ws {
		if !arrives(w.fence(), over, late) || !arrives(w.allLanded(), over, late) {
			return false
		}
	}
	return true
}

func arrives(c <-chan struct{}, over <-chan time.Time, late <-chan struct{}) bool {
	select {
	case <-c: // also where the time is over, too
		return true
	default:
	}
	select {
	case <-c:
		return true
	case <-over:
	case <-late:
	}
	return false
}

// give ends assignments: inside the gate, so that no commit under way or to come
// names them, their finished records are committed once more (not where they
// are lost) and their windows forgotten.
func (in *intake) give(ctx context.Context, ws []*window, kind AssignmentKind, drained time.Duration) {
	if len(ws) == 0 {
		return
	}
	if kind == PartitionsLost {
		for _, w := range ws {
			w.fence()
			w.cancel(ErrLost)
		}
	}
	hook.Stretch(hook.BeforeGive)
	in.gate.enter()
	var committed []CommittedEvent
	if kind == PartitionsRevoked {
		committed = in.commit(ctx, ws)
	}
	in.noteUncommitted(ws, cmp.Or(firstFailure(committed), causeOf(kind)))
	hook.Stretch(hook.BeforeForget)
	given := in.forgetAll(ws, kind)
	in.gate.leave()
	in.tellCommitted(committed)
	in.tellGiven(given, drained)
}

// forgetAll forgets windows and returns what to tell of it, by topic. The caller
// holds the gate, so that no commit is under way for them.
func (in *intake) forgetAll(ws []*window, kind AssignmentKind) map[string]*AssignedEvent {
	given := map[string]*AssignedEvent{}
	for _, w := range ws {
		n, ok := in.forget(w, kind)
		if !ok {
			continue
		}
		e := given[w.topic]
		if e == nil {
			e = &AssignedEvent{Topic: w.topic, Kind: kind}
			given[w.topic] = e
		}
		e.Partitions = append(e.Partitions, w.partition)
		e.Released += n
	}
	poke(in.turned)
	return given
}

// tellGiven tells of partitions given back; outside the gate.
func (in *intake) tellGiven(given map[string]*AssignedEvent, drained time.Duration) {
	for topic, e := range given {
		slices.Sort(e.Partitions)
		e.Drain = drained
		in.log.Info("partitions given back", zap.String("topic", topic), zap.Int32s("partitions", e.Partitions),
			zap.Stringer("kind", e.Kind), zap.Int("released", e.Released), zap.Duration("drain", drained))
		in.metrics.Assigned(*e)
	}
}

// forget makes a window dead, and ends all that hangs on it. False: it was dead
// before, by a shutdown or for a topic that was created again.
func (in *intake) forget(w *window, kind AssignmentKind) (released int, ok bool) {
	if !in.remove(w) {
		return 0, false
	}
	released = w.forget()
	w.cancel(causeOf(kind))
	in.handOff.forget(w.topicPartition)
	in.board.clearPartition(w.topic, w.partition, HealthStuckRecord, HealthOversize, HealthFetchFailing, HealthCommitFailing)
	return released, true
}

// remove takes a window out of the intake; false where it is not in it. It is
// remembered while its handlers have not returned: Run must not end before they
// do, or has to say so.
func (in *intake) remove(w *window) bool {
	idle := w.fence()
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.windows[w.topicPartition] != w {
		return false
	}
	delete(in.windows, w.topicPartition)
	in.full.Add(-w.reasons.pressed())
	if w.paused {
		in.client.ResumeFetchPartitions(map[string][]int32{w.topic: {w.partition}})
	}
	in.zombies = slices.DeleteFunc(in.zombies, func(z *window) bool { return isClosed(z.fence()) })
	if !isClosed(idle) {
		in.zombies = append(in.zombies, w)
	}
	return true
}

func causeOf(kind AssignmentKind) error {
	if kind == PartitionsLost {
		return ErrLost
	}
	return ErrRevoked
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
