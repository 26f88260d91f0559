package kstage

import (
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/kstage/kstage/internal/hook"
)

// What the answers to copies lead to: records finished, sent again, or blocked.

// answered is the client's promise: on its goroutine, once for each copy produced.
func (o *handOff) answered(sh *sheet, err error) {
	defer o.busy.Done()
	box, c, partition := sh.box, sh.copying, sh.record.Partition
	hook.Stretch(hook.BeforeResolve)
	stale := err == nil && !c.b.w.resolve(c.held)
	if err == nil && !stale && !o.board.quiet() {
		o.board.clearRecord(HealthOversize, c.coordinates())
		o.board.clearRecord(HealthStuckRecord, c.coordinates())
	}
	o.metrics.HandedOff(HandedOffEvent{Target: box.target.topic, Dead: c.reason != "", Attempt: c.attempt, Stale: stale, Err: err})
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sheets.giveBack(sh)
	if err == nil {
		o.succeeded(box, c)
	} else {
		o.failed(box, c, partition, err)
	}
	if box.asked--; box.asked == 0 {
		o.landed(box)
	}
}

// succeeded is told that a copy was written. o.mu is held.
func (o *handOff) succeeded(box *outbox, c *copying) {
	c.setFlying(false)
	if box.failing {
		o.log.log.Info("hand-off works again", zap.String("target", box.target.topic), zap.Int32("target_partition", box.target.partition))
	}
	box.failures = 0
	o.recovered(box)
}

// recovered takes back that the target fails. o.mu is held.
func (o *handOff) recovered(box *outbox) {
	if box.failing {
		box.failing = false
		o.board.clear(HealthHandOffFailing, box.target.topic, box.target.partition)
	}
}

// failed takes a copy back, to be sent again after the flight. Only one that was
// refused by itself is judged too large. o.mu is held.
func (o *handOff) failed(box *outbox, c *copying, partition int32, err error) {
	switch {
	case o.closed || c.skipped || c.b.w.gone.Load():
		c.setFlying(false)
	case errors.Is(err, kgo.ErrMaxBuffered): // by others: whether it can be written is not known
		box.full = true
		box.takeBack(c)
	case !isTooLarge(err):
		box.down = true
		box.takeBack(c)
		o.useless = o.useless || errors.Is(err, kerr.ClusterAuthorizationFailed)
		o.report(box, err)
	case !box.wasAlone(partition):
		c.suspect = true
		box.takeBack(c)
	case c.shrink(o.oversize):
		box.takeBack(c)
	case c.reason == "":
		o.outgrown(box, c, err)
	default:
		o.refuse(box, c, err)
	}
}

// outgrown is the end of a record whose copy no retry topic takes: it is dead, and
// its dead letter another copy. o.mu is held.
func (o *handOff) outgrown(box *outbox, c *copying, err error) {
	switch o.dead {
	case 0:
		o.log.log.Error("record is too large for its retry topic: to the dead-letter topic", append(coordinateFields(c.coordinates()), zap.String("target", box.target.topic), zap.Error(err))...)
		c.reason, c.due, c.notBefore = ReasonOversize, time.Time{}, time.Time{}
		c.stage = c.facts.stage // it came no further
		c.topic, c.shed, c.suspect = o.dlq, false, false
		dlq := o.box(o.dlq, c.record.Partition)
		dlq.add(c)
		o.goOn(dlq)
	case Drop:
		o.busy.Go(func() {
			o.drop(c)
			o.mu.Lock()
			defer o.mu.Unlock()
			c.setFlying(false)
		})
	case Block: // the topic's limit may be raised
		o.refuse(box, c, err)
	case Stop:
		o.refuse(box, c, err)
		stopped := &StoppedError{Coordinates: c.coordinates(), Err: err}
		o.busy.Go(func() { o.stop(stopped) })
	}
}

// drop finishes a record for which there is no room anywhere: WithoutDLQ(Drop).
func (o *handOff) drop(c *copying) {
	if !c.b.w.resolve(c.held) {
		return // its window is dead, or Skip was first
	}
	co := c.coordinates()
	o.metrics.Handled(HandledEvent{Topic: co.Topic, Partition: co.Partition, Stage: c.facts.stage, Attempt: c.facts.attempt, Outcome: OutcomeDropped, Reason: ReasonOversize})
	o.log.record(c.b.w.ctx, zapcore.ErrorLevel, "record is too large for its retry topic and dropped: WithoutDLQ(Drop)", Message{&c.record, &c.facts}, zap.Stringer("outcome", OutcomeDropped), zap.String("reason", string(ReasonOversize)))
}

func coordinateFields(co Coordinates) []zap.Field {
	return []zap.Field{zap.String("topic", co.Topic), zap.Int32("partition", co.Partition), zap.Int64("offset", co.Offset)}
}

// isTooLarge says that a record, or the batch it was in, is more than the topic takes.
func isTooLarge(err error) bool {
	return errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge)
}

// report tells that the target fails; the log, once. o.mu is held.
func (o *handOff) report(box *outbox, err error) {
	err = explain(err, grantWrite(box.target.topic))
	o.board.raise(HealthReason{Kind: HealthHandOffFailing, Topic: box.target.topic, Partition: box.target.partition, Err: err})
	if !box.failing {
		box.failing = true
		o.log.log.Warn("hand-off fails: records stay unfinished until it works again",
			zap.String("target", box.target.topic), zap.Int32("target_partition", box.target.partition), zap.Error(err))
	}
}

// refuse blocks a record that was refused alone and has nothing left to shed. o.mu is held.
func (o *handOff) refuse(box *outbox, c *copying, err error) {
	c.setFlying(false)
	co := c.coordinates()
	first := o.board.raise(HealthReason{Kind: HealthOversize, Topic: co.Topic, Partition: co.Partition, Offset: co.Offset, Err: err})
	if first {
		o.log.log.Error("record is too large for its target and stays unfinished", append(coordinateFields(co), zap.String("target", box.target.topic), zap.Error(err))...)
	}
	box.refused = append(box.refused, c)
	if box.again == nil {
		box.again = time.AfterFunc(oversizeWait, func() { o.retryRefused(box) })
	}
}

func (o *handOff) retryRefused(box *outbox) {
	o.mu.Lock()
	defer o.mu.Unlock()
	box.again = nil
	box.readmit()
	o.goOn(box)
}

// landed is the end of a flight: all of it is answered. o.mu is held.
func (o *handOff) landed(box *outbox) {
	if o.closed {
		return
	}
	if box.land() {
		limit := handOffBackoff.limit(max(1, box.failures))
		box.rest(limit/2+time.Duration(o.random(int64(limit/2))), func() { o.woken(box) })
	}
	o.goOn(box)
}

// woken is the end of a back-off.
func (o *handOff) woken(box *outbox) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	if !o.useless {
		box.wake()
		o.goOn(box)
		return
	}
	o.busy.Go(func() { // making a client calls a user's function
		o.renew()
		o.mu.Lock()
		defer o.mu.Unlock()
		box.wake()
		o.goOn(box)
	})
}

// goOn starts what may start now; on goroutines of its own, since a promise must
// not wait for the client. o.mu is held.
func (o *handOff) goOn(box *outbox) {
	if o.closed {
		return
	}
	for _, b := range o.spread(box) {
		o.tidy(b)
		if b.mayGo() {
			o.busy.Go(func() {
				o.mu.Lock()
				o.depart(b)
			})
		}
	}
}

// spread gives the copies of an outbox to those of the target's partitions: of the
// one that took all until these were known, and of one whose partition has gone
// with a topic that was created again. o.mu is held.
func (o *handOff) spread(box *outbox) []*outbox {
	n := o.counts[box.target.topic]
	right := n == 0 || box.target.partition >= 0 && box.target.partition < n
	if right || box.asked > 0 || box.resting() {
		return []*outbox{box}
	}
	box.readmit()
	all := box.waiting
	box.waiting = nil
	o.tidy(box)
	var boxes []*outbox
	for _, c := range all {
		b := o.box(box.target.topic, c.record.Partition)
		if len(b.waiting) == 0 {
			boxes = append(boxes, b)
		}
		b.add(c)
	}
	return boxes
}

// tidy forgets an outbox that has nothing to do any more. o.mu is held.
func (o *handOff) tidy(box *outbox) {
	if !box.hasLive() {
		o.recovered(box)
	}
	if box.empty() {
		box.stop()
		if o.outboxes[box.target] == box {
			delete(o.outboxes, box.target)
		}
	}
}

// skip takes a record out of a failing hand-off; false where it is not in one.
func (o *handOff) skip(h *held) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, box := range o.outboxes {
		if box.skip(h) {
			o.tidy(box)
			return true
		}
	}
	return false
}

// forget drops what a dead window has waiting: the partition's next owner meets
// those records again.
func (o *handOff) forget(tp topicPartition) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, box := range o.outboxes {
		box.dropDead(tp)
		o.tidy(box)
	}
}
