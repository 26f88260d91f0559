package kstage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"go.uber.org/zap"
)

const (
	headerReserve     = 16 << 10 // a copy may be so much larger than its source
	dlqRetention      = 14 * 24 * time.Hour
	defaultBatchBytes = 1_000_012 // the client's and the broker's default
	mostBatchBytes    = 64 << 20
	leastBatchBytes   = 512 // the client accepts no less
	missingLimit      = 30 * time.Second
	grantLook         = "DESCRIBE and DESCRIBE_CONFIGS on the topics (and CREATE, to create them)"
)

// report is what a look at the topics has found.
type report struct {
	topics   map[string]topicFacts // those that could be seen
	problems []TopicProblem
}

// topicFacts is what is known of one topic.
type topicFacts struct {
	id         kadm.TopicID
	partitions int
	replicas   int
	configs    map[string]string // nil: they may not be seen
}

// err is nil while there are only warnings.
func (r *report) err() error {
	if slices.ContainsFunc(r.problems, func(p TopicProblem) bool { return !p.Warning }) {
		return &TopologyError{Problems: r.problems}
	}
	return nil
}

func (r *report) add(topic string, warning bool, fix, what string, args ...any) {
	r.problems = append(r.problems, TopicProblem{Topic: topic, What: fmt.Sprintf(what, args...), Fix: fix, Warning: warning})
}

// look looks at all topics, creates those that are missing where it may, and
// judges what it sees. An error says that it could not look.
func look(ctx context.Context, adm *kadm.Client, t Topology, create bool) (*report, error) {
	seen, err := see(ctx, adm, t)
	if err != nil {
		return nil, err
	}
	r := &report{topics: seen.topics}
	if create && len(seen.missing) > 0 {
		seen.create(ctx, adm, t, r)
	}
	seen.judge(t, r)
	return r, nil
}

// sight is what the brokers say.
type sight struct {
	topics    map[string]topicFacts
	sources   []string // main topics among them
	missing   []string
	forbidden []string // may not be seen: they may be missing, too
	noConfigs error    // configs may not be seen
	brokers   int
}

func see(ctx context.Context, adm *kadm.Client, t Topology) (*sight, error) {
	names := slices.Clone(t.Topics)
	if t.DLQ != "" {
		names = append(names, t.DLQ)
	}
	if t.Pattern != "" {
		names = nil // all
	}
	md, err := adm.Metadata(ctx, names...)
	if err != nil {
		return nil, err
	}
	s := &sight{topics: map[string]topicFacts{}, brokers: len(md.Brokers)}
	isMain := t.matcher()
	for _, d := range md.Topics.Sorted() {
		if !d.IsInternal && (isMain(d.Topic) || d.Topic == t.DLQ) {
			if err := s.note(d); err != nil {
				return nil, err
			}
		}
	}
	if _, ok := s.topics[t.DLQ]; t.Pattern != "" && t.DLQ != "" && !ok && !slices.Contains(s.forbidden, t.DLQ) {
		s.missing = append(s.missing, t.DLQ)
	}
	for name := range s.topics {
		if isMain(name) {
			s.sources = append(s.sources, name)
		}
	}
	slices.Sort(s.sources)
	return s, s.seeConfigs(ctx, adm)
}

// note takes one topic of a metadata answer.
func (s *sight) note(d kadm.TopicDetail) error {
	switch {
	case d.Err == nil:
		s.topics[d.Topic] = topicFacts{id: d.ID, partitions: len(d.Partitions), replicas: d.Partitions.NumReplicas()}
	case errors.Is(d.Err, kerr.UnknownTopicOrPartition):
		s.missing = append(s.missing, d.Topic)
	case isAuthorization(d.Err):
		s.forbidden = append(s.forbidden, d.Topic)
	default:
		return fmt.Errorf("topic %s: %w", d.Topic, d.Err)
	}
	return nil
}

func (s *sight) seeConfigs(ctx context.Context, adm *kadm.Client) error {
	if len(s.topics) == 0 {
		return nil
	}
	rcs, err := adm.DescribeTopicConfigs(ctx, slices.Sorted(maps.Keys(s.topics))...)
	if err != nil {
		if isAuthorization(err) {
			s.noConfigs = err
			return nil
		}
		return err
	}
	for _, rc := range rcs {
		f := s.topics[rc.Name]
		if rc.Err != nil {
			s.noConfigs = rc.Err
			continue
		}
		f.configs = map[string]string{}
		for _, c := range rc.Configs {
			f.configs[c.Key] = c.MaybeValue()
		}
		s.topics[rc.Name] = f
	}
	return nil
}

// create makes what is missing: main topics first, since the others follow them.
func (s *sight) create(ctx context.Context, adm *kadm.Client, t Topology, r *report) {
	var left []string
	for _, name := range s.missing {
		if err := s.createOne(ctx, adm, t, name); err != nil {
			r.add(name, false, "create it, or grant CREATE on it", "it is missing and cannot be created: %v", err)
			left = append(left, name)
		}
	}
	s.missing = nil
	s.forbidden = slices.DeleteFunc(s.forbidden, func(name string) bool { return slices.Contains(left, name) })
}

func (s *sight) createOne(ctx context.Context, adm *kadm.Client, t Topology, name string) error {
	f := topicFacts{partitions: -1, replicas: -1}
	configs := map[string]*string{}
	if name == t.DLQ {
		f = s.likeSources()
		configs["cleanup.policy"] = kadm.StringPtr("delete")
		configs["retention.ms"] = kadm.StringPtr(strconv.FormatInt(dlqRetention.Milliseconds(), 10))
		if n := s.mostBytes(); n > 0 {
			configs["max.message.bytes"] = kadm.StringPtr(strconv.Itoa(n + headerReserve))
		}
	}
	made, err := adm.CreateTopic(ctx, int32(f.partitions), int16(f.replicas), configs, name)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return explain(err, fmt.Sprintf("CREATE on topic %q", name))
	}
	f = topicFacts{id: made.ID, partitions: int(made.NumPartitions), replicas: int(made.ReplicationFactor)}
	if f.configs = map[string]string{}; err == nil {
		for k, v := range configs {
			f.configs[k] = *v
		}
		s.topics[name] = f
		if name != t.DLQ {
			s.sources = append(s.sources, name)
		}
	}
	return nil
}

// likeSources is the size of the largest main topic; the broker's defaults where there is none.
func (s *sight) likeSources() topicFacts {
	f := topicFacts{partitions: -1, replicas: -1}
	for _, name := range s.sources {
		f.partitions = max(f.partitions, s.topics[name].partitions)
		f.replicas = max(f.replicas, s.topics[name].replicas)
	}
	return f
}

// mostBytes is the largest max.message.bytes of the main topics; 0: not known.
func (s *sight) mostBytes() (n int) {
	for _, name := range s.sources {
		if v, ok := s.topics[name].number("max.message.bytes"); ok {
			n = max(n, v)
		}
	}
	return n
}

func (f topicFacts) number(key string) (int, bool) {
	n, err := strconv.Atoi(f.configs[key])
	return n, err == nil
}

// judge says what is wrong with what was seen.
func (s *sight) judge(t Topology, r *report) {
	for _, name := range s.missing {
		r.add(name, false, "create it, or use WithTopicProvisioning(CreateTopics)", "it does not exist")
	}
	for _, name := range s.forbidden {
		r.add(name, true, fmt.Sprintf("create it if need be, and grant DESCRIBE on topic %q", name), "it may not be seen, or does not exist")
	}
	if s.noConfigs != nil {
		r.add("the topics", true, "grant DESCRIBE_CONFIGS on them", "their settings may not be seen: %v", s.noConfigs)
	}
	for _, name := range slices.Sorted(maps.Keys(s.topics)) {
		s.judgeDurability(name, r)
	}
	if _, ok := s.topics[t.DLQ]; ok {
		s.judgeDLQ(t.DLQ, r)
	}
}

// judgeDurability warns of a topic that one broker's death can hurt, where there are three.
func (s *sight) judgeDurability(name string, r *report) {
	f := s.topics[name]
	if s.brokers < 3 {
		return
	}
	if f.replicas > 0 && f.replicas < 3 {
		r.add(name, true, "use 3", "replication factor %d: records can be lost with a broker", f.replicas)
	}
	if n, ok := f.number("min.insync.replicas"); ok && n < 2 {
		r.add(name, true, "use 2", "min.insync.replicas %d: an acknowledged record may be on one broker only", n)
	}
}

func (s *sight) judgeDLQ(name string, r *report) {
	f := s.topics[name]
	if policy := f.configs["cleanup.policy"]; policy != "" && policy != "delete" {
		r.add(name, false, "use delete", "cleanup.policy is %s: compaction would delete dead letters", policy)
	}
	if n, ok := f.number("retention.ms"); ok && n >= 0 && time.Duration(n)*time.Millisecond < dlqRetention {
		r.add(name, true, "set retention.ms to 1209600000 or more", "dead letters are deleted after %v: somebody has to see them before", time.Duration(n)*time.Millisecond)
	}
	if n, ok := f.number("max.message.bytes"); ok && n < s.mostBytes()+headerReserve {
		r.add(name, true, fmt.Sprintf("set it to %d or more", s.mostBytes()+headerReserve),
			"max.message.bytes %d: a large record's dead letter does not fit", n)
	}
}

// prepare waits until a broker answers and the topics are fit for use. It logs
// warnings and tells the hand-off what its target takes.
func (c *Consumer) prepare(ctx context.Context, adm *kadm.Client) error {
	started := time.Now()
	var missingSince time.Time
	for n := 1; ; n++ {
		r, err := c.tryPrepare(ctx, adm)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && r.err() == nil:
			c.reached(r)
			return nil
		case err == nil: // a topic may have been created a moment ago: brokers learn of it one by one
			if missingSince.IsZero() {
				missingSince = time.Now()
			}
			c.showMissing(r)
			if time.Since(missingSince) >= missingLimit || !onlyMissing(r) {
				return r.err()
			}
			wait(ctx, time.Second, nil)
			continue
		case isAuthentication(err), isAuthorization(err):
			return explain(err, grantLook)
		}
		c.unreached(err)
		if t := c.cfg.startTimeout; t > 0 && time.Since(started) >= t {
			return fmt.Errorf("kstage: no broker answered within %v (WithStartTimeout): %w", t, err)
		}
		wait(ctx, startBackoff.limit(n), nil)
	}
}

// startBackoff paces the tries to reach a broker.
var startBackoff = Backoff{Min: 250 * time.Millisecond, Max: 5 * time.Second} //nolint:gochecknoglobals // a constant in all but type

// tryPrepare asks once. The ping finds wrong credentials, which other requests do not tell.
func (c *Consumer) tryPrepare(ctx context.Context, adm *kadm.Client) (*report, error) {
	limit := lookTimeout
	if t := c.cfg.startTimeout; t > 0 {
		limit = min(limit, t)
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := c.handOff.client.Ping(limited); err != nil {
		return nil, err
	}
	if c.cfg.provisioning == TrustTopics {
		return &report{}, nil
	}
	return look(limited, adm, c.cfg.topology(), c.cfg.provisioning == CreateTopics)
}

// onlyMissing says that waiting may help.
func onlyMissing(r *report) bool {
	return !slices.ContainsFunc(r.problems, func(p TopicProblem) bool { return !p.Warning && p.What != "it does not exist" })
}

func (c *Consumer) showMissing(r *report) {
	for _, p := range r.problems {
		if !p.Warning {
			c.board.raise(HealthReason{Kind: HealthTopicMissing, Topic: p.Topic, Partition: -1})
		}
	}
}

// unreached logs the first failure of a row.
func (c *Consumer) unreached(err error) {
	if c.board.raise(HealthReason{Kind: HealthDisconnected, Partition: -1, Err: err}) {
		c.cfg.logger.Warn("no broker can be reached; trying on", zap.Strings("brokers", c.cfg.brokers), zap.Error(err))
	}
}

func (c *Consumer) reached(r *report) {
	if c.board.clear(HealthDisconnected, "", -1) {
		c.cfg.logger.Info("a broker was reached")
	}
	c.board.replace(HealthTopicMissing, nil)
	for _, p := range r.problems {
		c.cfg.logger.Warn("topic: "+p.What, zap.String("topic", p.Topic), zap.String("fix", p.Fix))
	}
	if n, ok := r.topics[c.cfg.dlqName()].number("max.message.bytes"); ok {
		c.handOff.batchSize[c.cfg.dlqName()] = int32(min(max(n, leastBatchBytes), mostBatchBytes))
	}
}
