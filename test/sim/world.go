package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap/zapcore"

	"github.com/kstage/kstage"
	"github.com/kstage/kstage/internal/hook"
)

// Logger is given what members log; nil: nobody.
type Logger func(member string, e zapcore.Entry, fs []zapcore.Field)

// Run is one world that has ended.
type Run struct {
	Plan    Plan
	Script  []string // the faults, as they happened
	History *History
	Logs    map[string]map[int32]map[int64]Stood // by topic, partition, offset: what stands there at the end
	Dead    []DeadRecord                         // what stands in the dead-letter topics
	Members []MemberEnd
	Lag     string                     // what was not finished when time was up; empty: all was
	Left    []string                   // stacks of goroutines that outlived their Run
	Hits    [hook.NumberOfPoints]int64 // how often each point was reached
	Took    time.Duration              // of virtual time
	Quiet   time.Duration              // of it, from the last fault's end to the end of all work
}

// world is a run while it lasts. One goroutine, life's, does all that happens to it;
// what others need is immutable, or has a lock of its own.
type world struct {
	ctx     context.Context
	plan    *Plan
	log     Logger
	history *History
	net     *network
	cluster *kfake.Cluster
	store   *store
	adm     *kadm.Client
	cl      *kgo.Client // the harness's own
	addrs   []string
	ports   []int
	script  []string
	records map[string]*RecordPlan

	members []*member // that are to run
	all     []*member
	births  int
	leaving sync.WaitGroup       // members that were told to end
	tasks   []task               // that faults have left, by time
	ghosts  map[string]time.Time // since when groups have members that nobody is, or are stuck: by their ids
	topics  map[[16]byte]string

	injected []*kfake.FaultHandle // that may not have met their requests yet
	hits     [hook.NumberOfPoints]atomic.Int64
	healed   atomic.Bool // no fault has any effect any more

	mu      sync.Mutex // guards all below
	snoozed map[string]bool
	acked   map[string]map[int32]int64 // of main topics: the offset behind the last record that was acknowledged
}

// task is to be done later.
type task struct {
	at time.Time
	do func()
}

// Live lives a plan, in a synctest bubble. A violation of what only the world itself
// can see is in the Run, too.
//
//nolint:contextcheck // a world keeps the context of its life
func Live(ctx context.Context, plan Plan, log Logger) *Run {
	w := newWorld(ctx, &plan, log)
	defer hook.OnStretch(nil)
	published := make(chan struct{})
	go func() {
		defer close(published)
		w.publish()
	}()
	for i := range w.plan.Groups {
		for range w.plan.Groups[i].Members {
			w.join(&w.plan.Groups[i])
		}
	}
	for _, f := range w.plan.Faults {
		w.pass(f.After)
		w.inflict(f)
	}
	w.heal()
	<-published
	r := &Run{Plan: plan, History: w.history}
	healed := time.Now()
	r.Lag = w.quiesce()
	r.Quiet = time.Since(healed)
	w.end(r)
	return r
}

func newWorld(ctx context.Context, plan *Plan, log Logger) *world {
	w := &world{
		ctx: ctx, plan: plan, log: log, history: newHistory(), net: newNetwork(),
		records: map[string]*RecordPlan{}, ghosts: map[string]time.Time{}, topics: map[[16]byte]string{}, snoozed: map[string]bool{}, acked: map[string]map[int32]int64{},
	}
	for i := range plan.Records {
		w.records[plan.Records[i].ID] = &plan.Records[i]
	}
	for i := range plan.Brokers {
		w.ports = append(w.ports, 9001+i)
	}
	w.store = newStore(w.history, plan.Seed)
	c, err := kfake.NewCluster(kfake.NumBrokers(plan.Brokers), kfake.Ports(w.ports...), kfake.ListenFn(w.net.listen), kfake.GroupMinSessionTimeout(time.Second))
	must(err)
	w.cluster, w.addrs = c, c.ListenAddrs()
	w.cl, err = kgo.NewClient(kgo.SeedBrokers(w.addrs...), kgo.Dialer(w.net.dialer("harness")), kgo.DisableClientMetrics())
	must(err)
	w.adm = kadm.NewClient(w.cl)
	w.createTopics()
	w.watchCommits()
	w.answerEpochs()
	w.stretch()
	return w
}

func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("sim: %v", err))
	}
}

// createTopics makes the topics of all groups.
func (w *world) createTopics() {
	most := int32(1)
	for _, t := range w.plan.Topics {
		w.createTopic(t.Name, t.Partitions)
		w.acked[t.Name] = map[int32]int64{}
		most = max(most, t.Partitions)
	}
	for i := range w.plan.Groups {
		for k, t := range w.targets(&w.plan.Groups[i]) {
			w.createTopic(t, max(1, most-int32(k%2))) // some have fewer than their sources
		}
	}
}

func (w *world) createTopic(name string, partitions int32) {
	must(w.cluster.CreateTopic(name, partitions, nil))
	w.topics[w.cluster.TopicInfo(name).TopicID] = name
}

// topicOf is the name of a topic id.
func (w *world) topicOf(id [16]byte) string { return w.topics[id] }

// targets are the topics that a group writes to.
func (w *world) targets(g *GroupPlan) (ts []string) {
	for i := range g.Stages {
		ts = append(ts, g.retryTopic(i+1))
	}
	if g.dlq() != "" {
		ts = append(ts, g.dlq())
	}
	return ts
}

func (w *world) addPartitions(topic string, n int32) error {
	limited, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	_, err := w.adm.UpdatePartitions(limited, int(n), topic)
	return err
}

// maxStretch is how long a hook point takes at most.
const maxStretch = 2 * time.Second

// stretch makes hook points take their time, as the plan says.
func (w *world) stretch() {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(w.plan.Seed, 4))
	hook.OnStretch(func(p hook.Point) {
		w.hits[p].Add(1)
		every := w.plan.Stretch[p]
		mu.Lock()
		d := time.Duration(0)
		if every > 0 && rng.IntN(every) == 0 {
			d = time.Duration(1 + rng.Int64N(int64(maxStretch)))
		}
		mu.Unlock()
		wait(d)
	})
}

// record is the plan's; nil: it is not ours.
func (w *world) record(id string) *RecordPlan { return w.records[id] }

// snoozes says that a record is to be snoozed by a group, once.
func (w *world) snoozes(record, group string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := group + "/" + record
	if w.snoozed[key] {
		return false
	}
	w.snoozed[key] = true
	return true
}

// pass lets time pass, does the tasks that come due, and looks at the members.
func (w *world) pass(d time.Duration) {
	for end := time.Now().Add(d); ; {
		next, due := end, len(w.tasks) > 0 && !w.tasks[0].at.After(end)
		if due {
			next = w.tasks[0].at
		}
		for time.Until(next) > lookEach {
			wait(lookEach)
			w.look()
		}
		wait(time.Until(next))
		if !due {
			return
		}
		t := w.tasks[0]
		w.tasks = w.tasks[1:]
		t.do()
	}
}

// later leaves a task for the time to come.
func (w *world) later(d time.Duration, do func()) {
	w.tasks = append(w.tasks, task{time.Now().Add(d), do})
	slices.SortStableFunc(w.tasks, func(x, y task) int { return x.at.Compare(y.at) })
}

// pick chooses a running member; nil: there is none.
func (w *world) pick(d uint32) *member {
	if len(w.members) == 0 {
		return nil
	}
	return w.members[d%uint32(len(w.members))]
}

// names are those of all clients that go through faults.
func (w *world) names() []string {
	ns := []string{producerName}
	for _, m := range w.all {
		ns = append(ns, m.name)
	}
	return ns
}

func (w *world) remove(m *member) {
	w.members = slices.DeleteFunc(w.members, func(o *member) bool { return o == m })
}

// dismiss lets a member end, and does not wait.
func (w *world) dismiss(m *member) {
	w.remove(m)
	w.leaving.Go(m.stop)
}

// heal does what faults have left, and sees that each group has a member.
func (w *world) heal() {
	for len(w.tasks) > 0 {
		w.pass(time.Until(w.tasks[len(w.tasks)-1].at))
	}
	for i := range w.plan.Groups {
		g := &w.plan.Groups[i]
		if !slices.ContainsFunc(w.members, func(m *member) bool { return m.group == g }) {
			w.join(g)
		}
	}
	w.healed.Store(true)
	for _, f := range w.injected {
		f.Remove()
	}
	w.note(time.Since(w.history.start), "healed", "all")
}

// isCalm says that no member has anything to say but notices.
func (w *world) isCalm() bool {
	return !slices.ContainsFunc(w.members, func(m *member) bool {
		h := m.Health()
		return !h.Live || !h.Ready || slices.ContainsFunc(h.Reasons, func(r kstage.HealthReason) bool { return !isNotice(r.Kind) })
	})
}

// calmAfter is how long Health may still speak of what is over.
const calmAfter = 15 * time.Second

// end stops everybody and collects what can be seen.
func (w *world) end(r *Run) {
	w.leaving.Wait()
	for range 10 { // a fault's last effect may come only now
		if w.pass(calmAfter); w.isCalm() {
			break
		}
	}
	calm := map[*member]kstage.Health{}
	for _, m := range w.members {
		calm[m] = m.Health()
		w.leaving.Go(m.stop)
	}
	w.leaving.Wait()
	for _, m := range w.all {
		<-m.returned
	}
	w.collect(r, calm)
	w.cl.Close()
	w.cluster.Close()
	wait(time.Minute) // for handlers that are deaf; what still blocks after it is a leak
	r.Left = leftovers()
	for i := range w.hits {
		r.Hits[i] = w.hits[i].Load()
	}
	r.Script, r.Took = w.script, time.Since(w.history.start)
}

var errDropped = errors.New("sim: dropped")
