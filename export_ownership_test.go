package kstage

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage/internal/lanes"
)

// HoldGate keeps the commit gate, as a commit does that is not answered.
func (c *Consumer) HoldGate() (release func()) {
	c.main.gate.enter()
	return c.main.gate.leave
}

// RunAfterForget forgets a window with a parked record whose turn has come: a
// worker has it, and has not yet looked for its copy. It returns how many records
// were told of, and whether the worker gave it up.
func RunAfterForget(c *Consumer) (told int, givenUp bool) {
	in := c.main
	in.base = context.Background() //nolint:forbidigo // it ends with the test's process
	w := newWindow(in, topicPartition{"orders", 0})
	r := &kgo.Record{Topic: "orders", Key: []byte("k")}
	b := w.newBatch(&facts{attempt: 1}, []*kgo.Record{r}, false)
	w.register([]*batch{b}, 1)
	w.hold(&held{place: place{b: b}, record: *r, facts: facts{attempt: 1}}, heldParked)
	w.fence()
	told = w.forget()
	return told, newPipeline(c).run(b, 0) == lanes.Never
}
