package kstage

import (
	"context"
	"errors"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	requestIDHeader = "request-id" // of the application: what one request has caused is found by it
	mostRequestID   = 256          // bytes that are logged: anybody may write headers
)

// recordLog writes the log lines about one record: always the same keys, never its
// value, nor a header but the request's id.
type recordLog struct {
	log         *zap.Logger
	fields      func(context.Context) []zap.Field // nil: none
	redactKey   func([]byte) string               // nil: as it is
	redactError func(string) string               // nil: as it is
}

// newRecordLog makes the log; g shows panics as redacted from then on.
func newRecordLog(c *consumerConfig, g *guard) *recordLog {
	l := &recordLog{
		log:         c.logger,
		fields:      g.fields(c.logFields),
		redactKey:   textFunc(g, "WithKeyRedactor", c.keyRedactor),
		redactError: textFunc(g, "WithErrorRedactor", c.errorRedactor),
	}
	g.redact = l.redactError
	return l
}

func (l *recordLog) debug() bool { return l.log.Core().Enabled(zapcore.DebugLevel) }

func (l *recordLog) record(ctx context.Context, level zapcore.Level, text string, msg Message, more ...zap.Field) {
	line := l.log.Check(level, text)
	if line == nil {
		return
	}
	r := msg.Record
	fields := []zap.Field{
		zap.String("topic", r.Topic), zap.String("key", l.key(r.Key)), zap.String("message_id", msg.ID()),
		zap.Int32("partition", r.Partition), zap.Int64("offset", r.Offset),
		zap.Int("attempt", msg.Attempt()), zap.Int("stage", msg.Stage()), requestID(r.Headers),
	}
	if l.fields != nil {
		fields = append(fields, l.fields(ctx)...)
	}
	line.Write(append(fields, more...)...)
}

// requestID is the field of a record's request-id; none where it has none.
func requestID(headers []kgo.RecordHeader) zap.Field {
	id, ok := lastHeader(headers, requestIDHeader)
	if !ok || len(id) == 0 {
		return zap.Skip()
	}
	return zap.String("request_id", strings.ToValidUTF8(string(id[:min(len(id), mostRequestID)]), "?"))
}

func (l *recordLog) key(k []byte) string {
	if l.redactKey != nil {
		return l.redactKey(k)
	}
	return string(k)
}

// err is the field of a handler's error, redacted.
func (l *recordLog) err(err error) zap.Field {
	if err == nil {
		return zap.Skip()
	}
	return zap.String("error", l.errorText(err))
}

func (l *recordLog) errorText(err error) string {
	if l.redactError != nil {
		return l.redactError(err.Error())
	}
	return err.Error()
}

// shown is the error of Run as Health may show it.
func (l *recordLog) shown(err error) error {
	if se := (*StoppedError)(nil); errors.As(err, &se) { // the only one that holds a handler's error
		return l.redacted(err)
	}
	return err
}

// redacted is a handler's error as it may be shown.
func (l *recordLog) redacted(err error) error {
	if l.redactError == nil {
		return err
	}
	return errors.New(l.redactError(err.Error()))
}
