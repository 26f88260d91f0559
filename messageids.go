package kstage

import (
	"encoding/hex"
	"math/rand/v2"
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
	var id [16]byte
	for i := range 6 {
		id[i] = byte(milli >> (40 - 8*i))
	}
	id[6], id[7] = 0x70|byte(rest>>8), byte(rest)
	for i := range 8 {
		id[8+i] = byte(random >> (56 - 8*i))
	}
	id[8] = id[8]&0x3f | 0x80
	for i, part := range [][]byte{id[:4], id[4:6], id[6:8], id[8:10], id[10:]} {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, part)
	}
	return b
}

// idHeader is a header and its text in one allocation.
type idHeader struct {
	header [1]kgo.RecordHeader
	text   [uuidText]byte
}
