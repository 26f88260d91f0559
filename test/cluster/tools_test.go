//go:build cluster

package cluster_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// tool runs one of Kafka's console tools.
func (w *world) tool(stdin, name string, args ...string) string {
	w.t.Helper()
	out, err := brokers.ToolWith(w.t.Context(), stdin, name, args...)
	require.NoError(w.t, err)
	return out
}

func TestKafkasConsumerReadsWhatWeWrite(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("orders", 1)
	w.ladder(1, 0)
	p, err := kstage.NewProducer(kstage.WithBrokers(brokers.Brokers...), kstage.WithTopic(topic))
	require.NoError(t, err)
	for _, codec := range []string{"one", "two"} {
		require.NoError(t, p.Publish(t.Context(), &kgo.Record{
			Key: []byte(codec), Value: []byte("value of " + codec), Headers: []kgo.RecordHeader{{Key: "traceparent", Value: []byte("00-" + codec)}},
		}))
	}
	require.NoError(t, p.Close(t.Context()))
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		return kstage.Permanent(fmt.Errorf("no %s today", msg.Key()))
	}, kstage.WithTopics(topic))
	w.within(time.Minute, func() bool { return m.counts.Snapshot().SentToDLQ == 2 })
	require.NoError(t, m.stop())

	read := func(topic string) []string {
		out := w.tool("", "console-consumer", "--topic", topic, "--from-beginning", "--max-messages", "2", "--timeout-ms", "30000",
			"--formatter-property", "print.key=true", "--formatter-property", "print.headers=true")
		return strings.Split(strings.TrimSpace(out), "\n")
	}
	for i, line := range read(topic) {
		t.Log(line)
		name := []string{"one", "two"}[i]
		require.Contains(t, line, "traceparent:00-"+name)
		require.Contains(t, line, "message-id:")
		require.Contains(t, line, "\t"+name+"\tvalue of "+name)
	}
	for i, line := range read(w.name("g-dlq")) {
		t.Log(line)
		name := []string{"one", "two"}[i]
		require.Contains(t, line, "traceparent:00-"+name)
		require.Contains(t, line, "kstage-reason:permanent")
		require.Contains(t, line, "kstage-origin-topic:"+topic)
		require.Contains(t, line, "kstage-error:no "+name+" today")
		require.Contains(t, line, "\t"+name+"\tvalue of "+name)
	}
}

func TestWeReadWhatKafkasProducerWrites(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("orders", 3)
	w.ladder(3, 0)
	type seen struct{ key, value, header string }
	all := make(chan seen, 100)
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		h, _ := msg.Header("codec")
		all <- seen{string(msg.Key()), string(msg.Value()), string(h)}
		return nil
	}, kstage.WithTopics(topic))
	want := map[seen]bool{}
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		var lines strings.Builder
		for i := range 5 {
			fmt.Fprintf(&lines, "codec:%s\tk%d\tvalue %d by %s\n", codec, i, i, codec)
			want[seen{fmt.Sprintf("k%d", i), fmt.Sprintf("value %d by %s", i, codec), codec}] = true
		}
		w.tool(lines.String(), "console-producer", "--topic", topic, "--compression-codec", codec,
			"--reader-property", "parse.key=true", "--reader-property", "parse.headers=true")
	}
	got := map[seen]bool{}
	for range want {
		select {
		case s := <-all:
			got[s] = true
		case <-time.After(30 * time.Second):
			t.Fatalf("only %d of %d records came", len(got), len(want))
		}
	}
	require.Equal(t, want, got)
	require.NoError(t, m.stop())
}

// A key goes to the partition that Kafka's own producer gives it.
func TestPartitionsOfKeysAreKafkas(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("orders", 7)
	var lines strings.Builder
	for i := range 50 {
		fmt.Fprintf(&lines, "key-%d\tv\n", i)
	}
	w.tool(lines.String(), "console-producer", "--topic", topic, "--reader-property", "parse.key=true")
	p, err := kstage.NewProducer(kstage.WithBrokers(brokers.Brokers...), kstage.WithTopic(topic))
	require.NoError(t, err)
	ours := map[string]int32{}
	for i := range 50 {
		r := &kgo.Record{Key: fmt.Appendf(nil, "key-%d", i), Value: []byte("v")}
		require.NoError(t, p.Publish(t.Context(), r))
		ours[string(r.Key)] = r.Partition
	}
	require.NoError(t, p.Close(t.Context()))
	for _, r := range w.read(topic, 100) {
		require.Equal(t, ours[string(r.Key)], r.Partition, "key %s", r.Key)
	}
}

func TestLagIsKafkas(t *testing.T) {
	w := newWorld(t)
	topic := w.topic("orders", 2)
	w.ladder(2, 0)
	release := make(chan struct{})
	m := w.start(func(_ context.Context, msg kstage.Message) error {
		if msg.Record.Partition == 1 && msg.Record.Offset >= 30 {
			<-release
		}
		return nil
	}, kstage.WithTopics(topic), kstage.WithOrdering(kstage.ByPartition))
	defer close(release)
	w.fill(topic, 0, 100)
	w.fill(topic, 1, 100)
	w.within(time.Minute, func() bool { return w.committed(topic, 0) == 100 && w.committed(topic, 1) == 30 })
	out := w.tool("", "consumer-groups", "--describe", "--group", w.name("g"))
	t.Log(out)
	theirs := map[int32]int64{}
	for line := range strings.Lines(out) { // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG ..., perhaps more between
		f := strings.Fields(line)
		if len(f) > 5 && f[1] == topic {
			partition, err := strconv.Atoi(f[2])
			require.NoError(t, err)
			lag, err := strconv.ParseInt(f[5], 10, 64)
			require.NoError(t, err)
			theirs[int32(partition)] = lag
		}
	}
	ours := map[int32]int64{}
	for _, s := range m.Stats().Partitions {
		ours[s.Partition] = s.Lag
	}
	require.Equal(t, map[int32]int64{0: 0, 1: 70}, ours)
	require.Equal(t, ours, theirs)
}
