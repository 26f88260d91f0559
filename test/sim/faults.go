package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// faultKind is one thing that can go wrong. do does it and says what it did; empty:
// there was nothing to do it to.
type faultKind struct {
	name   string
	weight int
	do     func(w *world, d dice) string
}

// faultKinds lists them all. FAULTS.md names them, too.
func faultKinds() []faultKind {
	return []faultKind{
		{"produce-error", 6, answers([]kmsg.Key{kmsg.Produce}, kerr.NotLeaderForPartition, kerr.RequestTimedOut, kerr.NotEnoughReplicasAfterAppend, kerr.NotEnoughReplicas, kerr.CorruptMessage, kerr.KafkaStorageError)},
		{"fetch-error", 5, answers([]kmsg.Key{kmsg.Fetch}, kerr.NotLeaderForPartition, kerr.UnknownLeaderEpoch, kerr.FencedLeaderEpoch, kerr.UnknownTopicOrPartition, kerr.KafkaStorageError)},
		{"commit-error", 6, answers([]kmsg.Key{kmsg.OffsetCommit}, kerr.RebalanceInProgress, kerr.NotCoordinator, kerr.CoordinatorLoadInProgress, kerr.RequestTimedOut, kerr.UnknownMemberID, kerr.IllegalGeneration)},
		{"heartbeat-error", 6, answers([]kmsg.Key{kmsg.Heartbeat}, kerr.RebalanceInProgress, kerr.UnknownMemberID, kerr.IllegalGeneration, kerr.NotCoordinator)},
		{"next-gen-heartbeat-error", 4, answers([]kmsg.Key{kmsg.ConsumerGroupHeartbeat}, kerr.UnknownMemberID, kerr.FencedMemberEpoch, kerr.NotCoordinator, kerr.CoordinatorLoadInProgress)},
		{"join-error", 3, answers([]kmsg.Key{kmsg.JoinGroup}, kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.RebalanceInProgress, kerr.UnknownMemberID)},
		{"sync-error", 3, answers([]kmsg.Key{kmsg.SyncGroup}, kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.RebalanceInProgress, kerr.UnknownMemberID)},
		{"offset-fetch-error", 2, answers([]kmsg.Key{kmsg.OffsetFetch}, kerr.NotCoordinator, kerr.CoordinatorLoadInProgress, kerr.UnstableOffsetCommit)},
		{"find-coordinator-error", 2, answers([]kmsg.Key{kmsg.FindCoordinator}, kerr.CoordinatorNotAvailable, kerr.CoordinatorLoadInProgress)},
		{"metadata-error", 2, answers([]kmsg.Key{kmsg.Metadata}, kerr.LeaderNotAvailable, kerr.UnknownTopicOrPartition)},
		{"list-offsets-error", 2, answers([]kmsg.Key{kmsg.ListOffsets}, kerr.NotLeaderForPartition, kerr.UnknownLeaderEpoch)},
		{"init-producer-id-error", 2, answers([]kmsg.Key{kmsg.InitProducerID}, kerr.CoordinatorLoadInProgress, kerr.NotCoordinator)},
		{"leave-error", 1, answers([]kmsg.Key{kmsg.LeaveGroup}, kerr.NotCoordinator, kerr.UnknownMemberID)},
		{"answer-withheld", 5, withheld},
		{"answer-dropped", 4, dropped},
		{"answer-slow", 4, slow},
		{"hand-off-outage", 5, handOffOutage},
		{"hand-off-too-large", 1, handOffTooLarge},
		{"leaders-shuffled", 4, func(w *world, _ dice) string { w.cluster.ShufflePartitionLeaders(); return "all" }},
		{"leader-moved", 4, leaderMoved},
		{"coordinators-moved", 4, func(w *world, _ dice) string { w.cluster.RehashCoordinators(); return "all" }},
		{"broker-resets", 4, brokerResets},
		{"broker-away", 4, brokerAway},
		{"member-resets", 3, memberResets},
		{"member-cut-off", 5, memberCutOff(true, true)},
		{"member-unheard", 4, memberCutOff(true, false)},
		{"member-unanswered", 5, memberCutOff(false, true)},
		{"broker-unreachable-for-one", 3, oneWayGone},
		{"latency", 3, latency},
		{"member-joins", 6, memberJoins},
		{"member-leaves", 6, memberLeaves},
		{"member-crashes", 6, memberCrashes},
		{"rolling-restart", 2, rollingRestart},
		{"rebalance-storm", 2, rebalanceStorm},
		{"shutdown-unanswered", 2, shutdownUnanswered},
		{"store-trouble", 6, storeTrouble},
		{"clock-jumps", 4, clockJumps},
		{"paused-by-user", 3, pausedByUser},
		{"partitions-added", 1, partitionsAdded},
		{"records-deleted", 2, recordsDeleted},
		{"transaction-aborted", 2, transactionAborted},
	}
}

// drawFault chooses a kind by weight.
func drawFault(d draw) string {
	kinds := faultKinds()
	total := 0
	for _, k := range kinds {
		total += k.weight
	}
	n := d.n(total)
	i := slices.IndexFunc(kinds, func(k faultKind) bool { n -= k.weight; return n < 0 })
	return kinds[i].name
}

// dice decide what a fault happens to.
type dice [4]uint32

func (d dice) of(i, n int) int { return int(d[i] % uint32(n)) }

func (d dice) between(i int, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(d[i])%(hi-lo)
}

// inflict does one fault of the plan.
func (w *world) inflict(f FaultPlan) {
	kinds := faultKinds()
	k := kinds[slices.IndexFunc(kinds, func(k faultKind) bool { return k.name == f.Kind })]
	at := time.Since(w.history.start)
	if what := k.do(w, f.Dice); what != "" {
		w.note(at, k.name, what)
	}
}

// note writes a fault down, in the script and in the history.
func (w *world) note(at time.Duration, name, what string) {
	w.script = append(w.script, fmt.Sprintf("%12v %s: %s", at, name, what))
	w.history.add(Event{Kind: Fault, Note: name + ": " + what})
}

// answers makes the next few requests of some kinds fail.
func answers(keys []kmsg.Key, errs ...*kerr.Error) func(*world, dice) string {
	return func(w *world, d dice) string {
		f := kfake.Fault{Keys: keys, Err: errs[d.of(0, len(errs))], Count: 1 + d.of(1, 3)}
		w.injected = append(w.injected, w.cluster.Fault(f))
		return fmt.Sprintf("%v, %d times", f.Err.Message, f.Count)
	}
}

// answered are the requests whose answers get lost.
func answered() []kmsg.Key {
	return []kmsg.Key{kmsg.Produce, kmsg.Fetch, kmsg.OffsetCommit, kmsg.Heartbeat, kmsg.JoinGroup, kmsg.SyncGroup, kmsg.FindCoordinator, kmsg.Metadata, kmsg.OffsetFetch, kmsg.ConsumerGroupHeartbeat}
}

// intercept does something to the next request of a kind, unless all is healed by then.
func (w *world) intercept(key kmsg.Key, do func() (err error, handled bool)) {
	w.cluster.ControlKey(int16(key), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.DropControl()
		if w.healed.Load() {
			return nil, nil, false
		}
		err, handled := do()
		return nil, err, handled
	})
}

// withheld: the request is received, and neither acted on nor answered.
func withheld(w *world, d dice) string {
	key := answered()[d.of(0, len(answered()))]
	w.intercept(key, func() (error, bool) { return nil, true })
	return key.Name()
}

// dropped: the connection ends instead of an answer.
func dropped(w *world, d dice) string {
	key := answered()[d.of(0, len(answered()))]
	w.intercept(key, func() (error, bool) { return errDropped, true })
	return key.Name()
}

// slow: the request is acted on later.
func slow(w *world, d dice) string {
	key, took := answered()[d.of(0, len(answered()))], d.between(1, 100*time.Millisecond, 8*time.Second)
	w.intercept(key, func() (error, bool) {
		w.cluster.SleepControl(func() { wait(took) })
		return nil, false
	})
	return fmt.Sprintf("%s by %v", key.Name(), took)
}

// handOffOutage: nothing can be written to one of a group's own topics.
func handOffOutage(w *world, d dice) string {
	g := &w.plan.Groups[d.of(0, len(w.plan.Groups))]
	targets := w.targets(g)
	if len(targets) == 0 {
		return ""
	}
	topic, took := targets[d.of(1, len(targets))], d.between(2, time.Second, 60*time.Second)
	err := []*kerr.Error{kerr.NotEnoughReplicas, kerr.TopicAuthorizationFailed, kerr.PolicyViolation}[d.of(3, 3)]
	f := w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: err, Count: -1})
	w.later(took, f.Remove)
	return fmt.Sprintf("%s says %s for %v", topic, err.Message, took)
}

// handOffTooLarge: a batch is refused as too large, which it is not alone.
func handOffTooLarge(w *world, d dice) string {
	g := &w.plan.Groups[d.of(0, len(w.plan.Groups))]
	targets := w.targets(g)
	if len(targets) == 0 {
		return ""
	}
	topic := targets[d.of(1, len(targets))]
	w.injected = append(w.injected, w.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.MessageTooLarge}))
	return topic
}

func leaderMoved(w *world, d dice) string {
	t := w.plan.Topics[d.of(0, len(w.plan.Topics))]
	p, to := int32(d.of(1, int(t.Partitions))), int32(d.of(2, w.plan.Brokers))
	_ = w.cluster.MoveTopicPartition(t.Name, p, to)
	return fmt.Sprintf("%s/%d to %d", t.Name, p, to)
}

func brokerResets(w *world, d dice) string {
	port := w.ports[d.of(0, len(w.ports))]
	n := w.net.reset(func(l linkName) bool { return l.port == port })
	return fmt.Sprintf("%d, %d connections", port, n)
}

func brokerAway(w *world, d dice) string {
	port, took := w.ports[d.of(0, len(w.ports))], d.between(1, time.Second, 25*time.Second)
	w.net.change(w.names(), []int{port}, func(l *link) { l.refuses = true })
	w.net.reset(func(l linkName) bool { return l.port == port })
	w.later(took, func() { w.net.change(w.names(), []int{port}, func(l *link) { l.refuses = false }) })
	return fmt.Sprintf("%d for %v", port, took)
}

func memberResets(w *world, d dice) string {
	m := w.pick(d[0])
	if m == nil {
		return ""
	}
	n := w.net.reset(func(l linkName) bool { return l.client == m.name })
	return fmt.Sprintf("%s, %d connections", m.name, n)
}

// memberCutOff: a process goes on, and what it sends or should hear does not arrive.
func memberCutOff(up, down bool) func(*world, dice) string {
	return func(w *world, d dice) string {
		m := w.pick(d[0])
		if m == nil {
			return ""
		}
		took := d.between(1, time.Second, 40*time.Second)
		w.net.change([]string{m.name}, w.ports, func(l *link) { l.holdsUp, l.holdsDown = l.holdsUp || up, l.holdsDown || down })
		w.later(took, func() {
			if d[2]%2 == 0 { // what was held back is lost
				w.net.reset(func(l linkName) bool { return l.client == m.name })
			}
			w.net.change([]string{m.name}, w.ports, func(l *link) { l.holdsUp, l.holdsDown = false, false })
		})
		return fmt.Sprintf("%s for %v", m.name, took)
	}
}

func oneWayGone(w *world, d dice) string {
	m := w.pick(d[0])
	if m == nil {
		return ""
	}
	port, took := w.ports[d.of(1, len(w.ports))], d.between(2, time.Second, 30*time.Second)
	w.net.change([]string{m.name}, []int{port}, func(l *link) { l.refuses = true })
	w.net.reset(func(l linkName) bool { return l.client == m.name && l.port == port })
	w.later(took, func() { w.net.change([]string{m.name}, []int{port}, func(l *link) { l.refuses = false }) })
	return fmt.Sprintf("%d for %s for %v", port, m.name, took)
}

func latency(w *world, d dice) string {
	l, took := d.between(0, time.Millisecond, 800*time.Millisecond), d.between(1, 5*time.Second, 30*time.Second)
	w.net.change(w.names(), w.ports, func(k *link) { k.latency = l })
	w.later(took, func() { w.net.change(w.names(), w.ports, func(k *link) { k.latency = 0 }) })
	return fmt.Sprintf("%v for %v", l, took)
}

func memberJoins(w *world, d dice) string {
	if len(w.members) >= 4 {
		return ""
	}
	return w.join(&w.plan.Groups[d.of(0, len(w.plan.Groups))]).name
}

func memberLeaves(w *world, d dice) string {
	m := w.pick(d[0])
	if m == nil {
		return ""
	}
	w.dismiss(m)
	return m.name
}

func memberCrashes(w *world, d dice) string {
	m := w.pick(d[0])
	if m == nil {
		return ""
	}
	w.remove(m)
	m.crash()
	took := d.between(1, time.Second, 15*time.Second)
	w.later(took, func() { w.joinAs(m.group, m.instance) })
	return fmt.Sprintf("%s, another in %v", m.name, took)
}

// rollingRestart replaces each member of a group by a new one.
func rollingRestart(w *world, d dice) string {
	g := &w.plan.Groups[d.of(0, len(w.plan.Groups))]
	for _, m := range slices.Clone(w.members) {
		if m.group == g {
			w.dismiss(m)
			w.pass(d.between(1, 0, 3*time.Second))
			w.join(g)
		}
	}
	return g.Name
}

func rebalanceStorm(w *world, d dice) string {
	g := &w.plan.Groups[d.of(0, len(w.plan.Groups))]
	for i := range 5 {
		m := w.join(g)
		w.pass(d.between(1+i%2, 100*time.Millisecond, 1500*time.Millisecond))
		w.dismiss(m)
	}
	return g.Name
}

// shutdownUnanswered: a member is to end while nobody answers it.
func shutdownUnanswered(w *world, d dice) string {
	m := w.pick(d[0])
	if m == nil {
		return ""
	}
	w.net.change([]string{m.name}, w.ports, func(l *link) { l.holdsDown = true })
	w.dismiss(m)
	w.later(time.Minute, func() {
		w.net.change([]string{m.name}, w.ports, func(l *link) { l.holdsDown = false })
	})
	return m.name
}

func storeTrouble(w *world, d dice) string {
	how, took := trouble(d.of(0, int(storeTroubles))), d.between(1, time.Second, 30*time.Second)
	w.store.fail(how, took)
	return fmt.Sprintf("%v for %v", how, took)
}

func clockJumps(w *world, d dice) string {
	m := w.pick(d[0])
	if m == nil {
		return ""
	}
	ahead := d.between(1, 0, 20*time.Second) - 10*time.Second
	if d[2]%4 == 0 && ahead > 0 {
		ahead *= 360 // an hour
	}
	m.setClock(ahead)
	return fmt.Sprintf("%s to %v", m.name, ahead)
}

func pausedByUser(w *world, d dice) string {
	m := w.pick(d[0])
	if m == nil {
		return ""
	}
	var topics []string
	if d[1]%2 == 0 {
		topics = m.group.Topics[:1]
	}
	m.Pause(topics...)
	took := d.between(2, time.Second, 20*time.Second)
	w.later(took, func() { m.Resume(topics...) })
	return fmt.Sprintf("%s %v for %v", m.name, topics, took)
}

func partitionsAdded(w *world, d dice) string {
	t := w.plan.Topics[d.of(0, len(w.plan.Topics))].Name
	n := int32(len(w.cluster.PartitionInfos(t))) + 1
	return fmt.Sprintf("%s to %d: %v", t, n, w.addPartitions(t, n))
}

// recordsDeleted: retention takes records that may not have been read.
func recordsDeleted(w *world, d dice) string {
	infos := w.cluster.PartitionInfos(w.plan.Topics[d.of(0, len(w.plan.Topics))].Name)
	topic, p := w.plan.Topics[d.of(0, len(w.plan.Topics))].Name, infos[d.of(1, len(infos))]
	to := p.LogStartOffset + int64(d[2])%(p.HighWatermark-p.LogStartOffset+1)
	w.history.add(Event{Kind: Deleted, Place: Place{topic, p.Partition, to}})
	return fmt.Sprintf("%s/%d before %d: %v", topic, p.Partition, to, w.cluster.DeleteRecords(topic, p.Partition, to))
}

// transactionAborted: some offsets of a topic hold nothing that is delivered.
func transactionAborted(w *world, d dice) string {
	topic := w.plan.Topics[d.of(0, len(w.plan.Topics))].Name
	limited, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.addrs...), kgo.Dialer(w.net.dialer("harness")), kgo.DisableClientMetrics(), kgo.TransactionalID(fmt.Sprint("t", d[1])))
	must(err)
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		return err.Error()
	}
	for i := range 1 + d.of(2, 3) {
		cl.Produce(limited, &kgo.Record{Topic: topic, Value: fmt.Append(nil, "aborted", i)}, nil)
	}
	err = errors.Join(cl.Flush(limited), cl.EndTransaction(limited, kgo.TryAbort))
	return fmt.Sprintf("%s: %v", topic, err)
}
