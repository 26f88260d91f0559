package sim

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap/zapcore"

	"github.com/kstage/kstage"
)

// clientTap sees what goes through one of a member's clients.
type clientTap struct {
	m    *member
	role kstage.ClientRole
}

// OnNewClient implements kgo.HookNewClient.
func (t *clientTap) OnNewClient(cl *kgo.Client) {
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	t.m.clients[t.role] = cl
}

// OnProduceRecordBuffered implements kgo.HookProduceRecordBuffered.
func (t *clientTap) OnProduceRecordBuffered(r *kgo.Record) {
	if t.role == kstage.RoleHandOff && !t.m.crashed.Load() {
		t.m.w.history.add(t.copied(CopySent, r))
	}
}

// OnProduceRecordUnbuffered implements kgo.HookProduceRecordUnbuffered: it comes just
// before kstage learns of the answer.
func (t *clientTap) OnProduceRecordUnbuffered(r *kgo.Record, err error) {
	if t.role != kstage.RoleHandOff || t.m.crashed.Load() {
		return
	}
	e := t.copied(CopyAcked, r)
	if err != nil {
		e.Kind, e.Note = CopyFailed, err.Error()
	}
	t.m.w.history.add(e)
}

func (t *clientTap) copied(k Kind, r *kgo.Record) Event {
	e := Event{Kind: k, Member: t.m.name, Group: t.m.group.Name, Record: recordOf(r.Headers), Place: t.m.w.sourceOf(r), Copy: copyFacts(r), Clock: time.Duration(t.m.ahead.Load())}
	if !t.m.w.untouched(r) {
		e.Note = changed
	}
	return e
}

// changed is the note of a copy that is not what was published.
const changed = "key, value or user headers were changed"

// copyFacts are what a copy's headers say; nil: none are there.
func copyFacts(r *kgo.Record) *CopyFacts {
	c := &CopyFacts{Target: r.Topic}
	found := false
	for _, h := range r.Headers {
		n, err := strconv.ParseInt(string(h.Value), 10, 64)
		if err != nil && h.Key != "kstage-reason" {
			continue
		}
		switch h.Key {
		case "kstage-due":
			c.Due, found = time.UnixMilli(n), true
		case "kstage-not-before":
			c.NotBefore, found = time.UnixMilli(n), true
		case "kstage-attempt":
			c.Attempt, found = int(n), true
		case "kstage-stage":
			c.Stage, found = int(n), true
		case "kstage-reason":
			c.Dead, found = true, true
		}
	}
	if !found {
		return nil
	}
	return c
}

// sourceOf is where the record was read that r is a copy of: its copy id tells.
func (w *world) sourceOf(r *kgo.Record) (p Place) {
	for _, h := range r.Headers {
		if h.Key == "kstage-copy-id" {
			source, _, _ := strings.Cut(string(h.Value), ">")
			p = w.placeOf(source)
		}
	}
	return p
}

// placeOf reads an id that is made of a record's coordinates; the zero Place: it is not.
func (w *world) placeOf(id string) Place {
	parts := strings.Split(id, "/") // topic id, partition, leader epoch, offset
	if len(parts) != 4 {
		return Place{}
	}
	topic, e1 := hex.DecodeString(parts[0])
	partition, e2 := strconv.ParseInt(parts[1], 10, 32)
	offset, e3 := strconv.ParseInt(parts[3], 10, 64)
	if e1 != nil || e2 != nil || e3 != nil || len(topic) != 16 {
		return Place{}
	}
	return Place{w.topicOf([16]byte(topic)), int32(partition), offset}
}

// untouched says that a copy's key, value and user headers are what was published.
func (w *world) untouched(r *kgo.Record) bool {
	plan := w.record(recordOf(r.Headers))
	if plan == nil {
		return false
	}
	return same(r.Key, plan.Key) && same(r.Value, plan.Value) && slices.EqualFunc(usersOf(r.Headers), usersOf(plan.published()), func(x, y kgo.RecordHeader) bool {
		return x.Key == y.Key && same(x.Value, y.Value)
	})
}

// same tells nil from empty.
func same(x, y []byte) bool { return bytes.Equal(x, y) && (x == nil) == (y == nil) }

// usersOf leaves out the headers that kstage owns.
func usersOf(hs []kgo.RecordHeader) (users []kgo.RecordHeader) {
	for _, h := range hs {
		if !strings.HasPrefix(h.Key, "kstage-") || h.Key == "kstage-mine" {
			users = append(users, h)
		}
	}
	return users
}

// logTap reads the lines by which kstage tells of its partitions: the only way that
// does not make it tell of each record, too.
type logTap struct {
	m      *member
	fields []zapcore.Field
}

// Enabled implements zapcore.Core.
func (t *logTap) Enabled(l zapcore.Level) bool { return l >= zapcore.InfoLevel }

// With implements zapcore.Core.
func (t *logTap) With(fs []zapcore.Field) zapcore.Core {
	return &logTap{t.m, append(slices.Clone(t.fields), fs...)}
}

// Check implements zapcore.Core.
func (t *logTap) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if e.LoggerName == "" && (e.Message == "partitions assigned" || e.Message == "partitions given back") || t.m.w.log != nil && t.Enabled(e.Level) {
		return c.AddCore(e, t)
	}
	return c
}

// Write implements zapcore.Core.
func (t *logTap) Write(e zapcore.Entry, fs []zapcore.Field) error {
	if t.m.w.log != nil {
		t.m.w.log(t.m.name, e, append(slices.Clone(t.fields), fs...))
	}
	if t.m.crashed.Load() {
		return nil
	}
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fs {
		f.AddTo(enc)
	}
	topic, _ := enc.Fields["topic"].(string)
	partitions, _ := enc.Fields["partitions"].([]any)
	for _, p := range partitions {
		ev := Event{Kind: Assigned, Member: t.m.name, Group: t.m.group.Name, Place: Place{Topic: topic, Partition: p.(int32)}}
		switch e.Message {
		case "partitions assigned":
		case "partitions given back":
			ev.Kind, ev.Note = Given, enc.Fields["kind"].(string)
		default:
			return nil
		}
		ev.Member2, ev.Epoch = t.m.identity(topic)
		t.m.w.history.add(ev)
	}
	return nil
}

// Sync implements zapcore.Core.
func (t *logTap) Sync() error { return nil }

// identity is what the group that reads a topic calls the member.
func (m *member) identity(topic string) (id string, epoch int32) {
	role := kstage.RoleRetry
	if slices.Contains(m.group.Topics, topic) {
		role = kstage.RoleMain
	}
	if cl := m.client(role); cl != nil {
		return cl.GroupMetadata()
	}
	return "", 0
}

// watchCommits sees every commit that reaches a broker, before it is stored.
func (w *world) watchCommits() {
	w.cluster.ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		c := req.(*kmsg.OffsetCommitRequest)
		for _, t := range c.Topics {
			topic := t.Topic
			if topic == "" {
				topic = w.topicOf(t.TopicID)
			}
			for _, p := range t.Partitions {
				w.history.add(Event{Kind: Commit, Group: c.Group, Place: Place{topic, p.Partition, p.Offset}, Member2: c.MemberID, Epoch: c.Generation, Leader: p.LeaderEpoch})
			}
		}
		return nil, nil, false
	})
}
