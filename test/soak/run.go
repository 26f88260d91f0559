package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage/test/kafka/launcher"
)

const (
	nodes      = 3
	partitions = 6
	drainLimit = 3 * time.Minute // of what is left when nothing is killed any more
	outage     = 12 * time.Second
)

// run is one soak.
type run struct {
	c       config
	cluster *launcher.Cluster
	cl      *kgo.Client
	adm     *kadm.Client
	checker *checker
	plain   *silences
	fleet   *fleet
	traffic *traffic
	began   time.Time

	killed, terminated, crashed int
	ours, theirs                time.Duration // the longest silences of healthy partitions while a broker was dead
	slow                        []string      // where ours was longer than the bound
}

func newRun(ctx context.Context, c config, cluster *launcher.Cluster, work string) (*run, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(cluster.Brokers...), kgo.MetadataMinAge(250*time.Millisecond))
	if err != nil {
		return nil, err
	}
	r := &run{c: c, cluster: cluster, cl: cl, adm: kadm.NewClient(cl), checker: newChecker(), plain: newSilences(), began: time.Now()}
	r.fleet = &fleet{c: c, brokers: cluster.Brokers, work: work, checker: r.checker, running: make([]*process, c.processes)}
	r.traffic = &traffic{c: c, brokers: cluster.Brokers, checker: r.checker}
	topics := []string{c.prefix + "-main", c.prefix + "-dlq"}
	for i := range stageDelays {
		topics = append(topics, fmt.Sprintf("%s-retry-%d", c.prefix, i+1))
	}
	made, err := r.adm.CreateTopics(ctx, partitions, -1, nil, topics...)
	return r, firstOf(err, made.Error())
}

func (r *run) close() { r.cl.Close() }

// run lets everything happen and returns what must not be.
func (r *run) run(ctx context.Context) error {
	helpers, stopHelpers := context.WithCancel(context.WithoutCancel(ctx))
	var helping sync.WaitGroup
	defer helping.Wait()
	defer stopHelpers()
	var observed [2]error
	for i := range observed {
		helping.Go(func() { observed[i] = observe(helpers, r.c, r.cluster.Brokers, r.plain) })
	}
	helping.Go(func() { r.report(helpers) })
	for place := range r.fleet.running {
		if err := r.fleet.start(place); err != nil {
			return err
		}
	}
	limited, stop := context.WithTimeout(ctx, r.c.duration)
	defer stop()
	var producing sync.WaitGroup
	var produced [producers]error
	for i := range produced {
		producing.Go(func() { produced[i] = r.traffic.produce(limited) })
	}
	chaos := r.chaos(limited)
	stop()
	producing.Wait()
	err := errors.Join(chaos, errors.Join(produced[:]...), errors.Join(observed[:]...))
	r.drain(context.WithoutCancel(ctx))
	err = errors.Join(err, r.fleet.stop(context.WithoutCancel(ctx)), r.readDeadLetters(context.WithoutCancel(ctx)))
	stopHelpers()
	helping.Wait()
	return errors.Join(err, r.verdict())
}

// chaos kills processes and brokers until ctx is done.
func (r *run) chaos(ctx context.Context) error {
	for !pause(ctx, 15*time.Second) {
		for range 4 {
			if err := r.killAProcess(); err != nil {
				return err
			}
			if pause(ctx, 8*time.Second+rand.N(4*time.Second)) {
				return nil
			}
		}
		if pause(ctx, sessionTimeout) { // killed processes are out of the group
			return nil
		}
		if err := r.killABroker(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pause says that ctx is done.
func pause(ctx context.Context, d time.Duration) (done bool) {
	work(ctx, d)
	return ctx.Err() != nil
}

func (r *run) killAProcess() error {
	place, how := rand.N(r.c.processes), sigkill
	if rand.N(2) == 0 {
		how = sigterm
		r.terminated++
	} else {
		r.killed++
	}
	return r.fleet.replace(place, how)
}

// killABroker crashes one, measures what the partitions led by others feel of it, and
// starts it again.
func (r *run) killABroker(ctx context.Context) error {
	node := 1 + rand.N(int32(nodes))
	healthy, err := r.healthyWithout(ctx, node)
	if err != nil {
		return stillGoing(ctx, err)
	}
	r.checker.main.reset()
	r.plain.reset()
	base := context.WithoutCancel(ctx)
	if err := r.cluster.Kill(base, node); err != nil {
		return err
	}
	r.crashed++
	if !pause(ctx, outage) {
		r.measure(node, healthy)
	}
	if err := r.cluster.Start(base, node); err != nil {
		return err
	}
	for !pause(ctx, time.Second) {
		if whole, err := r.replicated(ctx); err == nil && whole {
			break
		}
	}
	return nil
}

// measure compares the silences: half as long again as the plain consumer's is too much,
// where it is felt at all.
func (r *run) measure(node int32, healthy []int32) {
	now := time.Now()
	ours, theirs := r.checker.main.worst(healthy, now), r.plain.worst(healthy, now)
	r.ours, r.theirs = max(r.ours, ours), max(r.theirs, theirs)
	line := fmt.Sprintf("broker %d killed: healthy partitions silent for %.1f s, for a plain consumer %.1f s", node, ours.Seconds(), theirs.Seconds())
	fmt.Println(line)
	if ours > max(theirs*3/2, time.Second) {
		r.slow = append(r.slow, line)
	}
}

// healthyWithout lists the main topic's partitions that other nodes lead.
func (r *run) healthyWithout(ctx context.Context, node int32) (healthy []int32, err error) {
	topics, err := r.adm.ListTopics(ctx, r.c.prefix+"-main")
	for _, t := range topics {
		for _, p := range t.Partitions {
			if p.Leader != node {
				healthy = append(healthy, p.Partition)
			}
		}
	}
	return healthy, err
}

func (r *run) replicated(ctx context.Context) (bool, error) {
	topics, err := r.adm.ListTopicsWithInternal(ctx)
	if err != nil {
		return false, err
	}
	for _, t := range topics {
		for _, p := range t.Partitions {
			if len(p.ISR) < len(p.Replicas) {
				return false, nil
			}
		}
	}
	return true, nil
}

func stillGoing(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// drain waits until everything is committed: what has not ended by then never will. Two
// looks, since a record may go from a topic that was looked at late to one that was early.
func (r *run) drain(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	for quiet := 0; quiet < 2 && !pause(limited, 2*time.Second); {
		quiet++
		if r.lag(limited) != 0 {
			quiet = 0
		}
	}
}

// lag is how much of the main topic and the retry topics is not committed.
func (r *run) lag(ctx context.Context) (n int64) {
	lags, err := r.adm.Lag(ctx, r.c.prefix, r.c.prefix+"-retry")
	if err != nil || lags.Error() != nil {
		return -1
	}
	for _, l := range lags {
		n += l.Lag.Total()
	}
	return n
}

func (r *run) readDeadLetters(ctx context.Context) error {
	topic := r.c.prefix + "-dlq"
	listed, err := r.adm.ListEndOffsets(ctx, topic)
	if err != nil {
		return err
	}
	ends := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return readDeadLetters(limited, r.cl, topic, ends, r.checker)
}

// report shows how it goes.
func (r *run) report(ctx context.Context) {
	for !pause(ctx, 10*time.Second) {
		fmt.Printf("%v %s\n", time.Since(r.began).Round(time.Second), r.checker.progress())
	}
}

// verdict tells how it went.
func (r *run) verdict() error {
	line, broken := r.checker.verdict(r.ours, r.theirs)
	for _, l := range r.checker.ends() {
		fmt.Println(l)
	}
	for _, e := range r.checker.examples {
		fmt.Println(e)
	}
	fmt.Printf("%d processes killed, %d terminated, %d brokers killed\n", r.killed, r.terminated, r.crashed)
	fmt.Println(line)
	switch {
	case broken:
		return errors.New("a promise was broken")
	case len(r.slow) > 0:
		return fmt.Errorf("silent for more than 1.5 times as long as a plain consumer: %v", r.slow)
	}
	return nil
}
