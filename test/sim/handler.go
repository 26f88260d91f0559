package sim

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// recordHeader tells which record of the plan this is, on every topic.
const recordHeader = "sim-record"

func recordOf(hs []kgo.RecordHeader) string {
	for _, h := range hs {
		if h.Key == recordHeader {
			return string(h.Value)
		}
	}
	return ""
}

var errGone = errors.New("sim: this process has crashed")

// handle is what every group does with its records.
func (m *member) handle(ctx context.Context, msg kstage.Message) error {
	if m.crashed.Load() {
		return m.gone(ctx)
	}
	r := msg.Record
	e := Event{
		Kind: Started, Member: m.name, Group: m.group.Name, Place: Place{r.Topic, r.Partition, r.Offset}, Record: recordOf(r.Headers),
		Key: keyOf(r.Key), Session: m.session(ctx), Attempt: msg.Attempt(), Stage: msg.Stage(), Clock: time.Duration(m.ahead.Load()),
		Copy: copyFacts(r),
	}
	m.w.history.add(e)
	c := m.w.plan.conduct(m.group, m.w.record(e.Record))
	cancelled := work(ctx, c)
	if m.crashed.Load() {
		return m.gone(ctx)
	}
	e.Kind, e.Copy, e.Clock = Ended, nil, time.Duration(m.ahead.Load())
	return m.end(ctx, e, c, cancelled)
}

// gone is how a call ends whose process is no more: to no effect.
func (m *member) gone(ctx context.Context) error {
	<-ctx.Done()
	return errGone
}

// work takes its time; true: the context has ended, and the handler has heard it.
func work(ctx context.Context, c Conduct) (cancelled bool) {
	if c.Takes == 0 {
		return false
	}
	t := time.NewTimer(c.Takes)
	defer t.Stop()
	if c.Deaf {
		<-t.C
		return false
	}
	select {
	case <-t.C:
		return false
	case <-ctx.Done():
		return true
	}
}

// end writes down how the call ends before kstage can know.
func (m *member) end(ctx context.Context, e Event, c Conduct, cancelled bool) error {
	result := m.result(e, c)
	e.Result = result
	if cancelled || result != OK && ctx.Err() != nil {
		e.Result = Cancelled
	}
	if e.Result == RetryAfter || e.Result == Snoozed {
		e.Wait = c.Wait
	}
	if e.Result != OK && e.Result != Cancelled && m.group.Dead == kstage.Drop && m.group.final(c, e.Attempt) {
		e.Note = finalFailure
	}
	m.w.history.add(e)
	if cancelled {
		return context.Cause(ctx)
	}
	return m.answer(result, c)
}

// finalFailure is the note of a failure that ends a record that may be dropped.
const finalFailure = "final"

// result of a call that is not cancelled.
func (m *member) result(e Event, c Conduct) Result {
	switch {
	case c.Not == Snoozed:
		if m.w.snoozes(e.Record, m.group.Name) {
			return Snoozed
		}
		return OK
	case c.Times < 0, e.Attempt <= c.Times:
		return c.Not
	}
	return OK
}

var errAsPlanned = errors.New("sim: as planned")

func (m *member) answer(r Result, c Conduct) error {
	switch r {
	case OK, Cancelled:
		return nil
	case Failed:
		return errAsPlanned
	case Permanent:
		return kstage.Permanent(errAsPlanned)
	case SkippedIt:
		return kstage.Skip(errAsPlanned)
	case RetryAfter:
		return kstage.RetryAfter(errAsPlanned, c.Wait)
	case Snoozed:
		return kstage.Snooze(c.Wait)
	case Panicked:
		panic(errAsPlanned)
	case Exited:
		runtime.Goexit()
	}
	panic("sim: BUG: unknown result " + r)
}

// keyOf tells nil from empty.
func keyOf(k []byte) string {
	if k == nil {
		return ""
	}
	return "=" + string(k)
}
