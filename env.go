package kstage

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// ConsumerOptionsFromEnv reads the options of a Consumer from the environment: the
// KAFKA_ variables that docs/configuration.md lists, each with its default. A variable that is
// empty counts as unset. Give these options first: a later option replaces an
// earlier one of the same name.
//
//	opts, err := kstage.ConsumerOptionsFromEnv()
//	...
//	consumer, err := kstage.NewConsumer(handler, append(opts, kstage.WithLogger(logger))...)
//
// The error joins one for each variable that is wrong: it names the variable, what it
// is, and what it takes. Passwords and tokens are in no error. Where nothing is wrong,
// NewConsumer accepts the options. Names that are almost those of a variable are logged
// as a warning, once, by NewConsumer.
//
// Files with passwords, tokens and client certificates are read again for each new
// connection, so that they may be replaced while the program runs.
func ConsumerOptionsFromEnv() ([]ConsumerOption, error) {
	return readAll(osEnvironment(), (*environment).consumer)
}

// ProducerOptionsFromEnv reads the options of a Producer from the environment, as
// ConsumerOptionsFromEnv those of a Consumer.
func ProducerOptionsFromEnv() ([]ProducerOption, error) {
	return readAll(osEnvironment(), (*environment).producer)
}

// LoggerFromEnv makes a logger that writes to standard error a JSON object a line, with the keys
// level, timestamp (RFC 3339 with milliseconds) and msg, from LOG_LEVEL on: debug, info,
// warn or error. Default: info. It samples nothing.
func LoggerFromEnv() (*zap.Logger, error) { return osEnvironment().logger(zapcore.Lock(os.Stderr)) }

// readAll returns what read has read, or what is wrong with it.
func readAll[T any](e *environment, read func(*environment) []T) ([]T, error) {
	opts := read(e)
	if err := e.wrong.join(); err != nil {
		return nil, err
	}
	return opts, nil
}

// common are the options that consumers and producers share.
func (e *environment) common() []Option {
	opts := []Option{
		WithBrokers(value(e, variable{name: "KAFKA_BROKERS", unset: "localhost:9092", takes: "host:port, or several, separated by commas"}, listOf(brokerAddress))...),
		WithClientID(value(e, variable{name: "KAFKA_CLIENT_ID", unset: defaultCommonConfig().clientID, takes: "a name of at most 256 bytes"}, textWithin(maxClientID))),
	}
	return append(opts, e.security()...)
}

// hint is what the environment may have meant. It comes last: every variable has been
// asked for.
func (e *environment) hint() Option {
	names := e.misspelt()
	return commonOption(func(c *commonConfig) { c.misspelt = names })
}

func (e *environment) consumer() (opts []ConsumerOption) {
	for _, o := range e.common() {
		opts = append(opts, o)
	}
	topics := variable{name: "KAFKA_CONSUMER_TOPIC", unset: "events", takes: "a topic, or several, separated by commas"}
	group := variable{name: "KAFKA_CONSUMER_GROUP_ID", unset: "event-processor-group", takes: "a group: UTF-8 of at most 512 bytes"}
	workers := variable{name: "KAFKA_CONSUMER_WORKERS", unset: "5", takes: "a whole number from 1 to 100000"}
	opts = append(opts,
		WithTopics(value(e, topics, topicList)...),
		WithGroup(value(e, group, textWithin(maxShortText))),
		WithWorkers(value(e, workers, wholeNumber(1, 100_000))),
	)
	opts = append(opts, e.ladder()...)
	opts = append(opts, e.reading()...)
	opts = append(opts, e.times()...)
	return append(opts, e.hint())
}

// ladder is the retry topics and the dead-letter topic.
func (e *environment) ladder() []ConsumerOption {
	prefix := variable{name: "KAFKA_RETRY_TOPIC_PREFIX", unset: "events-retry", takes: "what the names of retry topics begin with: -1, -2 and so on follow"}
	dlq := variable{name: "KAFKA_DLQ_TOPIC", unset: "events-dlq", takes: "a topic"}
	delays := e.delays()
	name, dead := value(e, prefix, topicPrefix), value(e, dlq, topicName)
	e.roles(name, len(delays), dead)
	return []ConsumerOption{WithRetryStages(delays...), WithRetryTopicPrefix(name), WithDLQTopic(dead)}
}

const mostStages = 100

// delays are those of the retry topics: as many as either variable says.
func (e *environment) delays() []time.Duration {
	most := variable{
		name: "KAFKA_CONSUMER_RETRY_MAX", unset: "3", told: "3, or as many as KAFKA_CONSUMER_RETRY_DELAYS has",
		takes: "how many retry topics there are: a whole number from 0 to 100",
	}
	delays := variable{
		name: "KAFKA_CONSUMER_RETRY_DELAYS", told: "10s,1m,10m, then 1h each: as many as KAFKA_CONSUMER_RETRY_MAX says",
		takes: "durations such as 10s,1m,10m: each more than 0, none shorter than the one before",
	}
	n, ds := value(e, most, wholeNumber(0, mostStages)), value(e, delays, durationList)
	switch {
	case !e.isSet(delays):
		return defaultDelays(n)
	case e.isSet(most) && ds != nil && len(ds) != n && e.isRight(most):
		e.wrong.add("%s and %s: %d retry topics have %d delays, not %d; set one of the two, or make them agree",
			e.shown(most), e.shown(delays), n, n, len(ds))
	}
	return ds
}

// defaultDelays are 10 s, 1 m, 10 m, and 1 h from there on.
func defaultDelays(n int) []time.Duration {
	ds := []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute}
	for len(ds) < n {
		ds = append(ds, time.Hour)
	}
	return ds[:n]
}

// roles checks that each topic has one.
func (e *environment) roles(prefix string, stages int, dlq string) {
	role := map[string]string{}
	topics, _ := topicList(e.text(variable{name: "KAFKA_CONSUMER_TOPIC", unset: "events"}))
	for _, t := range topics {
		role[t] = "KAFKA_CONSUMER_TOPIC"
	}
	take := func(name, by string) {
		if other := role[name]; other != "" && name != "" {
			e.wrong.add("%s and %s: both name topic %q; every topic has one role", by, other, name)
		}
		role[name] = by
	}
	for k := range stages {
		if prefix != "" {
			take(fmt.Sprintf("%s-%d", prefix, k+1), "KAFKA_RETRY_TOPIC_PREFIX")
		}
	}
	take(dlq, "KAFKA_DLQ_TOPIC")
}

// reading is what is fetched, and from where on.
func (e *environment) reading() []ConsumerOption {
	least := variable{name: "KAFKA_CONSUMER_FETCH_MIN_BYTES", unset: "1024", takes: "a whole number from 1 to 104857600"}
	most := variable{name: "KAFKA_CONSUMER_FETCH_MAX_BYTES", unset: "10485760", takes: "a whole number from 1 to 104857600"}
	f := Fetch{MinBytes: int32(value(e, least, wholeNumber(1, maxReadBytes))), MaxBytes: int32(value(e, most, wholeNumber(1, maxReadBytes)))}
	if f.MinBytes > f.MaxBytes && f.MaxBytes > 0 {
		e.wrong.add("%s and %s: the least is more than the most", e.shown(least), e.shown(most))
	}
	start := variable{name: "KAFKA_CONSUMER_START", unset: "earliest", takes: "earliest or latest: where a new group begins"}
	isolation := variable{name: "KAFKA_CONSUMER_ISOLATION", unset: "read_committed", takes: "read_committed or read_uncommitted"}
	provisioning := variable{name: "KAFKA_TOPIC_PROVISIONING", unset: "verify", takes: "verify, create or trust"}
	return []ConsumerOption{
		WithFetch(f),
		WithStartOffset(value(e, start, oneOf(map[string]StartOffset{"earliest": Earliest, "latest": Latest}))),
		WithIsolation(value(e, isolation, oneOf(map[string]Isolation{"read_committed": ReadCommitted, "read_uncommitted": ReadUncommitted}))),
		WithTopicProvisioning(value(e, provisioning, oneOf(map[string]Provisioning{"verify": VerifyTopics, "create": CreateTopics, "trust": TrustTopics}))),
	}
}

// times are a consumer's limits, and who it is.
func (e *environment) times() []ConsumerOption {
	d := defaultConsumerConfig()
	handler := variable{name: "KAFKA_CONSUMER_HANDLER_TIMEOUT", told: "none", takes: "a duration such as 30s; 0: none"}
	drain := variable{
		name: "KAFKA_CONSUMER_SHUTDOWN_TIMEOUT", unset: d.softShutdown.String(),
		takes: "a duration: how long running handlers may go on after SIGTERM; 5s more are kept for the rest",
	}
	instance := variable{name: "KAFKA_CONSUMER_INSTANCE_ID", told: "none", takes: "a name that no other process of the group has: makes it a static member"}
	return []ConsumerOption{
		WithHandlerTimeout(value(e, handler, durationFrom(0))),
		WithShutdownTimeout(value(e, drain, durationFrom(0)), d.hardShutdown),
		WithInstanceID(value(e, instance, textWithin(maxShortText))),
	}
}

func (e *environment) producer() (opts []ProducerOption) {
	for _, o := range e.common() {
		opts = append(opts, o)
	}
	topic := variable{name: "KAFKA_PRODUCER_TOPIC", unset: "events", takes: "the topic of records that name none"}
	retries := variable{name: "KAFKA_PRODUCER_RETRIES", unset: "3", takes: "a whole number, 0 or more, or unlimited"}
	timeout := variable{name: "KAFKA_PRODUCER_DELIVERY_TIMEOUT", unset: defaultProducerConfig().deliveryTimeout.String(), takes: "a duration such as 30s, at least 1s"}
	opts = append(opts,
		WithTopic(value(e, topic, topicName)),
		WithRetries(value(e, retries, retryCount)),
		WithDeliveryTimeout(value(e, timeout, durationFrom(minDeliveryTimeout))),
	)
	opts = append(opts, e.acknowledgements()...)
	return append(opts, e.hint())
}

// acknowledgements leave idempotence to WithAcks, unless the environment speaks of it.
func (e *environment) acknowledgements() []ProducerOption {
	acks := variable{name: "KAFKA_PRODUCER_ACKS", unset: "all", takes: "all (or -1), 1 or 0"}
	idempotent := variable{name: "KAFKA_PRODUCER_IDEMPOTENT", unset: "true", told: "true; false where KAFKA_PRODUCER_ACKS is 1 or 0", takes: "true or false"}
	a := value(e, acks, oneOf(map[string]Acks{"all": AcksAll, "-1": AcksAll, "1": AcksLeader, "0": AcksNone}))
	on := value(e, idempotent, trueOrFalse)
	opts := []ProducerOption{WithAcks(a)}
	if !e.isSet(idempotent) {
		return opts
	}
	if on && a != AcksAll {
		e.wrong.add("%s and %s: an idempotent producer needs %s=all; unset one of the two", e.shown(acks), e.shown(idempotent), acks.name)
	}
	return append(opts, WithIdempotence(on))
}

// retryCount takes "unlimited", too.
func retryCount(s string) (int, error) {
	if strings.EqualFold(s, "unlimited") {
		return unlimitedRetries, nil
	}
	return wholeNumber(0, math.MaxInt32)(s)
}

func (e *environment) logger(w zapcore.WriteSyncer) (*zap.Logger, error) {
	v := variable{name: "LOG_LEVEL", unset: "info", takes: "debug, info, warn or error"}
	level := value(e, v, oneOf(map[string]zapcore.Level{
		"debug": zapcore.DebugLevel, "info": zapcore.InfoLevel, "warn": zapcore.WarnLevel, "error": zapcore.ErrorLevel,
	}))
	if err := e.wrong.join(); err != nil {
		return nil, err
	}
	encoder := zapcore.NewJSONEncoder(zapcore.EncoderConfig{
		LevelKey: "level", TimeKey: "timestamp", MessageKey: "msg", NameKey: "logger", StacktraceKey: "stacktrace",
		EncodeLevel:    zapcore.LowercaseLevelEncoder,
		EncodeTime:     zapcore.TimeEncoderOfLayout("2006-01-02T15:04:05.000Z07:00"),
		EncodeDuration: zapcore.StringDurationEncoder,
	})
	return zap.New(zapcore.NewCore(encoder, w, level)), nil
}

// topicPrefix is the first part of a topic's name.
func topicPrefix(s string) (string, error) {
	return s, checkTopicName(fmt.Sprintf("%s-%d", s, mostStages))
}

func topicName(s string) (string, error) { return s, checkTopicName(s) }

// topicList is names without a repetition.
func topicList(s string) ([]string, error) {
	names, err := listOf(topicName)(s)
	for i, n := range names {
		if slices.Contains(names[:i], n) {
			err = cmp.Or(err, fmt.Errorf("%q is named twice", n))
		}
	}
	return names, err
}

// durationList is delays that never get shorter.
func durationList(s string) ([]time.Duration, error) {
	ds, err := listOf(durationFrom(1))(s)
	if err == nil && (len(ds) > mostStages || !slices.IsSorted(ds)) {
		err = errMalformed
	}
	return ds, err
}

func textWithin(most int) func(string) (string, error) {
	return func(s string) (string, error) {
		if len(s) > most || !utf8.ValidString(s) {
			return "", fmt.Errorf("it has %d bytes", len(s))
		}
		return s, nil
	}
}

var errMalformed = errors.New("malformed") // and what the variable takes says all there is to say
