package kstage

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// consumerConfig is everything that the options of a Consumer say.
// It is immutable once validate accepted it.
type consumerConfig struct {
	commonConfig

	group      string
	instanceID string
	topics     []string
	pattern    string
	nextGen    bool

	workers        int
	ordering       Ordering
	middleware     []Middleware
	handler        Handler // middleware folded in; set once all options are accepted
	handlerTimeout time.Duration
	stuckAfter     time.Duration

	delays           []time.Duration // of the stages
	retryPrefix      string          // empty: the default name
	retryGroup       string          // empty: the default name
	immediate        int
	immediateBackoff Backoff
	maxAge           time.Duration
	classifier       func(error) Class

	dead          DeadPolicy // zero: the dead-letter queue
	dlqTopic      string     // empty: the default name
	dlqStack      bool
	dlqOversize   Oversize
	errorRedactor func(string) string

	dedupe         DedupeStore // nil: none
	dedupeLease    time.Duration
	dedupeFailOpen bool
	messageID      func(*kgo.Record) string // nil: none

	startOffset    StartOffset
	isolation      Isolation
	onGap          GapPolicy
	fetch          Fetch
	window         Window
	memoryBudget   int64
	commitInterval time.Duration
	revokeDrain    time.Duration
	softShutdown   time.Duration
	hardShutdown   time.Duration
	startTimeout   time.Duration
	provisioning   Provisioning
}

// defaultConsumerConfig is the table of defaults in README.md; a test compares the two.
func defaultConsumerConfig() consumerConfig {
	return consumerConfig{
		commonConfig:     defaultCommonConfig(),
		workers:          16,
		stuckAfter:       5 * time.Minute,
		immediate:        2,
		immediateBackoff: Backoff{Min: 100 * time.Millisecond, Max: time.Second},
		fetch:            defaultFetch(),
		window:           defaultWindow(),
		memoryBudget:     256 << 20,
		commitInterval:   time.Second,
		revokeDrain:      5 * time.Second,
		softShutdown:     25 * time.Second,
		hardShutdown:     5 * time.Second,
	}
}

func defaultFetch() Fetch {
	return Fetch{MinBytes: 1, MaxBytes: 16 << 20, MaxPartitionBytes: 1 << 20, MaxWait: 500 * time.Millisecond}
}

func defaultWindow() Window { return Window{Records: 50_000, Bytes: 8 << 20, Span: 200_000} }

// --- what is consumed

// WithGroup sets the consumer group: UTF-8 of at most 512 bytes, since it stands in
// headers. Retry topics, their group and the dead-letter topic are named after it,
// see WithRetryTopicPrefix, WithRetryGroup, WithDLQTopic. Required.
func WithGroup(id string) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.group = id })
}

// WithInstanceID makes this consumer a static member: it does not leave the
// group when it stops, and takes its partitions back when it starts again
// within the session timeout (45 s). Each process needs an id of its own: a
// second one with the same id ends the first's Run with an error.
func WithInstanceID(id string) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.instanceID = id })
}

// WithTopics sets the topics to consume. Either these or WithTopicPattern is
// required; the later of the two counts.
func WithTopics(names ...string) ConsumerOption {
	names = slices.Clone(names)
	return consumerOption(func(c *consumerConfig) { c.topics, c.pattern = names, "" })
}

// WithTopicPattern consumes every topic whose name the regular expression
// matches, anywhere in the name: anchor it with ^ and $. The consumer's own
// retry topics, its dead-letter topic and internal topics never match. Topics created
// later are found within 30 s.
func WithTopicPattern(re string) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.topics, c.pattern = nil, re })
}

// WithNextGenGroup uses the KIP-848 group protocol. Experimental: the client
// dials a refusing coordinator without a pause.
func WithNextGenGroup() ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.nextGen = true })
}

// StartOffset is where a group begins that has no committed offset, or one that
// no longer exists.
type StartOffset int

const (
	// Earliest begins with the oldest record.
	Earliest StartOffset = iota
	// Latest begins with what is produced from then on. Records that come
	// between two members' first looks can be missed.
	Latest
)

// WithStartOffset sets where a new group begins. Default: Earliest.
func WithStartOffset(o StartOffset) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.startOffset = o })
}

// Isolation says whether records of open and aborted transactions are read.
type Isolation int

const (
	// ReadCommitted reads committed records only, and waits behind open transactions.
	ReadCommitted Isolation = iota
	// ReadUncommitted reads everything.
	ReadUncommitted
)

// WithIsolation sets what is read of transactions. Default: ReadCommitted.
func WithIsolation(i Isolation) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.isolation = i })
}

// GapPolicy says what to do when records were deleted before they were read.
type GapPolicy int

const (
	// ContinueOnGap goes on behind the gap, and says so: a log line, and
	// HealthGap for five minutes.
	ContinueOnGap GapPolicy = iota
	// StopOnGap ends Run with a *GapError before anything behind the gap is handled.
	StopOnGap
)

// WithOnGap sets what happens when retention was faster than the consumer.
// Default: ContinueOnGap.
func WithOnGap(p GapPolicy) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.onGap = p })
}

// Fetch tunes the requests for records of the main topics; those for retry topics
// have settings of their own. A zero field is the default.
type Fetch struct {
	MinBytes          int32         // the broker waits for so much, default 1
	MaxBytes          int32         // of one response, default 16 MiB
	MaxPartitionBytes int32         // of one partition in one response, default 1 MiB
	MaxWait           time.Duration // the broker waits at most so long, 10 ms to 1 m, default 500 ms; a resumed partition may be silent so long
}

// WithFetch sets how records are fetched.
func WithFetch(f Fetch) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.fetch = f.withDefaults() })
}

func (f Fetch) withDefaults() Fetch {
	d := defaultFetch()
	return Fetch{
		MinBytes:          orDefault(f.MinBytes, d.MinBytes),
		MaxBytes:          orDefault(f.MaxBytes, d.MaxBytes),
		MaxPartitionBytes: orDefault(f.MaxPartitionBytes, d.MaxPartitionBytes),
		MaxWait:           orDefault(f.MaxWait, d.MaxWait),
	}
}

// WithTopicProvisioning sets whether topics are looked at, or made, before
// anything is consumed. Default: VerifyTopics.
func WithTopicProvisioning(p Provisioning) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.provisioning = p })
}

// --- how it is handled

// Ordering is what is handled one after the other.
type Ordering int

const (
	// ByKey handles records with the same key of the same partition in offset
	// order, one at a time. Records with a nil key have no order; an empty key is a key.
	ByKey Ordering = iota
	// ByPartition handles the records of a partition in offset order, one at a time.
	ByPartition
	// Unordered handles records in any order.
	Unordered
)

// WithOrdering sets what is handled in order. Default: ByKey.
func WithOrdering(o Ordering) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.ordering = o })
}

// WithWorkers bounds how many handlers run at once in this consumer, all topics
// together. Default: 16.
func WithWorkers(n int) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.workers = n })
}

// WithMiddleware wraps the handler; the first is the outermost. Several calls
// append. Each is called once, by NewConsumer, and must return a handler.
func WithMiddleware(m ...Middleware) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.middleware = append(c.middleware, m...) })
}

// WithHandlerTimeout ends a handler's context after d, with ErrHandlerTimeout as
// its cause. An error returned after that counts as a timeout; a handler that
// ignores its context is judged when it returns, never before. It costs about
// half a microsecond a record. Zero, the default: no timeout.
func WithHandlerTimeout(d time.Duration) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.handlerTimeout = d })
}

// WithStuckAfter sets how long the oldest unfinished record of a partition may
// stay the same until Health says HealthStuckRecord. Default: 5 minutes.
func WithStuckAfter(d time.Duration) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.stuckAfter = d })
}

// --- bounds and limits

// Window bounds what is held of one partition, in every state: queued, running,
// waiting for a retry or for an acknowledgement. A zero field is the default. A
// full window stops fetching until it is half empty; what was already fetched
// may overshoot the bound by one fetch. A record that waits is copied and counts
// twice until its fetched batch is done.
type Window struct {
	Records int   // default 50,000
	Bytes   int64 // keys, values and headers of the batches held; default 8 MiB
	Span    int   // received records from the oldest unfinished to the newest, default 200,000
}

// WithWindow sets the bounds of each partition.
func WithWindow(w Window) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.window = w.withDefaults() })
}

func (w Window) withDefaults() Window {
	d := defaultWindow()
	return Window{
		Records: orDefault(w.Records, d.Records),
		Bytes:   orDefault(w.Bytes, d.Bytes),
		Span:    orDefault(w.Span, d.Span),
	}
}

// WithMemoryBudget bounds the bytes held of all partitions together; those of
// retry topics have as much again. A partition that holds nothing may always take
// one fetch. Default: 256 MiB.
func WithMemoryBudget(bytes int64) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.memoryBudget = bytes })
}

// WithCommitInterval sets how often offsets are committed, where any moved.
// They also are at a rebalance and at the end. Default: 1 s.
func WithCommitInterval(d time.Duration) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.commitInterval = d })
}

// WithRevokeDrain bounds how long a rebalance waits for the running handlers of
// the partitions that leave; then their contexts end with ErrRevoked. While
// it waits this consumer fetches nothing, so it is short. Default: 5 s; at most
// a third of the rebalance timeout (20 s).
func WithRevokeDrain(d time.Duration) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.revokeDrain = d })
}

// WithShutdownTimeout bounds the end of Run: running handlers may go on for
// soft, then their contexts end with ErrShutdown; hard later Run returns in any
// case. Default: 25 s and 5 s, which fits Kubernetes' 30 s.
func WithShutdownTimeout(soft, hard time.Duration) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.softShutdown, c.hardShutdown = soft, hard })
}

// WithStartTimeout bounds how long Run tries to reach a broker at its start, in
// a row. Zero, the default: until its context ends.
func WithStartTimeout(d time.Duration) ConsumerOption {
	return consumerOption(func(c *consumerConfig) { c.startTimeout = d })
}

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}
