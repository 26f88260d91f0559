package kstage

import (
	"encoding/binary"
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
	var hex [32]byte
	binary.BigEndian.PutUint64(hex[:], hexOf(uint32(high>>32)))
	binary.BigEndian.PutUint64(hex[8:], hexOf(uint32(high)))
	binary.BigEndian.PutUint64(hex[16:], hexOf(uint32(low>>32)))
	binary.BigEndian.PutUint64(hex[24:], hexOf(uint32(low)))
	b = append(append(b, hex[:8]...), '-')
	b = append(append(b, hex[8:12]...), '-')
	b = append(append(b, hex[12:16]...), '-')
	b = append(append(b, hex[16:20]...), '-')
	return append(b, hex[20:]...)
}

// hexOf is eight hexadecimal digits at once: an id takes 27 ns, and 66 by encoding/hex.
func hexOf(v uint32) uint64 {
	const each = 0x0101010101010101
	d := uint64(v)
	d = (d<<16 | d) & 0x0000ffff0000ffff
	d = (d<<8 | d) & 0x00ff00ff00ff00ff
	d = (d<<4 | d) & 0x0f0f0f0f0f0f0f0f // a digit in each byte
	letters := (d + 6*each) >> 4 & each // 1 where it is above 9
	return d + '0'*each + ('a'-'9'-1)*letters
}

// pendingWithID is a record, a header for its message id and that in one allocation.
type pendingWithID struct {
	pending
	header [1]kgo.RecordHeader
	text   [uuidText]byte
}

// newPending makes a copy of r with headers of its own, and a message id where there is none
// and newID makes one.
func newPending(r *kgo.Record, newID func([]byte, time.Time) []byte, now time.Time) *pending {
	if _, set := lastHeader(r.Headers, headerMessageID); set || newID == nil {
		return &pending{record: kgo.Record{Headers: slices.Clone(r.Headers)}}
	}
	pd := &pendingWithID{}
	own := pd.header[:0]
	if len(r.Headers) > 0 {
		own = append(make([]kgo.RecordHeader, 0, len(r.Headers)+1), r.Headers...)
	}
	if id := newID(pd.text[:0], now); len(id) > 0 {
		own = append(own, kgo.RecordHeader{Key: headerMessageID, Value: id})
	}
	pd.record.Headers = own
	return &pd.pending
}

// messageIDOf is a record's message id; nil: none.
func messageIDOf(r *kgo.Record) []byte {
	id, _ := lastHeader(r.Headers, headerMessageID)
	return id
}
