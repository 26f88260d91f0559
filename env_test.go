package kstage_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"pgregory.net/rapid"

	"github.com/kstage/kstage"
)

// seed is the environment that the library grew from, as its users have it.
func seed() kstage.Env {
	return kstage.Env{
		"KAFKA_BROKERS":                  "localhost:9092",
		"KAFKA_PRODUCER_TOPIC":           "events",
		"KAFKA_PRODUCER_ACKS":            "all",
		"KAFKA_PRODUCER_RETRIES":         "3",
		"KAFKA_PRODUCER_IDEMPOTENT":      "true",
		"KAFKA_CONSUMER_TOPIC":           "events",
		"KAFKA_CONSUMER_GROUP_ID":        "event-processor-group",
		"KAFKA_CONSUMER_WORKERS":         "5",
		"KAFKA_CONSUMER_RETRY_MAX":       "3",
		"KAFKA_CONSUMER_FETCH_MIN_BYTES": "1024",
		"KAFKA_CONSUMER_FETCH_MAX_BYTES": "10485760",
		"KAFKA_RETRY_TOPIC_PREFIX":       "events-retry",
		"KAFKA_DLQ_TOPIC":                "events-dlq",
		"LOG_LEVEL":                      "info",
	}
}

func consumerSettings(t *testing.T, env kstage.Env) map[string]any {
	t.Helper()
	opts, err := env.Consumer()
	require.NoError(t, err)
	_, err = kstage.NewConsumer(kstage.HandlerFunc(handleNothing), opts...)
	require.NoError(t, err)
	return kstage.ConsumerSettings(opts)
}

func producerSettings(t *testing.T, env kstage.Env) map[string]any {
	t.Helper()
	opts, err := env.Producer()
	require.NoError(t, err)
	return kstage.ProducerSettings(opts)
}

func TestAnEmptyEnvironmentIsTheSeeds(t *testing.T) {
	t.Parallel()
	blank := seed()
	for name := range blank {
		blank[name] = " " // as compose files leave them
	}
	for _, env := range []kstage.Env{{}, seed(), blank} {
		require.Equal(t, map[string]any{
			"brokers": []string{"localhost:9092"}, "topics": []string{"events"}, "group": "event-processor-group", "workers": 5,
			"delays": []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute},
			"prefix": "events-retry", "dlq": "events-dlq", "min bytes": int32(1024), "max bytes": int32(10485760),
			"max wait": 500 * time.Millisecond, "start": kstage.Earliest, "isolation": kstage.ReadCommitted,
			"provisioning": kstage.VerifyTopics, "handler timeout": time.Duration(0), "soft": 25 * time.Second, "hard": 5 * time.Second,
			"client": "kstage", "instance": "", "tls": false, "sasl": false,
		}, consumerSettings(t, env))
		require.Equal(t, map[string]any{
			"brokers": []string{"localhost:9092"}, "topic": "events", "acks": kstage.AcksAll, "idempotent": true, "retries": 3,
			"delivery timeout": 30 * time.Second, "client": "kstage",
		}, producerSettings(t, env))
		_, err := env.Logger(zapcore.AddSync(&bytes.Buffer{}))
		require.NoError(t, err)
	}
}

func TestEachVariableHasItsEffect(t *testing.T) {
	t.Parallel()
	consumer := []struct {
		name, value, setting string
		want                 any
	}{
		{"KAFKA_BROKERS", "a:1, b:2 ,c:3", "brokers", []string{"a:1", "b:2", "c:3"}},
		{"KAFKA_CLIENT_ID", "billing-7", "client", "billing-7"},
		{"KAFKA_CONSUMER_TOPIC", "orders, returns", "topics", []string{"orders", "returns"}},
		{"KAFKA_CONSUMER_GROUP_ID", "billing", "group", "billing"},
		{"KAFKA_CONSUMER_WORKERS", "64", "workers", 64},
		{"KAFKA_CONSUMER_RETRY_MAX", "0", "delays", []time.Duration{}},
		{"KAFKA_CONSUMER_RETRY_MAX", "5", "delays", []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute, time.Hour, time.Hour}},
		{"KAFKA_CONSUMER_RETRY_DELAYS", "1s,1s,1m30s", "delays", []time.Duration{time.Second, time.Second, 90 * time.Second}},
		{"KAFKA_CONSUMER_RETRY_DELAYS", "2h", "delays", []time.Duration{2 * time.Hour}},
		{"KAFKA_RETRY_TOPIC_PREFIX", "orders.retry", "prefix", "orders.retry"},
		{"KAFKA_DLQ_TOPIC", "orders.dead", "dlq", "orders.dead"},
		{"KAFKA_CONSUMER_FETCH_MIN_BYTES", "1", "min bytes", int32(1)},
		{"KAFKA_CONSUMER_FETCH_MAX_BYTES", "104857600", "max bytes", int32(100 << 20)},
		{"KAFKA_CONSUMER_START", "latest", "start", kstage.Latest},
		{"KAFKA_CONSUMER_ISOLATION", "READ_UNCOMMITTED", "isolation", kstage.ReadUncommitted},
		{"KAFKA_TOPIC_PROVISIONING", "create", "provisioning", kstage.CreateTopics},
		{"KAFKA_TOPIC_PROVISIONING", "trust", "provisioning", kstage.TrustTopics},
		{"KAFKA_CONSUMER_HANDLER_TIMEOUT", "30s", "handler timeout", 30 * time.Second},
		{"KAFKA_CONSUMER_HANDLER_TIMEOUT", "0", "handler timeout", time.Duration(0)},
		{"KAFKA_CONSUMER_SHUTDOWN_TIMEOUT", "50s", "soft", 50 * time.Second},
		{"KAFKA_CONSUMER_INSTANCE_ID", "pod-0", "instance", "pod-0"},
		{"KAFKA_TLS_ENABLED", "true", "tls", true},
		{"KAFKA_TLS_SERVER_NAME", "kafka.internal", "tls", true},
	}
	for _, c := range consumer {
		want := consumerSettings(t, seed())
		want[c.setting] = c.want
		env := kstage.Env{c.name: c.value}
		require.Equal(t, want, consumerSettings(t, env), "%s=%s", c.name, c.value)
	}
	producer := []struct {
		name, value, setting string
		want                 any
	}{
		{"KAFKA_PRODUCER_TOPIC", "orders", "topic", "orders"},
		{"KAFKA_PRODUCER_RETRIES", "0", "retries", 0},
		{"KAFKA_PRODUCER_RETRIES", "unlimited", "retries", math.MaxInt},
		{"KAFKA_PRODUCER_ACKS", "-1", "acks", kstage.AcksAll},
		{"KAFKA_PRODUCER_IDEMPOTENT", "false", "idempotent", false},
		{"KAFKA_PRODUCER_DELIVERY_TIMEOUT", "2m", "delivery timeout", 2 * time.Minute},
	}
	for _, c := range producer {
		want := producerSettings(t, seed())
		want[c.setting] = c.want
		require.Equal(t, want, producerSettings(t, kstage.Env{c.name: c.value}), "%s=%s", c.name, c.value)
	}
}

// Idempotence follows the acknowledgements, unless somebody speaks of it.
func TestAcksAloneInTheEnvironment(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]kstage.Acks{"1": kstage.AcksLeader, "0": kstage.AcksNone} {
		s := producerSettings(t, kstage.Env{"KAFKA_PRODUCER_ACKS": value})
		require.Equal(t, want, s["acks"])
		require.Equal(t, false, s["idempotent"])
		_, err := kstage.Env{"KAFKA_PRODUCER_ACKS": value, "KAFKA_PRODUCER_IDEMPOTENT": "true"}.Producer()
		require.EqualError(t, err, fmt.Sprintf(`kstage: KAFKA_PRODUCER_ACKS=%q and KAFKA_PRODUCER_IDEMPOTENT="true": `+
			`an idempotent producer needs KAFKA_PRODUCER_ACKS=all; unset one of the two`, value))
		producerSettings(t, kstage.Env{"KAFKA_PRODUCER_ACKS": value, "KAFKA_PRODUCER_IDEMPOTENT": "false"})
	}
}

// wrongValues are what people write, and a part of what they are told.
func wrongValues() [][3]string {
	return [][3]string{
		{"KAFKA_BROKERS", "localhost:port", "host:port"},
		{"KAFKA_BROKERS", "http://localhost:9092", "is a URL; only its host and port"},
		{"KAFKA_BROKERS", "a:1,,b:2", "an entry of the list is empty"},
		{"KAFKA_CLIENT_ID", strings.Repeat("x", 257), "at most 256 bytes"},
		{"KAFKA_CONSUMER_TOPIC", "my topic", `' ' is not one of a-z A-Z 0-9 . _ -`},
		{"KAFKA_CONSUMER_TOPIC", "a,b,a", `"a" is named twice`},
		{"KAFKA_CONSUMER_GROUP_ID", strings.Repeat("x", 513), "at most 512 bytes"},
		{"KAFKA_CONSUMER_WORKERS", "five", "it takes a whole number from 1 to 100000"},
		{"KAFKA_CONSUMER_WORKERS", "0", "it takes a whole number from 1 to 100000"},
		{"KAFKA_CONSUMER_RETRY_MAX", "-1", "a whole number from 0 to 100"},
		{"KAFKA_CONSUMER_RETRY_MAX", "101", "a whole number from 0 to 100"},
		{"KAFKA_CONSUMER_RETRY_DELAYS", "10s;1m", "durations such as 10s,1m,10m"},
		{"KAFKA_CONSUMER_RETRY_DELAYS", "10s,5s", "none shorter than the one before"},
		{"KAFKA_CONSUMER_RETRY_DELAYS", "0s", "each more than 0"},
		{"KAFKA_CONSUMER_RETRY_DELAYS", "10,60", "10 of which unit?"},
		{"KAFKA_RETRY_TOPIC_PREFIX", "events/retry", "'/' is not one of"},
		{"KAFKA_DLQ_TOPIC", strings.Repeat("d", 250), "249 are allowed"},
		{"KAFKA_DLQ_TOPIC", "events", `and KAFKA_CONSUMER_TOPIC: both name topic "events"; every topic has one role`},
		{"KAFKA_DLQ_TOPIC", "events-retry-2", `and KAFKA_RETRY_TOPIC_PREFIX: both name topic "events-retry-2"`},
		{"KAFKA_CONSUMER_FETCH_MIN_BYTES", "1KB", "a whole number from 1 to 104857600"},
		{"KAFKA_CONSUMER_FETCH_MIN_BYTES", "10485761", `KAFKA_CONSUMER_FETCH_MAX_BYTES (unset: 10485760): the least is more than the most`},
		{"KAFKA_CONSUMER_FETCH_MAX_BYTES", "104857601", "a whole number from 1 to 104857600"},
		{"KAFKA_CONSUMER_START", "newest", "earliest or latest"},
		{"KAFKA_CONSUMER_ISOLATION", "committed", "read_committed or read_uncommitted"},
		{"KAFKA_TOPIC_PROVISIONING", "yes", "verify, create or trust"},
		{"KAFKA_CONSUMER_HANDLER_TIMEOUT", "30", "30 of which unit?"},
		{"KAFKA_CONSUMER_HANDLER_TIMEOUT", "-1s", "a duration"},
		{"KAFKA_CONSUMER_SHUTDOWN_TIMEOUT", "soon", "a duration"},
		{"KAFKA_CONSUMER_INSTANCE_ID", "\xff", "a name that no other process"},
		{"KAFKA_PRODUCER_TOPIC", "..", `topic name ".." is illegal`},
		{"KAFKA_PRODUCER_ACKS", "2", "all (or -1), 1 or 0"},
		{"KAFKA_PRODUCER_RETRIES", "many", "a whole number, 0 or more, or unlimited"},
		{"KAFKA_PRODUCER_IDEMPOTENT", "on", "true or false"},
		{"KAFKA_PRODUCER_DELIVERY_TIMEOUT", "900ms", "at least 1s"},
		{"LOG_LEVEL", "loud", "debug, info, warn or error"},
		{"KAFKA_TLS_ENABLED", "ja", "true or false"},
		{"KAFKA_TLS_CA_FILE", "/does/not/exist", "no such file"},
		{"KAFKA_TLS_CA_FILE", "env.go", "there is no PEM certificate in it"},
		{"KAFKA_TLS_CERT_FILE", "env.go", "KAFKA_TLS_KEY_FILE (unset: none): both or none"},
		{"KAFKA_TLS_KEY_FILE", "env.go", "both or none"},
		{"KAFKA_TLS_SERVER_NAME", strings.Repeat("x", 250), "it has 250 bytes"},
		{"KAFKA_SASL_MECHANISM", "GSSAPI", "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"},
		{"KAFKA_SASL_MECHANISM", "PLAIN", "KAFKA_SASL_USERNAME: KAFKA_SASL_MECHANISM=PLAIN needs it"},
		{"KAFKA_SASL_MECHANISM", "OAUTHBEARER", "KAFKA_SASL_TOKEN or KAFKA_SASL_TOKEN_FILE: KAFKA_SASL_MECHANISM=OAUTHBEARER needs one of the two"},
		{"KAFKA_SASL_MECHANISMS", "PLAIN", "is not read: set KAFKA_SASL_MECHANISM"},
		{"KAFKA_SASL_USERNAME", "svc", "without KAFKA_SASL_MECHANISM it means nothing"},
		{"KAFKA_SASL_PASSWORD", "hunter2", "without KAFKA_SASL_MECHANISM it means nothing"},
		{"KAFKA_SASL_PASSWORD_FILE", "/does/not/exist", "no such file"},
		{"KAFKA_SASL_TOKEN", "hunter2", "without KAFKA_SASL_MECHANISM it means nothing"},
		{"KAFKA_SASL_TOKEN_FILE", os.DevNull, "is empty"},
	}
}

// errorsOf reads an environment for both programs.
func errorsOf(env kstage.Env) string {
	_, c := env.Consumer()
	_, p := env.Producer()
	_, l := env.Logger(zapcore.AddSync(&bytes.Buffer{}))
	return fmt.Sprint(c, "\n", p, "\n", l)
}

func TestEachWrongVariableIsNamedWithWhatWouldBeRight(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, w := range wrongValues() {
		seen[w[0]] = true
		text := errorsOf(kstage.Env{w[0]: w[1]})
		require.Regexp(t, `(?m)^kstage: (KAFKA|LOG)_`, text)
		require.Contains(t, text, w[0], "%v", w)
		require.Contains(t, text, w[2], "%v", w)
		require.NotContains(t, text, "With", "options are not what is wrong: %s", text)
		require.NotContains(t, text, "hunter2")
	}
	for _, v := range kstage.EnvVariables() {
		require.True(t, seen[v[0]], "%s has no wrong value here", v[0])
	}
}

// All of it is told at once, each variable once.
func TestWrongVariablesAreToldAtOnce(t *testing.T) {
	t.Parallel()
	env := kstage.Env{
		"KAFKA_BROKERS": "localhost:port", "KAFKA_CONSUMER_WORKERS": "five", "KAFKA_CONSUMER_RETRY_MAX": "x",
		"KAFKA_CONSUMER_RETRY_DELAYS": "1s", "KAFKA_CONSUMER_FETCH_MIN_BYTES": "-1", "KAFKA_DLQ_TOPIC": "a b", "KAFKA_TLS_ENABLED": "maybe",
		"KAFKA_SASL_MECHANISM": "NTLM", "KAFKA_SASL_PASSWORD": "hunter2",
	}
	opts, err := env.Consumer()
	require.Nil(t, opts)
	lines := strings.Split(err.Error(), "\n")
	require.Len(t, lines, 7, "%v", err)
	for _, name := range []string{
		"KAFKA_BROKERS", "KAFKA_CONSUMER_WORKERS", "KAFKA_CONSUMER_RETRY_MAX", "KAFKA_CONSUMER_FETCH_MIN_BYTES",
		"KAFKA_DLQ_TOPIC", "KAFKA_TLS_ENABLED", "KAFKA_SASL_MECHANISM",
	} {
		require.Equal(t, 1, strings.Count(err.Error(), "kstage: "+name+"="), name)
	}
}

func TestARetryTopicIsNoMainTopic(t *testing.T) {
	t.Parallel()
	_, err := kstage.Env{"KAFKA_CONSUMER_TOPIC": "events,events-retry-1"}.Consumer()
	require.EqualError(t, err, `kstage: KAFKA_RETRY_TOPIC_PREFIX and KAFKA_CONSUMER_TOPIC: both name topic "events-retry-1"; every topic has one role`)
}

func TestRetryMaxAndDelaysMustAgree(t *testing.T) {
	t.Parallel()
	_, err := kstage.Env{"KAFKA_CONSUMER_RETRY_MAX": "3", "KAFKA_CONSUMER_RETRY_DELAYS": "1s,2s"}.Consumer()
	require.EqualError(t, err, `kstage: KAFKA_CONSUMER_RETRY_MAX="3" and KAFKA_CONSUMER_RETRY_DELAYS="1s,2s": 3 retry topics have 3 delays, not 2; set one of the two, or make them agree`)
	_, err = kstage.Env{"KAFKA_CONSUMER_RETRY_MAX": "2", "KAFKA_CONSUMER_RETRY_DELAYS": "1s,2s"}.Consumer()
	require.NoError(t, err)
}

// What the environment accepts, the constructors accept.
func TestWhatTheEnvironmentAcceptsIsAccepted(t *testing.T) {
	t.Parallel()
	values := map[string][]string{}
	for _, w := range wrongValues() {
		values[w[0]] = append(values[w[0]], w[1])
	}
	for name, more := range map[string][]string{
		"KAFKA_CONSUMER_TOPIC": {"orders", "a,b"}, "KAFKA_DLQ_TOPIC": {"a", "dead", "x-1"}, "KAFKA_RETRY_TOPIC_PREFIX": {"x", "events"},
		"KAFKA_CONSUMER_RETRY_MAX": {"0", "1", "7", "100"}, "KAFKA_CONSUMER_RETRY_DELAYS": {"1s", "1ms,1h"}, "KAFKA_CONSUMER_WORKERS": {"1"},
		"KAFKA_CONSUMER_FETCH_MIN_BYTES": {"1", "104857600"}, "KAFKA_CONSUMER_FETCH_MAX_BYTES": {"1", "104857600"},
		"KAFKA_PRODUCER_ACKS": {"0", "1", "all"}, "KAFKA_PRODUCER_IDEMPOTENT": {"true", "false"}, "KAFKA_PRODUCER_DELIVERY_TIMEOUT": {"1s", "24h"},
		"KAFKA_SASL_MECHANISM": {"plain", "SCRAM-SHA-256", "scram-sha-512"}, "KAFKA_SASL_USERNAME": {"svc"}, "KAFKA_SASL_PASSWORD": {"secret"},
		"KAFKA_CONSUMER_SHUTDOWN_TIMEOUT": {"0s", "100h"}, "KAFKA_CONSUMER_HANDLER_TIMEOUT": {"1ns"},
	} {
		values[name] = append(values[name], more...)
	}
	names := slices.Sorted(maps.Keys(values))
	rapid.Check(t, func(t *rapid.T) {
		env := kstage.Env{}
		for range rapid.IntRange(0, 8).Draw(t, "variables") {
			name := rapid.SampledFrom(names).Draw(t, "name")
			env[name] = rapid.SampledFrom(values[name]).Draw(t, "value")
		}
		if opts, err := env.Consumer(); err == nil {
			_, err := kstage.NewConsumer(kstage.HandlerFunc(handleNothing), opts...)
			require.NoError(t, err, "%v", env)
		}
		if opts, err := env.Producer(); err == nil {
			require.NotPanics(t, func() { kstage.ProducerSettings(opts) }, "%v", env)
		}
	})
}

func TestANameThatIsAlmostAVariableIsAWarning(t *testing.T) {
	t.Parallel()
	env := kstage.Env{
		"KAFKA_CONSUMER_WORKER": "64", "KAFKA_BROKER": "a:1",
		"KAFKA_CONSUMER_PORT": "tcp://10.0.0.1", "KAFKA_SERVICE_HOST": "x", "KAFKA_PRODUCER_TOPIC": "orders", "PATH": "x",
	}
	opts, err := env.Consumer()
	require.NoError(t, err)
	core, logs := observer.New(zap.WarnLevel)
	_, err = kstage.NewConsumer(kstage.HandlerFunc(handleNothing), append(opts, kstage.WithLogger(zap.New(core)))...)
	require.NoError(t, err)
	var told []string
	for _, e := range logs.All() {
		told = append(told, e.Message)
	}
	require.Equal(t, []string{
		"environment: KAFKA_BROKER is not read; is KAFKA_BROKERS meant?",
		"environment: KAFKA_CONSUMER_WORKER is not read; is KAFKA_CONSUMER_WORKERS meant?",
	}, told)
}

// The exported functions read the process's own environment.
func TestTheProcessesEnvironment(t *testing.T) {
	t.Setenv("KAFKA_CONSUMER_GROUP_ID", "from-the-process")
	t.Setenv("KAFKA_PRODUCER_TOPIC", "from-the-process")
	t.Setenv("KAFKA_CONSUMER_WORKER", "1")
	consumer, err := kstage.ConsumerOptionsFromEnv()
	require.NoError(t, err)
	core, logs := observer.New(zap.WarnLevel)
	c, err := kstage.NewConsumer(kstage.HandlerFunc(handleNothing), append(consumer, kstage.WithLogger(zap.New(core)))...)
	require.NoError(t, err)
	require.Equal(t, "from-the-process", c.Topology().Group)
	require.Equal(t, 1, logs.FilterMessageSnippet("KAFKA_CONSUMER_WORKER is not read").Len())
	producer, err := kstage.ProducerOptionsFromEnv()
	require.NoError(t, err)
	require.Equal(t, "from-the-process", kstage.ProducerSettings(producer)["topic"])
	t.Setenv("LOG_LEVEL", "error")
	log, err := kstage.LoggerFromEnv()
	require.NoError(t, err)
	require.Equal(t, zap.ErrorLevel, log.Level())
	t.Setenv("LOG_LEVEL", "loud")
	_, err = kstage.LoggerFromEnv()
	require.EqualError(t, err, `kstage: LOG_LEVEL="loud": it takes debug, info, warn or error`)
}

func TestTheLoggersLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := kstage.Env{"LOG_LEVEL": "Debug"}.Logger(zapcore.AddSync(&out))
	require.NoError(t, err)
	for range 200 { // none is left out
		log.Debug("record handled", zap.String("topic", "orders"), zap.Duration("took", 1500*time.Millisecond))
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 200)
	var line map[string]any
	require.NoError(t, json.Unmarshal([]byte(lines[0]), &line))
	require.Equal(t, []string{"level", "msg", "timestamp", "took", "topic"}, slices.Sorted(maps.Keys(line)))
	require.Equal(t, "debug", line["level"])
	require.Equal(t, "1.5s", line["took"])
	at, err := time.Parse(time.RFC3339, line["timestamp"].(string))
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), at, time.Minute)
	quiet, err := kstage.Env{"LOG_LEVEL": "error"}.Logger(zapcore.AddSync(&out))
	require.NoError(t, err)
	out.Reset()
	quiet.Warn("not written")
	require.Empty(t, out.String())
}

// docs/configuration.md has a row for each variable, and none for another.
func TestTheDocumentedEnvironmentIsTheCodes(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("docs", "configuration.md"))
	require.NoError(t, err)
	var rows [][3]string
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z_0-9]+)` \\| (.*?) \\| (.*) \\|$").FindAllStringSubmatch(string(text), -1) {
		rows = append(rows, [3]string{m[1], strings.Trim(m[2], "`"), m[3]})
	}
	require.ElementsMatch(t, kstage.EnvVariables(), rows)
}
