package kstage_test

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/kstage/kstage"
)

func ExampleDecodeDeadLetter() {
	record := &kgo.Record{ // as read from a dead-letter topic
		Key: []byte("customer-9"),
		Headers: []kgo.RecordHeader{
			{Key: "message-id", Value: []byte("order-17")},
			{Key: "kstage-id", Value: []byte("order-17")},
			{Key: "kstage-origin-topic", Value: []byte("orders")},
			{Key: "kstage-origin-partition", Value: []byte("3")},
			{Key: "kstage-origin-offset", Value: []byte("42")},
			{Key: "kstage-attempt", Value: []byte("3")},
			{Key: "kstage-reason", Value: []byte("exhausted")},
			{Key: "kstage-error", Value: []byte("connection refused")},
		},
	}
	d, err := kstage.DecodeDeadLetter(record)
	fmt.Println(d.ID, d.Origin.Topic, d.Origin.Partition, d.Origin.Offset, err)
	fmt.Println(d.Reason, d.Attempt, d.Error)

	_, err = kstage.DecodeDeadLetter(&kgo.Record{Topic: "orders", Offset: 1})
	fmt.Println(err)
	// Output:
	// order-17 orders 3 42 <nil>
	// exhausted 3 connection refused
	// kstage: orders/0@1 is no dead letter: it has no header kstage-origin-topic
}

// oursNames are the names that a copy's own headers are replaced by.
var oursNames = []string{
	"kstage-id", "kstage-copy-id", "kstage-origin-topic", "kstage-origin-partition", "kstage-origin-offset", "kstage-origin-timestamp",
	"kstage-group", "kstage-attempt", "kstage-stage", "kstage-due", "kstage-not-before", "kstage-first-failed-at", "kstage-last-failed-at",
	"kstage-reason", "kstage-error-type", "kstage-error", "kstage-stack", "kstage-value-omitted",
	"kstage-redrive-count", "kstage-redrive-id", "kstage-version",
}

// facts of a dead letter with every field set.
func someFacts() kstage.DeadLetter {
	return kstage.DeadLetter{
		ID: "order-17", Group: "billing",
		Origin:  kstage.Origin{Topic: "orders", Partition: 3, Offset: 42, Timestamp: time.UnixMilli(1_700_000_000_123)},
		Attempt: 3, Stage: 0, Reason: kstage.ReasonExhausted, ErrorType: "*net.OpError", Error: "connection refused", Stack: "goroutine 1",
		ValueOmitted: -1, RedriveCount: 2, RedriveID: "run-1",
		FirstFailedAt: time.UnixMilli(1_700_000_001_000), LastFailedAt: time.UnixMilli(1_700_000_002_000),
	}
}

func drawText(t *rapid.T, name string, most int) string {
	s := rapid.String().Draw(t, name)
	for len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}

func drawTopic(t *rapid.T, name string) string {
	return rapid.StringMatching(`[a-zA-Z0-9._-]{1,60}`).Draw(t, name)
}

func drawTime(t *rapid.T, name string) time.Time {
	return time.UnixMilli(rapid.Int64Range(-1, math.MaxInt64/int64(time.Millisecond)).Draw(t, name))
}

// drawFacts draws a dead letter as the hand-off may make one.
func drawFacts(t *rapid.T) kstage.DeadLetter {
	d := kstage.DeadLetter{
		ID: drawText(t, "id", kstage.MaxShortText), Group: drawText(t, "group", kstage.MaxShortText),
		Origin: kstage.Origin{
			Topic: drawTopic(t, "topic"), Partition: rapid.Int32Range(0, math.MaxInt32).Draw(t, "partition"),
			Offset: rapid.Int64Range(0, math.MaxInt64).Draw(t, "offset"), Timestamp: drawTime(t, "timestamp"),
		},
		Attempt: rapid.IntRange(1, math.MaxInt32).Draw(t, "attempt"), Stage: rapid.IntRange(0, 100).Draw(t, "stage"),
		Reason:    rapid.SampledFrom([]kstage.Reason{kstage.ReasonPermanent, kstage.ReasonExhausted, kstage.ReasonExpired, kstage.ReasonPanic, kstage.ReasonTimeout}).Draw(t, "reason"),
		ErrorType: drawText(t, "errorType", kstage.MaxShortText), Error: drawText(t, "error", kstage.MaxErrorText), Stack: drawText(t, "stack", 3000),
		ValueOmitted:  rapid.Int64Range(-1, math.MaxInt32).Draw(t, "omitted"),
		RedriveCount:  rapid.IntRange(0, kstage.MaxRedrives).Draw(t, "redrives"),
		FirstFailedAt: drawTime(t, "first"), LastFailedAt: drawTime(t, "last"),
	}
	if d.RedriveCount > 0 {
		d.RedriveID = drawText(t, "redrive", kstage.MaxShortText)
	}
	return d
}

func drawHeaders(t *rapid.T) []kgo.RecordHeader {
	key := rapid.OneOf(rapid.SampledFrom(append([]string{"", "a", "a", "message-id", "kstage-unknown", "Kstage-id"}, oursNames...)), rapid.String())
	value := rapid.OneOf(rapid.Just[[]byte](nil), rapid.Just([]byte{}), rapid.SliceOfN(rapid.Byte(), 0, 40))
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) kgo.RecordHeader {
		return kgo.RecordHeader{Key: key.Draw(t, "key"), Value: value.Draw(t, "value")}
	}), 0, 12).Draw(t, "headers")
}

// What is written is read; what the user's record had passes byte for byte, in
// order; ours are replaced; the record's slice stays as it was.
func TestHeadersRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d, own := drawFacts(t), drawHeaders(t)
		roomy := append(make([]kgo.RecordHeader, 0, len(own)+40), own...)
		before := deepClone(roomy[:cap(roomy)])

		hs := kstage.CopyHeaders(d, "copy", roomy)
		require.Equal(t, before, roomy[:cap(roomy)], "neither the record's headers nor what lies behind them may change")

		r := &kgo.Record{Topic: "dlq", Headers: hs, Value: []byte("v")}
		got, err := kstage.DecodeDeadLetter(r)
		require.NoError(t, err)
		require.Same(t, r, got.Record)
		got.Record = nil
		require.Equal(t, d, got)

		kept := slices.DeleteFunc(deepClone(own), func(h kgo.RecordHeader) bool { return slices.Contains(oursNames, h.Key) })
		require.Equal(t, len(kept), len(hs)-countOurs(hs))
		for i, h := range kept {
			require.Equal(t, h.Key, hs[i].Key)
			require.Equal(t, h.Value == nil, hs[i].Value == nil, "nil stays nil, empty stays empty")
			require.True(t, bytes.Equal(h.Value, hs[i].Value))
		}
		seen := map[string]bool{}
		for _, h := range hs[len(kept):] {
			require.False(t, seen[h.Key], "%s is there twice", h.Key)
			require.True(t, utf8.Valid(h.Value))
			seen[h.Key] = true
		}
	})
}

func deepClone(hs []kgo.RecordHeader) []kgo.RecordHeader {
	out := slices.Clone(hs)
	for i := range out {
		out[i].Value = bytes.Clone(out[i].Value)
	}
	return out
}

func countOurs(hs []kgo.RecordHeader) (n int) {
	for _, h := range hs {
		if slices.Contains(oursNames, h.Key) {
			n++
		}
	}
	return n
}

func sizeOfOurs(hs []kgo.RecordHeader) (n int) {
	for _, h := range hs {
		if slices.Contains(oursNames, h.Key) {
			n += len(h.Key) + len(h.Value)
		}
	}
	return n
}

// Copying a copy's copy does not make its headers grow.
func TestHeadersAreSetNotAppended(t *testing.T) {
	t.Parallel()
	d := someFacts()
	hs := kstage.CopyHeaders(d, "copy", []kgo.RecordHeader{{Key: "user", Value: []byte("1")}, {Key: "user", Value: nil}})
	for range 10 {
		again := kstage.CopyHeaders(d, "copy", hs)
		require.Equal(t, hs, again)
		hs = again
	}
}

func TestOursAreAllNamesThatAreWritten(t *testing.T) {
	t.Parallel()
	d := someFacts()
	d.ValueOmitted = 5
	for _, h := range kstage.CopyHeaders(d, "copy", nil) {
		require.True(t, kstage.Ours(h.Key), h.Key)
	}
	for _, name := range oursNames {
		require.True(t, kstage.Ours(name), name)
	}
	for _, name := range []string{"", "message-id", "kstage-", "kstage-unknown", "Kstage-Id", "kstage-id ", "traceparent"} {
		require.False(t, kstage.Ours(name), "a user's header: %q", name)
	}
}

// All our headers together fit the budget, whatever is in them.
func TestHeadersStayInTheirBudget(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := drawFacts(t)
		long := rapid.SampledFrom([]string{"x", "é", "€", "😀", "\xff", "a\xff", "\xffé", "x😀\xf0\x9f"})
		repeat := func(name string, most int) string {
			return strings.Repeat(long.Draw(t, name), rapid.IntRange(0, most).Draw(t, name+" length"))
		}
		d.Error, d.ErrorType, d.Stack = repeat("error", 70_000), repeat("type", 3000), repeat("stack", 70_000)
		if rapid.Bool().Draw(t, "longest names") {
			d.Origin.Topic, d.Group, d.ID = strings.Repeat("t", 249), strings.Repeat("g", kstage.MaxShortText), strings.Repeat("i", kstage.MaxShortText)
			d.RedriveID, d.RedriveCount = strings.Repeat("r", kstage.MaxShortText), kstage.MaxRedrives
		}
		copyID := d.Origin.Topic + "@1700000000123/2147483647/2147483647/9223372036854775807>" + strings.Repeat("d", 249)
		hs := kstage.CopyHeaders(d, copyID, nil)
		require.LessOrEqual(t, sizeOfOurs(hs), kstage.HeaderBudget)
		got, err := kstage.DecodeDeadLetter(&kgo.Record{Headers: hs})
		require.NoError(t, err)
		requireCut(t, d.Error, got.Error, kstage.MaxErrorText)
		requireCut(t, d.ErrorType, got.ErrorType, kstage.MaxShortText)
		require.Equal(t, d.Group, got.Group)
		require.Equal(t, d.ID, got.ID)
	})
}

// requireCut checks that got is what is left of s.
func requireCut(t require.TestingT, s, got string, most int) {
	require.True(t, utf8.ValidString(got))
	require.LessOrEqual(t, len(got), most)
	if len(s) > most {
		require.True(t, strings.HasSuffix(got, kstage.CutMark), "a text of %d bytes that was cut to %d says so", len(s), len(got))
	} else if utf8.ValidString(s) {
		require.Equal(t, s, got)
	}
}

// The stack takes what the others leave, and never their place.
func TestHeadersGiveTheStackWhatIsLeft(t *testing.T) {
	t.Parallel()
	d := someFacts()
	d.Stack = strings.Repeat("s", 100_000)
	d.Error = strings.Repeat("e", 100_000)
	hs := kstage.CopyHeaders(d, "copy", nil)
	got, err := kstage.DecodeDeadLetter(&kgo.Record{Headers: hs})
	require.NoError(t, err)
	require.Len(t, got.Error, kstage.MaxErrorText)
	require.Equal(t, kstage.HeaderBudget, sizeOfOurs(hs), "all of it is used")
	require.True(t, strings.HasSuffix(got.Stack, kstage.CutMark))
}

func TestCutText(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, s string
		most    int
		want    string
	}{
		{"short", "abc", 20, "abc"},
		{"as long as is allowed", strings.Repeat("a", 20), 20, strings.Repeat("a", 20)},
		{"one more", strings.Repeat("a", 21), 20, strings.Repeat("a", 11) + kstage.CutMark},
		{"never within a rune", strings.Repeat("€", 10), 20, "€€€" + kstage.CutMark},
		{"invalid bytes become one mark", "a\xff\xfe\xfdb", 20, "a\uFFFDb"},
		{"a cut rune at the end", "ab\xe2\x82", 20, "ab\uFFFD"},
		{"marks may make it too long", strings.Repeat("a\xff", 8), 20, strings.Repeat("a\uFFFD", 2) + "a" + kstage.CutMark},
		{"and invalid bytes in a row short, but cut is cut", strings.Repeat("\xff", 100), 20, "\uFFFD" + kstage.CutMark},
		{"empty", "", 20, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tt.want, kstage.CutText(tt.s, tt.most))
		})
	}
}

// Of a main topic's record, which anybody may have written, the two facts of a
// redrive are carried on, within bounds.
func TestRedriveFactsAreClamped(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int{
		"0": 0, "1": 1, "999": 999, "1000": 1000, "1001": 1000, "2147483648": 1000, "9223372036854775807": 1000,
		"99999999999999999999999999": 1000, "-1": 0, "-99999999999999999999999999": 0, "": 0, "x": 0, "1.5": 0, " 1": 0, "\xff": 0,
	} {
		count, id := kstage.RedriveFacts([]kgo.RecordHeader{
			{Key: "kstage-redrive-count", Value: []byte("7")}, // the last counts
			{Key: "kstage-redrive-count", Value: []byte(in)},
			{Key: "kstage-redrive-id", Value: []byte(strings.Repeat("r", 2000))},
		})
		require.Equal(t, want, count, "%q", in)
		require.Len(t, id, kstage.MaxShortText)
	}
	count, id := kstage.RedriveFacts(nil)
	require.Zero(t, count)
	require.Empty(t, id)
}

// An error names the header that is missing or no number.
func TestDecodeDeadLetterNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	required := []string{"kstage-origin-topic", "kstage-origin-partition", "kstage-origin-offset", "kstage-attempt", "kstage-reason"}
	numbers := map[string][]string{
		"kstage-origin-partition": {"", "x", "-1", "2147483648", "1.0", "0x1", "99999999999999999999"},
		"kstage-origin-offset":    {"", "x", "-1", "9223372036854775808"},
		"kstage-attempt":          {"", "x", "-1", "2147483648"},
	}
	decode := func(change func([]kgo.RecordHeader) []kgo.RecordHeader) (kstage.DeadLetter, error) {
		hs := change(kstage.CopyHeaders(someFacts(), "copy", nil))
		return kstage.DecodeDeadLetter(&kgo.Record{Topic: "dlq", Partition: 2, Offset: 9, Headers: hs})
	}
	for _, name := range required {
		d, err := decode(func(hs []kgo.RecordHeader) []kgo.RecordHeader {
			return slices.DeleteFunc(hs, func(h kgo.RecordHeader) bool { return h.Key == name })
		})
		require.ErrorContains(t, err, name)
		require.ErrorContains(t, err, "dlq/2@9")
		require.Zero(t, d)
	}
	for name, values := range numbers {
		for _, v := range values {
			_, err := decode(func(hs []kgo.RecordHeader) []kgo.RecordHeader {
				return append(hs, kgo.RecordHeader{Key: name, Value: []byte(v)})
			})
			require.ErrorContains(t, err, name, "%q", v)
		}
	}
	_, err := kstage.DecodeDeadLetter(&kgo.Record{})
	require.ErrorContains(t, err, "kstage-origin-topic")
}

// What is optional and illegal counts as missing.
func TestDecodeDeadLetterForgivesWhatIsOptional(t *testing.T) {
	t.Parallel()
	hs := kstage.CopyHeaders(someFacts(), "copy", nil)
	for _, name := range []string{"kstage-stage", "kstage-value-omitted", "kstage-redrive-count", "kstage-first-failed-at", "kstage-last-failed-at", "kstage-origin-timestamp"} {
		hs = append(hs, kgo.RecordHeader{Key: name, Value: []byte("x")})
	}
	d, err := kstage.DecodeDeadLetter(&kgo.Record{Headers: hs})
	require.NoError(t, err)
	require.Zero(t, d.Stage)
	require.EqualValues(t, -1, d.ValueOmitted)
	require.Zero(t, d.RedriveCount)
	require.True(t, d.FirstFailedAt.IsZero() && d.LastFailedAt.IsZero() && d.Origin.Timestamp.IsZero())
}

// Headers are input from outside: nothing in them may make the decoder panic, and
// what it accepts is within bounds.
func FuzzDecodeDeadLetter(f *testing.F) {
	for _, name := range oursNames {
		f.Add(name, []byte("99999999999999999999"), []byte("x"))
		f.Add(name, []byte("-1"), []byte(nil))
	}
	f.Add("", []byte{0xff, 0xfe}, []byte{0})
	f.Add("kstage-origin-partition", []byte("2147483647"), []byte("2147483648"))
	f.Fuzz(func(t *testing.T, key string, first, second []byte) {
		whole := kstage.CopyHeaders(someFacts(), "copy", nil)
		for _, hs := range [][]kgo.RecordHeader{
			{{Key: key, Value: first}},
			{{Key: key, Value: first}, {Key: key, Value: second}},
			append(slices.Clone(whole), kgo.RecordHeader{Key: key, Value: first}),
			append([]kgo.RecordHeader{{Key: key, Value: second}}, whole...),
		} {
			d, err := kstage.DecodeDeadLetter(&kgo.Record{Headers: hs})
			if err != nil {
				require.Zero(t, d)
				continue
			}
			require.True(t, d.Attempt >= 0 && d.Stage >= 0 && d.Origin.Partition >= 0 && d.Origin.Offset >= 0 && d.ValueOmitted >= -1)
			require.True(t, d.RedriveCount >= 0 && d.RedriveCount <= kstage.MaxRedrives)
			count, id := kstage.RedriveFacts(hs)
			require.True(t, count >= 0 && count <= kstage.MaxRedrives && len(id) <= kstage.MaxShortText)
		}
	})
}
