package kstage

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Headers of copies. All are UTF-8 text, numbers in decimal, times in unix
// milliseconds. They are input from outside when they are read: on a main topic
// they mean nothing, but for the two of a redrive.
const (
	headerMessageID = "message-id" // the application's own

	headerID              = "kstage-id"
	headerCopyID          = "kstage-copy-id"
	headerOriginTopic     = "kstage-origin-topic"
	headerOriginPartition = "kstage-origin-partition"
	headerOriginOffset    = "kstage-origin-offset"
	headerOriginTimestamp = "kstage-origin-timestamp"
	headerGroup           = "kstage-group"
	headerAttempt         = "kstage-attempt"
	headerStage           = "kstage-stage"
	headerDue             = "kstage-due"
	headerNotBefore       = "kstage-not-before"
	headerFirstFailedAt   = "kstage-first-failed-at"
	headerLastFailedAt    = "kstage-last-failed-at"
	headerReason          = "kstage-reason"
	headerErrorType       = "kstage-error-type"
	headerError           = "kstage-error"
	headerStack           = "kstage-stack"
	headerValueOmitted    = "kstage-value-omitted"
	headerRedriveCount    = "kstage-redrive-count"
	headerRedriveID       = "kstage-redrive-id"
	headerVersion         = "kstage-version"

	headerFormat = "1"
)

const (
	headerBudget = 8 << 10 // of all our headers together
	maxErrorText = 1 << 10
	maxShortText = 512 // an id, a type, a group
	maxRedrives  = 1000
	cutMark      = "... [cut]"
)

// ours says that a header is one of those a copy's are replaced by.
func ours(key string) bool {
	switch key {
	case headerID, headerCopyID, headerOriginTopic, headerOriginPartition, headerOriginOffset, headerOriginTimestamp,
		headerGroup, headerAttempt, headerStage, headerDue, headerNotBefore, headerFirstFailedAt, headerLastFailedAt,
		headerReason, headerErrorType, headerError, headerStack, headerValueOmitted,
		headerRedriveCount, headerRedriveID, headerVersion:
		return true
	}
	return false
}

// copyFacts is what the headers of a copy tell.
type copyFacts struct {
	id, copyID    []byte
	origin        Origin
	group         string
	attempt       int
	stage         int
	due           time.Time // zero: a dead letter
	notBefore     time.Time // zero: none
	firstFailedAt time.Time
	lastFailure
	reason       Reason // empty: a retry
	valueOmitted int64  // -1: it is there
	redriveCount int
	redriveID    string
}

// headers writes those of the copy: the record's own, in their order, and then the
// facts. The record's slice is not changed.
func (f *copyFacts) headers(own []kgo.RecordHeader, sh *sheet) []kgo.RecordHeader {
	w := headerWriter{hs: sh.headers[:0], buf: sh.text[:0]}
	w.others(own)
	w.bytes(headerID, f.id)
	w.bytes(headerCopyID, f.copyID)
	w.text(headerOriginTopic, f.origin.Topic, math.MaxInt)
	w.number(headerOriginPartition, int64(f.origin.Partition))
	w.number(headerOriginOffset, f.origin.Offset)
	w.number(headerOriginTimestamp, f.origin.Timestamp.UnixMilli())
	w.text(headerGroup, f.group, maxShortText)
	w.number(headerAttempt, int64(f.attempt))
	w.number(headerStage, int64(f.stage))
	w.time(headerDue, nextMilli(f.due))
	w.time(headerNotBefore, nextMilli(f.notBefore))
	w.number(headerFirstFailedAt, f.firstFailedAt.UnixMilli())
	w.time(headerLastFailedAt, f.at)
	w.text(headerReason, string(f.reason), maxShortText)
	if f.valueOmitted >= 0 {
		w.number(headerValueOmitted, f.valueOmitted)
	}
	if f.redriveCount > 0 {
		w.number(headerRedriveCount, int64(f.redriveCount))
		w.text(headerRedriveID, f.redriveID, maxShortText)
	}
	w.text(headerVersion, headerFormat, maxShortText)
	w.text(headerErrorType, f.errorType, maxShortText)
	w.text(headerError, f.errorText, maxErrorText)
	w.text(headerStack, f.stack, headerBudget-w.size-len(headerStack))
	sh.headers, sh.text = w.hs, w.buf
	return w.hs
}

// plainFacts is more than what all take together but the error's type and text, and a
// stack, where topics, the group and ids have usual names.
const plainFacts = 2 << 10

// headerWriter appends headers and counts their bytes. Their values are pieces of one
// buffer.
type headerWriter struct {
	hs   []kgo.RecordHeader
	buf  []byte
	size int
}

// others writes the headers that are not ours.
func (w *headerWriter) others(own []kgo.RecordHeader) {
	for _, h := range own {
		if !ours(h.Key) {
			w.hs = append(w.hs, h)
		}
	}
}

// text writes s, cut and marked as cut where it is longer than most, unless it is empty.
func (w *headerWriter) text(key, s string, most int) {
	if s == "" || most <= len(cutMark) {
		return
	}
	from := len(w.buf)
	w.buf = append(w.buf, cutText(s, most)...)
	w.header(key, from)
}

func (w *headerWriter) bytes(key string, v []byte) {
	from := len(w.buf)
	w.buf = append(w.buf, v...)
	w.header(key, from)
}

func (w *headerWriter) number(key string, n int64) {
	from := len(w.buf)
	w.buf = strconv.AppendInt(w.buf, n, 10)
	w.header(key, from)
}

// time writes t, unless it is zero.
func (w *headerWriter) time(key string, t time.Time) {
	if !t.IsZero() {
		w.number(key, t.UnixMilli())
	}
}

// nextMilli rounds up what a header has no room for: cut, it would be too early.
func nextMilli(t time.Time) time.Time {
	if cut := t.Truncate(time.Millisecond); cut.Before(t) {
		return cut.Add(time.Millisecond)
	}
	return t
}

// header adds one whose value was written from there on.
func (w *headerWriter) header(key string, from int) {
	v := w.buf[from:len(w.buf):len(w.buf)]
	w.hs = append(w.hs, kgo.RecordHeader{Key: key, Value: v})
	w.size += len(key) + len(v)
}

// cutText makes s valid UTF-8 of at most so many bytes, marked where it was cut.
// Invalid bytes in a row become one mark, so the text may also get shorter.
func cutText(s string, most int) string {
	cut := len(s) > most
	if cut {
		s = s[:most+1] // of a huge text, no more is looked at
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	if !cut && len(s) <= most {
		return s
	}
	end := min(len(s), most-len(cutMark))
	for end > 0 && end < len(s) && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + cutMark
}

// errorType names the Go type of the innermost error: what the handler met, not
// what it wrapped it with. Of joined errors it is the first's.
func errorType(err error) string {
	for {
		switch e := err.(type) { //nolint:errorlint // each error of the chain by itself
		case *PanicError:
			return panicType(e)
		case *unreadableError:
			return e.typ
		case *timeoutError:
			err = e.err
			continue
		}
		inner := unwrapFirst(err)
		if inner == nil {
			return reflect.TypeOf(err).String()
		}
		err = inner
	}
}

// unwrapFirst returns what err wraps: of several, the first. Nil: nothing.
func unwrapFirst(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if e != nil {
				return e
			}
		}
		return nil
	}
	return errors.Unwrap(err)
}

func panicType(e *PanicError) string {
	if e.Value == nil {
		return "runtime.Goexit"
	}
	return fmt.Sprintf("panic(%T)", e.Value)
}

// redriveFacts are the two headers that a main topic's record carries on: how
// often it was redriven, and by which run. Forged ones can only refuse a redrive.
func redriveFacts(hs []kgo.RecordHeader) (count int, id string) {
	r := headerReader{hs: hs}
	return r.redrives(), cutText(r.optional(headerRedriveID), maxShortText)
}

// DecodeDeadLetter reads the facts of a record of a dead-letter topic. It fails
// where the record was not written by kstage: the error names the header that is
// missing or no number. What is optional and illegal counts as missing.
func DecodeDeadLetter(r *kgo.Record) (DeadLetter, error) {
	h := headerReader{hs: r.Headers}
	d := DeadLetter{
		Record:        r,
		ID:            h.optional(headerID),
		Group:         h.optional(headerGroup),
		Origin:        h.origin(),
		Attempt:       int(h.number(headerAttempt, math.MaxInt32)),
		Stage:         int(h.optionalNumber(headerStage, 0)),
		Reason:        Reason(h.text(headerReason)),
		ErrorType:     h.optional(headerErrorType),
		Error:         h.optional(headerError),
		Stack:         h.optional(headerStack),
		ValueOmitted:  h.optionalNumber(headerValueOmitted, -1),
		RedriveCount:  h.redrives(),
		RedriveID:     h.optional(headerRedriveID),
		FirstFailedAt: h.time(headerFirstFailedAt),
		LastFailedAt:  h.time(headerLastFailedAt),
	}
	if h.err != nil {
		return DeadLetter{}, fmt.Errorf("kstage: %s/%d@%d is no dead letter: %w", r.Topic, r.Partition, r.Offset, h.err)
	}
	return d, nil
}

// headerReader reads headers, the last of a name, and keeps the first error.
type headerReader struct {
	hs  []kgo.RecordHeader
	err error
}

func (r *headerReader) optional(key string) string {
	v, _ := lastHeader(r.hs, key)
	return string(v)
}

func (r *headerReader) text(key string) string {
	v, ok := lastHeader(r.hs, key)
	if !ok && r.err == nil {
		r.err = fmt.Errorf("it has no header %s", key)
	}
	return string(v)
}

// number reads one from 0 to most.
func (r *headerReader) number(key string, most int64) int64 {
	s := r.text(key)
	n, err := strconv.ParseInt(s, 10, 64)
	if (err != nil || n < 0 || n > most) && r.err == nil {
		r.err = fmt.Errorf("header %s is %q, not a number from 0 to %d", key, cutText(s, 64), most)
	}
	return n
}

// optionalNumber reads one from 0 to the largest int32, else d.
func (r *headerReader) optionalNumber(key string, d int64) int64 {
	n, err := strconv.ParseInt(r.optional(key), 10, 64)
	if err != nil || n < 0 || n > math.MaxInt32 {
		return d
	}
	return n
}

// origin reads where the record was first read.
func (r *headerReader) origin() Origin {
	return Origin{
		Topic:     r.text(headerOriginTopic),
		Partition: int32(r.number(headerOriginPartition, math.MaxInt32)),
		Offset:    r.number(headerOriginOffset, math.MaxInt64),
		Timestamp: r.time(headerOriginTimestamp),
	}
}

// redrives reads how often the record was redriven. However large a number is, it
// is one: only what is no number counts as never.
func (r *headerReader) redrives() int {
	if _, ok := lastHeader(r.hs, headerRedriveCount); !ok { // nearly always: an error less to make
		return 0
	}
	n, err := strconv.ParseInt(r.optional(headerRedriveCount), 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0
	}
	return int(max(0, min(n, maxRedrives))) // out of range, n is the nearest that is in it
}

// time reads a time; zero where there is none.
func (r *headerReader) time(key string) time.Time {
	n, err := strconv.ParseInt(r.optional(key), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(n)
}

func lastHeader(hs []kgo.RecordHeader, key string) ([]byte, bool) {
	for i := len(hs) - 1; i >= 0; i-- {
		if hs[i].Key == key {
			return hs[i].Value, true
		}
	}
	return nil, false
}
