package sim

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"github.com/kstage/kstage"
	"github.com/kstage/kstage/internal/hook"
)

const (
	sessionTimeout = 8 * time.Second
	heartbeat      = 2 * time.Second
	hardShutdown   = 5 * time.Second
)

// member is one process: a Consumer, its clients, its clock, its way to the dedupe
// store. A name is used once, but for static members, which keep it.
type member struct {
	*kstage.Consumer
	w        *world
	name     string
	instance string // of a static member: its successor has it, too
	group    *GroupPlan
	clock    *hook.Clock
	ahead    atomic.Int64 // what clock says
	counts   *kstage.Counters
	crashed  atomic.Bool
	cancel   context.CancelFunc
	returned chan struct{} // closed after err is set
	err      error
	said     string // by its Health, at the last look; life's own

	mu       sync.Mutex                        // guards all below
	clients  map[kstage.ClientRole]*kgo.Client // the last of a role
	sessions map[context.Context]int           // of its assignments: each has a context of its own
}

// join starts a member of a group.
func (w *world) join(g *GroupPlan) *member { return w.joinAs(g, "") }

// joinAs starts one in another's place.
func (w *world) joinAs(g *GroupPlan, instance string) *member {
	w.births++
	m := &member{
		w: w, name: fmt.Sprintf("%s%d", g.Name, w.births), group: g, clock: &hook.Clock{}, counts: &kstage.Counters{},
		returned: make(chan struct{}), clients: map[kstage.ClientRole]*kgo.Client{}, sessions: map[context.Context]int{},
	}
	if m.instance = instance; instance == "" {
		m.instance = m.name
	}
	c, err := kstage.NewConsumer(kstage.HandlerFunc(m.handle), m.options()...)
	if err != nil {
		panic(fmt.Sprintf("sim: BUG: %v", err))
	}
	m.Consumer = c
	ctx, cancel := context.WithCancel(hook.WithClock(w.ctx, m.clock))
	m.cancel = cancel
	w.members, w.all = append(w.members, m), append(w.all, m)
	w.history.add(Event{Kind: Began, Member: m.name, Group: g.Name})
	go func() {
		defer close(m.returned)
		m.err = c.Run(ctx)
		note := "nil"
		if m.err != nil {
			note = m.err.Error()
		}
		w.history.add(Event{Kind: Returned, Member: m.name, Group: g.Name, Note: note})
	}()
	return m
}

func (m *member) options() []kstage.ConsumerOption {
	g := m.group
	opts := []kstage.ConsumerOption{
		kstage.WithBrokers(m.w.addrs...), kstage.WithClientID(m.name), kstage.WithGroup(g.Name), kstage.WithTopics(g.Topics...),
		kstage.WithClientOptions(m.clientOptions),
		kstage.WithImmediateRetries(g.Immediate, g.Backoff), kstage.WithOrdering(g.Ordering), kstage.WithWorkers(g.Workers),
		kstage.WithWindow(g.Window), kstage.WithFetch(kstage.Fetch{MaxPartitionBytes: g.FetchMax, MaxWait: mainMaxWait}),
		kstage.WithRevokeDrain(g.Drain), kstage.WithShutdownTimeout(g.Soft, hardShutdown),
		kstage.WithLogger(zap.New(&logTap{m: m})), kstage.WithTopicProvisioning(kstage.TrustTopics),
	}
	if len(g.Stages) > 0 {
		opts = append(opts, kstage.WithRetryStages(g.Stages...))
	}
	if g.Dead != 0 {
		opts = append(opts, kstage.WithoutDLQ(g.Dead))
	}
	if g.Static {
		opts = append(opts, kstage.WithInstanceID(m.instance))
	}
	if m.w.plan.Protocol == NextGen {
		opts = append(opts, kstage.WithNextGenGroup())
	}
	if g.Dedupe {
		opts = append(opts, m.dedupe())
	}
	if g.Counts {
		return append(opts, kstage.WithMetrics(m.counts))
	}
	return append(opts, kstage.WithMetrics(listener{counts: m.counts}))
}

// mainMaxWait is long: each empty fetch costs time.
const mainMaxWait = 2 * time.Second

func (m *member) dedupe() kstage.ConsumerOption {
	opts := []kstage.DedupeOption{kstage.DedupeLease(m.group.Lease)}
	if m.group.FailOpen {
		opts = append(opts, kstage.DedupeFailOpen())
	}
	return kstage.WithDedupe(&handle{m: m, store: m.w.store}, opts...)
}

func (m *member) clientOptions(role kstage.ClientRole) []kgo.Opt {
	opts := []kgo.Opt{
		kgo.Dialer(m.w.net.dialer(m.name)), kgo.DisableClientMetrics(), kgo.WithHooks(&clientTap{m: m, role: role}),
		kgo.RequestTimeoutOverhead(5 * time.Second), kgo.MetadataMinAge(250 * time.Millisecond),
	}
	if role == kstage.RoleHandOff {
		return opts
	}
	opts = append(opts, kgo.SessionTimeout(sessionTimeout), kgo.HeartbeatInterval(heartbeat))
	if m.w.plan.Protocol == Eager {
		opts = append(opts, kgo.Balancers(kgo.RangeBalancer()))
	}
	return opts
}

// listener makes kstage tell of each record, instead of counting them by ranges.
type listener struct {
	kstage.NopMetrics
	counts *kstage.Counters
}

// Received implements kstage.MetricsCollector.
func (l listener) Received(e kstage.ReceivedEvent) { l.counts.Received(e) }

// Handled implements kstage.MetricsCollector.
func (l listener) Handled(e kstage.HandledEvent) { l.counts.Handled(e) }

// HandedOff implements kstage.MetricsCollector.
func (l listener) HandedOff(e kstage.HandedOffEvent) { l.counts.HandedOff(e) }

// Assigned implements kstage.MetricsCollector.
func (l listener) Assigned(e kstage.AssignedEvent) { l.counts.Assigned(e) }

// stop ends a member as a deployment does, and waits.
func (m *member) stop() {
	m.w.history.add(Event{Kind: Ending, Member: m.name, Group: m.group.Name})
	m.cancel()
	<-m.returned
}

func (m *member) hasReturned() bool {
	select {
	case <-m.returned:
		return true
	default:
		return false
	}
}

// crash ends a member as kill -9 does: nothing of it reaches anybody any more. What
// it still runs sees no world, and ends by itself.
func (m *member) crash() {
	m.w.history.add(Event{Kind: Crashed, Member: m.name, Group: m.group.Name})
	m.crashed.Store(true)
	m.w.net.cutOff(m.name)
	m.cancel()
}

// setClock sets how far the member's wall clock is ahead.
func (m *member) setClock(ahead time.Duration) {
	m.ahead.Store(int64(ahead))
	m.clock.Set(ahead)
}

func (m *member) client(role kstage.ClientRole) *kgo.Client {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clients[role]
}

// session numbers the assignments by their contexts.
func (m *member) session(ctx context.Context) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, ok := m.sessions[ctx]
	if !ok {
		n = len(m.sessions) + 1
		m.sessions[ctx] = n
	}
	return n
}
