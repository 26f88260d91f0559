package kstage

// HoldGate keeps the commit gate, as a commit does that is not answered.
func (c *Consumer) HoldGate() (release func()) {
	c.main.gate.enter()
	return c.main.gate.leave
}
