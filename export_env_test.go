package kstage

import (
	"crypto/tls"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/sasl"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Env is an environment for tests.
type Env map[string]string

func (v Env) environment() *environment {
	return newEnvironment(func(name string) string { return v[name] }, func() []string { return slices.Collect(maps.Keys(v)) })
}

// Consumer is ConsumerOptionsFromEnv.
func (v Env) Consumer() ([]ConsumerOption, error) {
	return readAll(v.environment(), (*environment).consumer)
}

// Producer is ProducerOptionsFromEnv.
func (v Env) Producer() ([]ProducerOption, error) {
	return readAll(v.environment(), (*environment).producer)
}

// Logger is LoggerFromEnv, writing to w.
func (v Env) Logger(w zapcore.WriteSyncer) (*zap.Logger, error) { return v.environment().logger(w) }

// EnvVariables are all variables that are read: name, default, and what it takes.
func EnvVariables() (rows [][3]string) {
	e := Env{}.environment()
	e.consumer()
	e.producer()
	if _, err := e.logger(nil); err != nil {
		panic(err)
	}
	for _, v := range e.asked {
		row := [3]string{v.name, v.standard(), v.takes}
		if !slices.Contains(rows, row) {
			rows = append(rows, row)
		}
	}
	return rows
}

// ConsumerSettings are those of options that the environment has a say in.
func ConsumerSettings(opts []ConsumerOption) map[string]any {
	c := applyConsumerOptions(opts)
	return map[string]any{
		"brokers": c.brokers, "topics": c.topics, "group": c.group, "workers": c.workers, "delays": c.delays,
		"prefix": c.retryPrefix, "dlq": c.dlqTopic, "min bytes": c.fetch.MinBytes, "max bytes": c.fetch.MaxBytes,
		"max wait": c.fetch.MaxWait, "start": c.startOffset, "isolation": c.isolation, "provisioning": c.provisioning,
		"handler timeout": c.handlerTimeout, "soft": c.softShutdown, "hard": c.hardShutdown, "client": c.clientID,
		"instance": c.instanceID, "tls": c.tls != nil, "sasl": c.sasl != nil,
	}
}

// ProducerSettings are those of options that the environment has a say in.
func ProducerSettings(opts []ProducerOption) map[string]any {
	c, err := newProducerConfig(opts)
	if err != nil {
		panic(err)
	}
	return map[string]any{
		"brokers": c.brokers, "topic": c.topic, "acks": c.acks, "idempotent": c.idempotent, "retries": c.retries,
		"delivery timeout": c.deliveryTimeout, "client": c.clientID,
	}
}

// Security is what the options say of TLS and SASL.
func Security(opts []ConsumerOption) (*tls.Config, sasl.Mechanism) {
	c := applyConsumerOptions(opts)
	return c.tls, c.sasl
}
