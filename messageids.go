package kstage

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// newID is who makes the message ids: it appends one to b. Nil: nobody.
func (c *producerConfig) newID() func(b []byte, now time.Time) []byte {
	switch {
	case c.ownIDs:
		return func(b []byte, now time.Time) []byte { return appendUUID(b, now, rand.Uint64()) }
	case c.messageIDs == nil:
		return nil
	}
	return func(b []byte, _ time.Time) []byte { return append(b, c.messageIDs()...) }
}

const uuidText = 36 // characters

// appendUUID appends the text of a UUID of version 7: milliseconds, 12 bits of the rest
// of one, and 62 random bits. So they sort by time. The random bits come from the
// runtime's ChaCha8, each thread's own: no lock, and no call of the kernel.
func appendUUID(b []byte, now time.Time, random uint64) []byte {
	const perMilli = uint64(time.Millisecond)
	nano := uint64(now.UnixNano())
	milli, rest := nano/perMilli, nano%perMilli>>8 // less than 4096
	high := milli<<16 | 0x7000 | rest
	low := random&(1<<62-1) | 1<<63
	b = appendHex(b, high>>32, 8)
	b = appendHex(append(b, '-'), high>>16, 4)
	b = appendHex(append(b, '-'), high, 4)
	b = appendHex(append(b, '-'), low>>48, 4)
	return appendHex(append(b, '-'), low, 12)
}

// appendHex appends the lowest digits of v.
func appendHex(b []byte, v uint64, digits int) []byte {
	const hex = "0123456789abcdef"
	for shift := 4 * (digits - 1); shift >= 0; shift -= 4 {
		b = append(b, hex[v>>shift&0xf])
	}
	return b
}

// idHeader is a header and its text in one allocation.
type idHeader struct {
	header [1]kgo.RecordHeader
	text   [uuidText]byte
}

// ownHeaders are headers for the copy of a record, with a message id where there is none
// and newID makes one.
func ownHeaders(r *kgo.Record, newID func([]byte, time.Time) []byte, now time.Time) []kgo.RecordHeader {
	if newID == nil {
		return slices.Clone(r.Headers)
	}
	if _, set := lastHeader(r.Headers, headerMessageID); set {
		return slices.Clone(r.Headers)
	}
	mine := &idHeader{}
	own := mine.header[:0]
	if len(r.Headers) > 0 {
		own = append(make([]kgo.RecordHeader, 0, len(r.Headers)+1), r.Headers...)
	}
	if id := newID(mine.text[:0], now); len(id) > 0 {
		own = append(own, kgo.RecordHeader{Key: headerMessageID, Value: id})
	}
	return own
}

// messageIDOf is a record's message id; nil: none.
func messageIDOf(r *kgo.Record) []byte {
	id, _ := lastHeader(r.Headers, headerMessageID)
	return id
}
