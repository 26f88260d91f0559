package kstage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// topicAdmin asks brokers about topics. It does so with requests of its own:
// what a broker refuses for one topic must not hide the others, and an answer
// must not come from a cache.
type topicAdmin struct{ client *kgo.Client }

// ping asks any broker for a sign of life. It finds wrong credentials, which
// other requests do not tell of: also where only one of several brokers can be
// reached, and that one refuses them.
func (a topicAdmin) ping(ctx context.Context) error {
	err := a.client.Ping(ctx)
	if err == nil || isAuthentication(err) || ctx.Err() != nil {
		return err
	}
	for _, seed := range a.client.SeedBrokers() {
		req := kmsg.NewPtrMetadataRequest()
		req.Topics = []kmsg.MetadataRequestTopic{}
		if _, e := seed.Request(ctx, req); e == nil || isAuthentication(e) {
			return e
		}
	}
	return err
}

// within answers when ctx ends although the client may not: it looks at a context
// between connections, not while it makes one. What is still under way then ends
// with the client.
func within[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	got := make(chan answer, 1)
	go func() {
		v, err := ask()
		got <- answer{v, err}
	}()
	select {
	case a := <-got:
		return a.v, a.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// look sees which of the topics there are.
func (a topicAdmin) look(ctx context.Context, t Topology) (*sight, error) {
	s := &sight{topics: map[string]topicFacts{}, refused: map[string]error{}}
	isMain := t.matcher()
	if t.Pattern != "" {
		if err := a.see(ctx, s, nil, isMain); err != nil {
			return nil, err
		}
	}
	own := t.own()
	names := slices.Concat(t.Topics, own)
	if len(names) == 0 {
		return s, nil
	}
	return s, a.see(ctx, s, names, func(name string) bool { return isMain(name) || slices.Contains(own, name) })
}

// see asks for the named topics, or all, and notes those that are wanted.
func (a topicAdmin) see(ctx context.Context, s *sight, names []string, wanted func(string) bool) error {
	req := kmsg.NewPtrMetadataRequest()
	for _, name := range names {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr(name)
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, a.client)
	if err != nil {
		return err
	}
	s.brokers = len(resp.Brokers)
	for i := range resp.Topics {
		t := &resp.Topics[i]
		if t.Topic == nil || t.IsInternal || !wanted(*t.Topic) {
			continue
		}
		if err := s.note(*t.Topic, t); err != nil {
			return err
		}
	}
	return nil
}

// note takes one topic of a metadata answer.
func (s *sight) note(name string, t *kmsg.MetadataResponseTopic) error {
	switch err := kerr.ErrorForCode(t.ErrorCode); {
	case err == nil:
		f := topicFacts{id: t.TopicID, partitions: len(t.Partitions)}
		for _, p := range t.Partitions {
			f.replicas = max(f.replicas, len(p.Replicas))
		}
		s.topics[name] = f
	case isUnknownTopic(err):
		s.missing = append(s.missing, name)
	case isAuthorization(err):
		s.forbidden = append(s.forbidden, name)
	default:
		return fmt.Errorf("topic %q: %w", name, err)
	}
	return nil
}

// configure sees the settings of the topics, as far as that is allowed. A topic
// that went meanwhile, or has not yet come to the broker that is asked, keeps
// what is known of it.
func (a topicAdmin) configure(ctx context.Context, s *sight) error {
	if len(s.topics) == 0 {
		return nil
	}
	req := kmsg.NewPtrDescribeConfigsRequest()
	for name := range s.topics {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
		req.Resources = append(req.Resources, r)
	}
	resp, err := req.RequestWith(ctx, a.client)
	if err != nil {
		return err
	}
	for i := range resp.Resources {
		r := &resp.Resources[i]
		f := s.topics[r.ResourceName]
		switch err := kerr.ErrorForCode(r.ErrorCode); {
		case err == nil:
			f.configs = map[string]string{}
			for _, c := range r.Configs {
				if c.Value != nil {
					f.configs[c.Name] = *c.Value
				}
			}
			s.topics[r.ResourceName] = f
		case isAuthorization(err), isUnknownTopic(err):
		default:
			return fmt.Errorf("settings of topic %q: %w", r.ResourceName, err)
		}
	}
	return nil
}

// provision creates what is missing. What cannot be created stays missing, and
// so does what somebody else has created at the same moment: the next look sees it.
func (a topicAdmin) provision(ctx context.Context, t Topology, s *sight) error {
	own, configured := t.own(), false
	for _, name := range s.creationOrder(t) {
		if !configured && slices.Contains(own, name) { // it follows main topics that were made a moment ago
			configured = true
			if err := a.configure(ctx, s); err != nil {
				return err
			}
		}
		made, refused, err := a.create(ctx, name, blueprint(t, s, name))
		switch {
		case err != nil:
			return err
		case refused == nil:
			s.topics[name] = made
			s.missing = slices.DeleteFunc(s.missing, func(other string) bool { return other == name })
		case !errors.Is(refused, kerr.TopicAlreadyExists):
			s.refused[name] = refused
		}
	}
	return nil
}

var errNoTopic = errors.New("kstage: the broker's answer leaves the topic out")

// create makes one topic. refused is the broker's answer, err that there was none.
func (a topicAdmin) create(ctx context.Context, name string, f topicFacts) (made topicFacts, refused, err error) {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, int32(f.partitions), int16(f.replicas)
	for k, v := range f.configs {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = k, kmsg.StringPtr(v)
		t.Configs = append(t.Configs, c)
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, a.client)
	if err != nil {
		return f, nil, err
	}
	if len(resp.Topics) != 1 {
		return f, errNoTopic, nil
	}
	made, refused = created(f, &resp.Topics[0])
	return made, refused, nil
}

// created reads the answer to a creation; a broker before Kafka 2.4 tells nothing
// but that it was done.
func created(f topicFacts, answer *kmsg.CreateTopicsResponseTopic) (made topicFacts, refused error) {
	if err := kerr.ErrorForCode(answer.ErrorCode); err != nil {
		if answer.ErrorMessage != nil && *answer.ErrorMessage != "" {
			err = fmt.Errorf("%w (%s)", err, *answer.ErrorMessage)
		}
		return f, err
	}
	made = topicFacts{id: answer.TopicID, partitions: int(answer.NumPartitions), replicas: int(answer.ReplicationFactor), configs: maps.Clone(f.configs)}
	for _, c := range answer.Configs {
		if c.Value != nil {
			made.configs[c.Name] = *c.Value
		}
	}
	return made, nil
}

// lookInto sees the topics with their settings, after creating what is missing
// where it may.
func (a topicAdmin) lookInto(ctx context.Context, t Topology, p Provisioning) (*sight, error) {
	s, err := a.look(ctx, t)
	if err != nil {
		return nil, err
	}
	if p == CreateTopics {
		if err := a.provision(ctx, t, s); err != nil {
			return nil, err
		}
	}
	return s, a.configure(ctx, s)
}
