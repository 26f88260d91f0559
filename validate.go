package kstage

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	rebalanceTimeout = time.Minute // kgo's default, set explicitly
	maxRevokeDrain   = rebalanceTimeout / 3
	maxTopicName     = 249
	maxClientID      = 256                   // of the client
	minFetchWait     = 10 * time.Millisecond // of the client
	maxFetchWait     = time.Minute
	maxReadBytes     = 100 << 20 // a larger response is refused
	maxBatchBytes    = 64 << 20  // a batch that decompresses to more is refused
)

// newConsumerConfig applies opts to the defaults and checks the result.
// The error joins every mistake.
func newConsumerConfig(h Handler, opts []ConsumerOption) (consumerConfig, error) {
	c := applyConsumerOptions(opts)
	var errs mistakes
	errs.check(!isNil(h), "NewConsumer needs a handler, not a nil %T", h)
	c.commonConfig.validate(&errs)
	c.validate(&errs)
	if len(errs) == 0 {
		c.handler = wrap(h, c.middleware)
		errs.check(!isNil(c.handler), "WithMiddleware: one returned no handler")
	}
	return c, errs.join()
}

// isNil also says so of a nil pointer or function in an interface: calling it
// would panic with each record.
func isNil(v any) bool {
	r := reflect.ValueOf(v)
	k := r.Kind()
	return k == reflect.Invalid || (k == reflect.Pointer || k == reflect.Func) && r.IsNil()
}

func applyConsumerOptions(opts []ConsumerOption) consumerConfig {
	c := defaultConsumerConfig()
	for _, o := range opts {
		if o != nil {
			o.applyConsumer(&c)
		}
	}
	return c
}

// mistakes collects what is wrong with the options.
type mistakes []error

func (m *mistakes) add(format string, args ...any) {
	*m = append(*m, fmt.Errorf("kstage: "+format, args...))
}

func (m *mistakes) check(ok bool, format string, args ...any) {
	if !ok {
		m.add(format, args...)
	}
}

func (m *mistakes) join() error { return errors.Join(*m...) }

func (c *commonConfig) validate(m *mistakes) {
	m.check(len(c.brokers) > 0, "WithBrokers is required")
	m.check(!slices.Contains(c.brokers, ""), "WithBrokers: an address is empty")
	for _, addr := range c.brokers {
		if err := kgo.ValidateOpts(kgo.SeedBrokers(addr)); err != nil {
			m.add("WithBrokers: address %q: %w", addr, err)
		}
	}
	m.check(c.clientID != "", "WithClientID: the id is empty")
	m.check(len(c.clientID) <= maxClientID, "WithClientID: the id has %d bytes, %d are allowed", len(c.clientID), maxClientID)
	m.check(c.sasl == nil || !isNil(c.sasl), "WithSASL: the mechanism is a nil %T", c.sasl)
	m.check(!isNil(c.metrics), "WithMetrics: the collector is a nil %T", c.metrics)
}

func (c *consumerConfig) validate(m *mistakes) {
	c.validateSource(m)
	c.validateNames(m)
	c.validateHandling(m)
	c.validateBounds(m)
	c.validateEnums(m)
}

func (c *consumerConfig) validateSource(m *mistakes) {
	m.check(c.group != "", "WithGroup is required")
	m.check(len(c.group) <= maxShortText && utf8.ValidString(c.group), "WithGroup: the id is to be UTF-8 of at most %d bytes, it stands in headers", maxShortText)
	m.check(len(c.topics) > 0 || c.pattern != "", "WithTopics or WithTopicPattern is required")
	if _, err := regexp.Compile(c.pattern); err != nil {
		m.add("WithTopicPattern: %w", err)
	}
}

// validateNames checks that every topic is legal in Kafka and has one role.
func (c *consumerConfig) validateNames(m *mistakes) {
	seen := map[string]string{}
	for _, t := range c.topics {
		if err := checkTopicName(t); err != nil {
			m.add("WithTopics: %w", err)
		}
		if seen[t] != "" {
			m.add("WithTopics: %q is named twice", t)
		}
		seen[t] = "WithTopics"
	}
	if c.group != "" || c.retryPrefix != "" {
		c.validateStageNames(m, seen)
	}
	if c.dead != 0 || (c.group == "" && c.dlqTopic == "") {
		return
	}
	dlq, option := c.dlqName(), "WithDLQTopic"
	if err := checkTopicName(dlq); err != nil {
		if c.dlqTopic == "" {
			m.add("WithGroup: the default name of the dead-letter topic is illegal, set WithDLQTopic: %w", err)
		} else {
			m.add("%s: %w", option, err)
		}
	}
	if by := seen[dlq]; by != "" {
		m.add("%s: %q is named by %s, too; every topic has one role", option, dlq, by)
	}
}

// dlqName is the dead-letter topic's name; empty without one.
func (c *consumerConfig) dlqName() string {
	switch {
	case c.dead != 0:
		return ""
	case c.dlqTopic != "":
		return c.dlqTopic
	}
	return c.group + "-dlq"
}

// ownTopicPatterns are what a topic pattern must not match.
func (c *consumerConfig) ownTopicPatterns() []string {
	return ownTopicPatterns(c.dlqName(), c.group+retrySuffix, c.prefix())
}

// checkTopicName says what Kafka would refuse.
func checkTopicName(name string) error {
	switch {
	case name == "":
		return errors.New("a topic name is empty")
	case len(name) > maxTopicName:
		return fmt.Errorf("topic name %q has %d characters, %d are allowed", name, len(name), maxTopicName)
	case name == "." || name == "..":
		return fmt.Errorf("topic name %q is illegal", name)
	}
	for _, r := range name {
		if !legalInTopicName(r) {
			return fmt.Errorf("topic name %q: %q is not one of a-z A-Z 0-9 . _ -", name, r)
		}
	}
	return nil
}

func legalInTopicName(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-'
}

func (c *consumerConfig) validateHandling(m *mistakes) {
	m.check(c.workers >= 1, "WithWorkers(%d): at least 1", c.workers)
	m.check(!slices.ContainsFunc(c.middleware, func(w Middleware) bool { return w == nil }), "WithMiddleware: one is nil")
	m.check(c.handlerTimeout >= 0, "WithHandlerTimeout(%v): not negative", c.handlerTimeout)
	m.check(c.stuckAfter > 0, "WithStuckAfter(%v): more than 0", c.stuckAfter)
	c.validateStages(m)
	c.validateDedupe(m)
	m.check(c.maxAge >= 0, "WithMaxAge(%v): not negative", c.maxAge)
	m.check(c.immediate >= 0, "WithImmediateRetries(%d): not negative", c.immediate)
	if c.immediate > 0 {
		b := c.immediateBackoff
		m.check(b.Min > 0 && b.Min <= b.Max, "WithImmediateRetries: back-off from %v to %v: Min more than 0, Max at least Min", b.Min, b.Max)
	}
}

func (c *consumerConfig) validateBounds(m *mistakes) {
	f, w := c.fetch, c.window
	m.check(f.MinBytes > 0 && f.MaxBytes > 0 && f.MaxPartitionBytes > 0 && f.MaxWait > 0, "WithFetch: nothing may be negative")
	m.check(f.MaxWait <= 0 || f.MaxWait >= minFetchWait && f.MaxWait <= maxFetchWait, "WithFetch: MaxWait %v: from %v to %v", f.MaxWait, minFetchWait, maxFetchWait)
	m.check(f.MaxBytes >= f.MinBytes || f.MaxBytes < 0, "WithFetch: MaxBytes %d is less than MinBytes %d", f.MaxBytes, f.MinBytes)
	m.check(f.MaxBytes <= maxReadBytes, "WithFetch: MaxBytes %d is more than %d", f.MaxBytes, maxReadBytes)
	m.check(w.Records > 0 && w.Bytes > 0 && w.Span > 0, "WithWindow: nothing may be negative")
	m.check(c.memoryBudget > 0, "WithMemoryBudget(%d): more than 0", c.memoryBudget)
	m.check(c.commitInterval > 0, "WithCommitInterval(%v): more than 0", c.commitInterval)
	m.check(c.revokeDrain >= 0 && c.revokeDrain <= maxRevokeDrain, "WithRevokeDrain(%v): from 0 to %v, a third of the rebalance timeout", c.revokeDrain, maxRevokeDrain)
	m.check(c.softShutdown >= 0 && c.hardShutdown > 0, "WithShutdownTimeout(%v, %v): soft not negative, hard more than 0", c.softShutdown, c.hardShutdown)
	m.check(c.startTimeout >= 0, "WithStartTimeout(%v): not negative", c.startTimeout)
}

func (c *consumerConfig) validateEnums(m *mistakes) {
	m.check(c.ordering >= ByKey && c.ordering <= Unordered, "WithOrdering(%d): unknown", c.ordering)
	m.check(c.startOffset >= Earliest && c.startOffset <= Latest, "WithStartOffset(%d): unknown", c.startOffset)
	m.check(c.isolation >= ReadCommitted && c.isolation <= ReadUncommitted, "WithIsolation(%d): unknown", c.isolation)
	m.check(c.onGap >= ContinueOnGap && c.onGap <= StopOnGap, "WithOnGap(%d): unknown", c.onGap)
	m.check(c.provisioning >= VerifyTopics && c.provisioning <= TrustTopics, "WithTopicProvisioning(%d): unknown", c.provisioning)
	m.check(c.dead >= 0 && c.dead <= Stop, "WithoutDLQ(%d): unknown", c.dead)
	m.check(c.dlqOversize >= OversizeBlock && c.dlqOversize <= OversizeReference, "DLQOversize(%d): unknown", c.dlqOversize)
}
