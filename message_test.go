package kstage_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

func ExampleHandlerFunc() {
	handler := kstage.HandlerFunc(func(_ context.Context, msg kstage.Message) error {
		fmt.Printf("attempt %d: %s = %s\n", msg.Attempt(), msg.Key(), msg.Value())
		return nil
	})
	msg := kstage.Message{Record: &kgo.Record{Key: []byte("k"), Value: []byte("v")}}
	err := handler.Handle(context.Background(), msg)
	fmt.Println(err)
	// Output:
	// attempt 1: k = v
	// <nil>
}

func ExampleMiddleware() {
	logged := func(name string) kstage.Middleware {
		return func(next kstage.Handler) kstage.Handler {
			return kstage.HandlerFunc(func(ctx context.Context, msg kstage.Message) error {
				fmt.Println(name, "before")
				err := next.Handle(ctx, msg)
				fmt.Println(name, "after:", err)
				return err
			})
		}
	}
	handler := kstage.HandlerFunc(func(context.Context, kstage.Message) error { return nil })
	h := logged("outer")(logged("inner")(handler)) // as WithMiddleware(logged("outer"), logged("inner")) does
	_ = h.Handle(context.Background(), kstage.Message{Record: &kgo.Record{}})
	// Output:
	// outer before
	// inner before
	// inner after: <nil>
	// outer after: <nil>
}

var topicID = [16]byte{0xab, 0xcd, 15: 0xef}

const coordinatesID = "abcd00000000000000000000000000ef/3/7/42"

func header(key, value string) kgo.RecordHeader {
	return kgo.RecordHeader{Key: key, Value: []byte(value)}
}

func TestMessageID(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 513)
	for _, tt := range []struct {
		name    string
		headers []kgo.RecordHeader
		want    string
	}{
		{"the header", []kgo.RecordHeader{header("a", "1"), header("message-id", "order-17")}, "order-17"},
		{"the last of several", []kgo.RecordHeader{header("message-id", "1"), header("message-id", "2")}, "2"},
		{"the longest that is kept", []kgo.RecordHeader{header("message-id", long[:512])}, long[:512]},
		{"too long", []kgo.RecordHeader{header("message-id", long)}, fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(long)))},
		{"not UTF-8", []kgo.RecordHeader{header("message-id", "\xff")}, fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("\xff")))},
		{"empty", []kgo.RecordHeader{header("message-id", "")}, coordinatesID},
		{"nil", []kgo.RecordHeader{{Key: "message-id"}}, coordinatesID},
		{"the last is empty", []kgo.RecordHeader{header("message-id", "1"), header("message-id", "")}, coordinatesID},
		{"none", nil, coordinatesID},
		{"of another case", []kgo.RecordHeader{header("Message-Id", "1")}, coordinatesID},
		{"ours means nothing on a main topic", []kgo.RecordHeader{header("kstage-id", "forged")}, coordinatesID},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &kgo.Record{Topic: "orders", Partition: 3, LeaderEpoch: 7, Offset: 42, Headers: tt.headers}
			require.Equal(t, tt.want, kstage.NewMessage(r, topicID, 1, time.Time{}).ID())
		})
	}
}

// Where brokers send no topic id, the timestamp tells two topics of one name apart.
func TestMessageIDWithoutTopicID(t *testing.T) {
	t.Parallel()
	r := &kgo.Record{Topic: "orders", Partition: 3, LeaderEpoch: -1, Offset: 42, Timestamp: time.UnixMilli(1_700_000_000_123)}
	require.Equal(t, "orders@1700000000123/3/-1/42", kstage.NewMessage(r, [16]byte{}, 1, time.Time{}).ID())
}

func TestMessageFacts(t *testing.T) {
	t.Parallel()
	r := &kgo.Record{Topic: "orders", Partition: 3, Offset: 42, Timestamp: time.UnixMilli(5)}
	failed := time.UnixMilli(9)
	m := kstage.NewMessage(r, topicID, 3, failed)
	require.Equal(t, 3, m.Attempt())
	require.Zero(t, m.Stage())
	require.Equal(t, kstage.Origin{Topic: "orders", Partition: 3, Offset: 42, Timestamp: time.UnixMilli(5)}, m.Origin())
	at, ok := m.FirstFailedAt()
	require.True(t, ok)
	require.Equal(t, failed, at)
	_, ok = kstage.NewMessage(r, topicID, 1, time.Time{}).FirstFailedAt()
	require.False(t, ok)
}

// Anybody may write headers to a main topic: they change no fact of a delivery.
func TestForgedHeadersMeanNothing(t *testing.T) {
	t.Parallel()
	r := &kgo.Record{Topic: "orders", Partition: 3, LeaderEpoch: 7, Offset: 42, Timestamp: time.UnixMilli(5)}
	plain := kstage.NewMessage(r, topicID, 1, time.Time{})
	forged := *r
	for _, name := range oursNames {
		forged.Headers = append(forged.Headers, header(name, "9"))
	}
	m := kstage.NewMessage(&forged, topicID, 1, time.Time{})
	require.Equal(t, plain.ID(), m.ID())
	require.Equal(t, plain.Origin(), m.Origin())
	require.Equal(t, 1, m.Attempt())
	require.Zero(t, m.Stage())
	_, failed := m.FirstFailedAt()
	require.False(t, failed)
}

func TestMessageKeyValueHeader(t *testing.T) {
	t.Parallel()
	m := kstage.NewMessage(&kgo.Record{}, topicID, 1, time.Time{})
	require.True(t, m.Key() == nil && m.Value() == nil, "nil stays nil")
	m = kstage.NewMessage(&kgo.Record{Key: []byte{}, Value: []byte{}}, topicID, 1, time.Time{})
	require.True(t, m.Key() != nil && m.Value() != nil, "empty stays empty")

	m = kstage.NewMessage(&kgo.Record{Headers: []kgo.RecordHeader{header("a", "1"), header("a", "2"), {Key: "n"}, header("e", "")}}, topicID, 1, time.Time{})
	v, ok := m.Header("a")
	require.True(t, ok)
	require.Equal(t, "2", string(v), "the last counts")
	v, ok = m.Header("n")
	require.True(t, ok && v == nil)
	v, ok = m.Header("e")
	require.True(t, ok && v != nil && len(v) == 0)
	_, ok = m.Header("x")
	require.False(t, ok)
}

// A test of a handler makes a Message of a record alone.
func TestMessageOfARecordAlone(t *testing.T) {
	t.Parallel()
	m := kstage.Message{Record: &kgo.Record{Topic: "t", Offset: 4, Timestamp: time.UnixMilli(1)}}
	require.Equal(t, 1, m.Attempt())
	require.Zero(t, m.Stage())
	require.Equal(t, "t@1/0/0/4", m.ID())
	_, failed := m.FirstFailedAt()
	require.False(t, failed)
}
