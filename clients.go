package kstage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/plugin/kzap"
	"go.uber.org/zap"
)

// metadataAge bounds how long added partitions, and topics that a pattern
// matches, stay unnoticed.
const metadataAge = 30 * time.Second

// producerMetadataPause is the client's pause between looks at a topic that is not as it
// should be: with its default of 2.5 s a producer's first record to a missing topic fails
// after 1 s, the third and all later ones after 25 s; with this one after 5 s. It also
// finds a new leader sooner.
const producerMetadataPause = time.Second

// clientOptions are those of every client. The user's come after what may be
// changed; the caller puts after them what may not.
func (c *commonConfig) clientOptions(role ClientRole) []kgo.Opt {
	opts := []kgo.Opt{
		kgo.ClientID(c.clientID),
		kgo.WithLogger(kzap.New(c.clientLogger())),
		kgo.MetadataMaxAge(metadataAge),
	}
	if role == RoleProducer {
		opts = append(opts, kgo.MetadataMinAge(producerMetadataPause))
	}
	if c.extraOptions != nil {
		opts = append(opts, c.extraOptions(role)...)
	}
	opts = append(opts, kgo.SeedBrokers(c.brokers...))
	if c.tls != nil {
		opts = append(opts, kgo.DialTLSConfig(c.tls))
	}
	if c.sasl != nil {
		opts = append(opts, kgo.SASL(refusing(c.sasl)))
	}
	return opts
}

// clientLogger is for what clients have to say: each of their steps, at info. Who does not
// debug gets warnings and errors.
func (c *commonConfig) clientLogger() *zap.Logger {
	l := c.logger.Named("kgo")
	if l.Core().Enabled(zap.DebugLevel) || !l.Core().Enabled(zap.WarnLevel) {
		return l
	}
	return l.WithOptions(zap.IncreaseLevel(zap.WarnLevel))
}

// newClient makes a client for a role; ours are the options that win. A hook that
// refuses to be on two clients panics in there, and so may the user's function:
// that is a mistake of the options, not a reason to die.
func (c *commonConfig) newClient(role ClientRole, ours ...kgo.Opt) (cl *kgo.Client, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("kstage: making a client panicked (is one hook on two clients? see WithClientOptions): %v", v)
		}
	}()
	cl, err = kgo.NewClient(append(c.clientOptions(role), ours...)...)
	if err != nil {
		return nil, fmt.Errorf("kstage: make a client (see WithClientOptions): %w", err)
	}
	return cl, nil
}

// showsRecords says that somebody else sees the records that the client produces, and may
// keep them: a partitioner, or a hook of WithClientOptions.
func showsRecords(cl *kgo.Client) bool {
	standard := reflect.TypeOf(kgo.UniformBytesPartitioner(1, false, false, nil)) // the client's own; it looks at keys
	return showsHooks(cl) || reflect.TypeOf(cl.OptValue(kgo.RecordPartitioner)) != standard
}

// showsHooks says that it is a hook.
func showsHooks(cl *kgo.Client) bool {
	hooks := reflect.ValueOf(cl.OptValue(kgo.WithHooks)) // a slice of a type that is not exported
	for i := range hooks.Len() {
		switch hooks.Index(i).Interface().(type) {
		case kgo.HookProduceRecordBuffered, kgo.HookProduceRecordPartitioned, kgo.HookProduceRecordUnbuffered:
			return true
		}
	}
	return false
}

// greeting is what a connection begins with.
var greeting = []kmsg.Key{kmsg.ApiVersions, kmsg.SASLHandshake, kmsg.SASLAuthenticate} //nolint:gochecknoglobals // a constant in all but type

// silence is how long no broker may have answered until a refused connection
// means that none can be reached: one of several may be away.
const silence = 5 * time.Second

// connections makes Health say HealthDisconnected while brokers do not answer and
// a connection cannot be made. It counts no connections: an idle one that is dead
// looks like a live one.
type connections struct {
	board *healthBoard
	log   *zap.Logger
	heard atomic.Int64 // unix nanoseconds of the last answer
	said  atomic.Bool  // that they are disconnected
}

func newConnections(board *healthBoard, log *zap.Logger) *connections {
	c := &connections{board: board, log: log}
	c.heard.Store(time.Now().UnixNano())
	return c
}

// OnBrokerRead implements kgo.HookBrokerRead. The answers that a connection begins
// with do not count: it may be refused after them.
func (c *connections) OnBrokerRead(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	if err != nil || slices.Contains(greeting, kmsg.Key(key)) {
		return
	}
	c.heard.Store(time.Now().UnixNano())
	if c.board.clear(HealthDisconnected, "", -1) && c.said.Swap(false) {
		c.log.Info("connected again")
	}
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (c *connections) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) { // nobody waits for it any more
		return
	}
	if time.Since(time.Unix(0, c.heard.Load())) < silence {
		return
	}
	if c.board.raise(HealthReason{Kind: HealthDisconnected, Partition: -1, Err: explain(err, "")}) {
		c.said.Store(true)
		c.log.Warn("disconnected: no broker can be reached", zap.Error(err))
	}
}

// trouble is why a client got no answer last: a request that runs out of time does not
// tell. Its zero value is ready.
type trouble struct{ err atomic.Pointer[error] }

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (t *trouble) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	t.note(err)
}

// OnBrokerRead implements kgo.HookBrokerRead.
func (t *trouble) OnBrokerRead(_ kgo.BrokerMetadata, _ int16, _ int, _, _ time.Duration, err error) {
	t.note(err)
}

// note keeps no context's end: that is what it is asked about.
func (t *trouble) note(err error) {
	if err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, kgo.ErrClientClosed) {
		t.err.Store(&err)
	}
}

func (t *trouble) last() error {
	if p := t.err.Load(); p != nil {
		return *p
	}
	return nil
}
