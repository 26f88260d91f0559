package kstage

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
)

// AppendUUID is a message id's text.
var AppendUUID = appendUUID

// NewIDs makes message ids as a Producer does.
func NewIDs() func([]byte, time.Time) []byte {
	c := defaultProducerConfig()
	return c.newID()
}

// GuardedPartitioner is what the client gets of a user's.
func GuardedPartitioner(p kgo.Partitioner) kgo.Partitioner {
	return &guardedPartitioner{p: p, guard: &guard{log: zap.NewNop(), board: newHealthBoard(nil)}}
}

// Idempotent says what becomes of the options.
func Idempotent(opts ...ProducerOption) (bool, error) {
	c, err := newProducerConfig(opts)
	return c.idempotent, err
}

// ProducerDefaults are the defaults of a Producer's options, as README.md's table says them.
func ProducerDefaults() map[string]string {
	c := defaultProducerConfig()
	say := func(when bool, text string) string {
		if when {
			return text
		}
		return "something else"
	}
	snappy := slices.Equal(c.compression, []kgo.CompressionCodec{kgo.SnappyCompression(), kgo.NoCompression()})
	return map[string]string{
		"WithTopic":           say(c.topic == "", "none"),
		"WithAcks":            say(c.acks == AcksAll, "`AcksAll`"),
		"WithIdempotence":     say(c.idempotent, "on"),
		"WithRetries":         say(c.retries == math.MaxInt, "unlimited"),
		"WithRetryBackoff":    fmt.Sprintf("from %v to %v, full jitter", c.retryBackoff.Min, c.retryBackoff.Max),
		"WithDeliveryTimeout": fmt.Sprint(c.deliveryTimeout),
		"WithLinger":          fmt.Sprint(c.linger),
		"WithCompression":     say(snappy, "snappy, none"),
		"WithPartitioner":     say(c.partitioner == nil, "by key"),
		"WithBuffer":          fmt.Sprintf("%d records, %d MiB", c.bufferRecords, c.bufferBytes>>20),
		"WithBufferFull":      say(c.bufferFull == BlockWhenFull, "`BlockWhenFull`"),
		"WithMessageIDs":      say(c.ownIDs, "UUIDv7"),
	}
}

// IsDirect says that no code but the client's sees the records of p.
func IsDirect(p *Producer) bool { return p.ledger.now().direct }

// RefuseUnseen is a refusal that nobody has acted on yet.
func RefuseUnseen(p *Producer, err error) { p.ledger.refuse(p.ledger.now(), err) }

// Room is a room, for a test alone.
type Room struct {
	r      room
	waits  []*roomWaiter
	Pauses int // how often somebody was to be let in later
}

// NewRoom makes one.
func NewRoom(records int, bytes int64) *Room {
	return &Room{r: room{mostRecords: records, mostBytes: bytes, pause: time.AfterFunc(time.Hour, func() {})}}
}

// Take takes room.
func (r *Room) Take(size int64) bool { return r.r.take(size) }

// Give gives room back.
func (r *Room) Give(size int64) {
	if r.r.give(size) {
		r.r.notice(func() {})
	}
}

// Admit is the end of the pause.
func (r *Room) Admit() { r.r.admit() }

// Used is what is taken.
func (r *Room) Used() (records int, bytes int64) { return r.r.used().records(), r.r.used().bytes() }

// Wait queues up and returns the number of the one who waits.
func (r *Room) Wait(size int64) int {
	r.waits = append(r.waits, r.r.wait(size))
	return len(r.waits) - 1
}

// Leave ends a wait; true: it had got room.
func (r *Room) Leave(i int) bool { return r.r.leave(r.waits[i]) }

// In says who was let in.
func (r *Room) In() (is []int) {
	for i, w := range r.waits {
		select {
		case <-w.in:
			is = append(is, i)
		default:
		}
	}
	return is
}

// roomOfOne is a ledger with room for one record, for a test alone.
func roomOfOne(ctx context.Context) *ledger {
	c := defaultProducerConfig()
	c.bufferRecords = 1
	return newLedger(&c, &link{}, func() *term { return &term{ctx: ctx, cancel: func() {}} })
}

// LeftRoom has many wait for the room of one record, which comes free at the moment
// they lose patience, and returns what is still taken in the end.
func LeftRoom(t *testing.T, rounds int) (records int) {
	t.Helper()
	l := roomOfOne(t.Context())
	for range rounds {
		if _, err := l.accept(t.Context(), &pending{}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		accepted := make(chan error)
		go func() {
			_, err := l.accept(ctx, &pending{})
			accepted <- err
		}()
		for waits := false; !waits; {
			l.mu.Lock()
			waits = len(l.room.queue) > 0
			l.mu.Unlock()
		}
		go cancel()
		l.finish(0)
		if err := <-accepted; err == nil {
			l.finish(0)
		}
		cancel()
	}
	return l.room.used().records()
}

// MetRoom has one begin to wait at the moment the room it needs comes free: sooner or later
// by a few nanoseconds. It fails where that is not seen.
func MetRoom(t *testing.T, rounds int) {
	t.Helper()
	l := roomOfOne(t.Context())
	l.timeout = 5 * time.Second
	var taken, given atomic.Int64 // rounds
	defer taken.Store(math.MaxInt64)
	go func() {
		for n := range int64(rounds) {
			for taken.Load() <= n {
			}
			for range n % 256 {
				given.Store(n)
			}
			l.finish(0)
			given.Store(n + 1)
		}
	}()
	for n := range int64(rounds) {
		if _, err := l.accept(t.Context(), &pending{}); err != nil {
			t.Fatal(err)
		}
		taken.Store(n + 1)
		if _, err := l.accept(t.Context(), &pending{}); err != nil {
			t.Fatal(n, err)
		}
		for given.Load() <= n {
		}
		l.finish(0)
	}
}

// MostPages puts records down, each claimed when there are so many younger ones but for every
// stuck-th of them, and returns how many pages there were at most, and after a last sweep.
func MostPages(records, younger, stuck int) (most, left int) {
	t, all := &term{}, make([]*pending, records)
	for i := range all {
		all[i] = &pending{}
		all[i].caller.Store(nobody)
		t.enter(all[i])
		if j := i - younger; j >= 0 && j%stuck > 0 {
			all[j].claim()
		}
		most = max(most, t.pages())
	}
	for j := range all {
		if j%stuck > 0 {
			all[j].claim()
		}
	}
	t.sweep()
	return most, t.pages()
}

// TurnedPages accepts records of which some are told of, and returns how many pages there are
// after a turn of the ledger.
func TurnedPages(t *testing.T, records, told int) (n int) {
	t.Helper()
	c := defaultProducerConfig()
	l := newLedger(&c, &link{}, func() *term { return &term{ctx: t.Context(), cancel: func() {}} })
	all := make([]*pending, records)
	for i := range all {
		all[i] = &pending{}
		all[i].caller.Store(nobody)
		if _, err := l.accept(t.Context(), all[i]); err != nil {
			t.Fatal(err)
		}
	}
	for _, pd := range all[:told] {
		pd.claim()
		l.told(l.term)
	}
	l.turn(time.Now(), func([]openTerm) {})
	for _, of := range append(l.terms, l.term) {
		n += of.pages()
	}
	return n
}

func (t *term) pages() (n int) {
	for pg := t.first; pg != nil; pg = pg.next {
		n++
	}
	return n
}
