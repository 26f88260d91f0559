package kstage

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Message is one delivery of a record: a small value, to be passed and kept as it
// is. It stays valid after the handler returned, and so does its Record. A retry
// gets a new Message. Its methods are safe for concurrent use; the record must not
// be changed. One that is made with
// nothing but a Record, to test a handler, is a first delivery from a main topic.
type Message struct {
	// Record is the record as read: on a retry topic, with that topic's
	// coordinates and headers (see Origin).
	Record *kgo.Record

	facts *facts
}

// facts is what a Message knows beyond its record. The messages of one batch of a
// main topic share one, so that a first delivery costs two words.
type facts struct {
	topicID       [16]byte
	attempt       int                      // handler calls so far, this one included
	stage         int                      // of the record: 0 at the foot of the ladder
	firstFailedAt time.Time                // zero: never failed
	retry         *retryFacts              // nil: read from a main topic
	identify      func(*kgo.Record) string // WithMessageID; nil: none
}

// ID identifies the record across retries, and is the same in every stage: the
// answer of WithMessageID where it is not empty, else the header message-id (its last
// value) where it is not empty, else
// topic id/partition/leader epoch/offset, which differs even for a topic that
// was deleted and created again. It allocates. An id of more than 512 bytes, or
// one that is not UTF-8, is told by its SHA-256.
func (m Message) ID() string { return string(m.appendID(make([]byte, 0, coordinatesSize))) }

// coordinatesSize is enough for appendCoordinates.
const coordinatesSize = 80

// appendID is ID without the string.
func (m Message) appendID(to []byte) []byte {
	if id := m.givenID(); len(id) > 0 {
		return appendGivenID(to, id)
	}
	return m.appendCoordinates(to)
}

// appendGivenID tells an id that is too long, or no text, by its hash.
func appendGivenID(to, id []byte) []byte {
	if len(id) > maxShortText || !utf8.Valid(id) {
		return fmt.Appendf(to, "sha256:%x", sha256.Sum256(id))
	}
	return append(to, id...)
}

// givenID is the id that the record was given by anybody; empty: none.
func (m Message) givenID() []byte {
	f := m.known()
	if f.retry != nil {
		if id, _ := m.Header(headerID); len(id) > 0 {
			return id
		}
	}
	if f.identify != nil {
		if id := f.identify(m.Record); id != "" {
			return []byte(id)
		}
	}
	id, _ := m.Header(headerMessageID)
	return id
}

// appendCoordinates names a record by where it stands. Brokers before Kafka 3.1
// send no topic id; the record's timestamp then tells two topics of one name apart.
func (m Message) appendCoordinates(to []byte) []byte {
	r := m.Record
	if topicID := m.known().topicID; topicID == ([16]byte{}) {
		to = strconv.AppendInt(append(append(to, r.Topic...), '@'), r.Timestamp.UnixMilli(), 10)
	} else {
		to = hex.AppendEncode(to, topicID[:])
	}
	to = strconv.AppendInt(append(to, '/'), int64(r.Partition), 10)
	to = strconv.AppendInt(append(to, '/'), int64(r.LeaderEpoch), 10)
	return strconv.AppendInt(append(to, '/'), r.Offset, 10)
}

// Attempt counts the handler calls for this record, this one included: 1 is the
// first ever, whatever stage it is read from. Calls whose error came after a
// cancellation, and those that returned Snooze, do not count.
func (m Message) Attempt() int { return m.known().attempt }

// Stage tells how far up the ladder of WithRetryStages the record is: 0 where no
// stage was spent on it. It is the number of the retry topic it was read from, but
// for a snoozed record, which keeps its stage.
func (m Message) Stage() int { return m.known().stage }

// Origin is where the record was first read. Of a record from a retry topic it is
// what its copy's headers say.
func (m Message) Origin() Origin {
	r := m.Record
	if m.known().retry != nil {
		h := headerReader{hs: r.Headers}
		if o := h.origin(); h.err == nil && len(o.Topic) <= maxTopicName {
			return o
		}
	}
	return Origin{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp}
}

// FirstFailedAt is when a handler first failed on this record, or snoozed it, by
// that process's clock; false where none has.
func (m Message) FirstFailedAt() (t time.Time, ok bool) {
	t = m.known().firstFailedAt
	return t, !t.IsZero()
}

// known returns the facts, also of a Message that has none.
func (m Message) known() *facts {
	if m.facts == nil {
		return &facts{attempt: 1}
	}
	return m.facts
}

// Key is the record's key: nil and empty differ.
func (m Message) Key() []byte { return m.Record.Key }

// Value is the record's value: nil (a tombstone) and empty differ.
func (m Message) Value() []byte { return m.Record.Value }

// Header returns the last value of the header key; false where there is none. A
// header may be there with a nil value.
func (m Message) Header(key string) ([]byte, bool) { return lastHeader(m.Record.Headers, key) }

// Origin is where a record was first read: its coordinates and its own timestamp.
type Origin struct {
	Topic     string
	Partition int32
	Offset    int64
	Timestamp time.Time
}
