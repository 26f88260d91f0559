package main

// mutant is a mistake, planted by replacing a text that occurs once in a file.
type mutant struct {
	name    string
	file    string
	old     string
	planted string
	breaks  string // what goes wrong
	test    string // of the root package, or a package and a test; empty: the simulator
}

// mutants are the mistakes. Their texts must be found, or a test fails: whoever
// changes the code changes the mistake with it.
func mutants() []mutant {
	return []mutant{
		{
			name: "commit-highest", file: "window.go",
			old:     "m, ok := w.tracker.Mark()\n\treturn m, ok && !w.dead && m.Offset > w.committed",
			planted: "m, ok := w.tracker.Mark()\n\tif h, any := w.tracker.Highest(); any {\n\t\tm.Offset, ok = h+1, true\n\t}\n\treturn m, ok && !w.dead && m.Offset > w.committed",
			breaks:  "the highest finished offset is committed, whatever is open below",
		},
		{
			name: "commit-race", file: "committer.go",
			old:     "\tin.gate.enter()\n\tevents := in.commit(ctx, in.snapshot())\n\tin.gate.leave()\n\tin.tellCommitted(events)\n}\n\n// tellCommitted",
			planted: "\tevents := in.commit(ctx, in.snapshot())\n\tin.tellCommitted(events)\n}\n\n// tellCommitted",
			breaks:  "marks are read and committed outside the gate: a commit names partitions that were given up meanwhile",
		},
		{
			name: "commit-on-lost", file: "ownership.go",
			old:     "if kind == PartitionsRevoked {\n\t\tcommitted",
			planted: "if kind != 0 {\n\t\tcommitted",
			breaks:  "lost partitions are committed",
			test:    "TestLost|TestSilentRejoin",
		},
		{
			name: "ack-before-handoff", file: "settle.go",
			old:     "\t\td.due = earlier(d.due, v.notBefore)\n\t}\n\tp.handOff.start(h, d, c.err)",
			planted: "\t\td.due = earlier(d.due, v.notBefore)\n\t}\n\tc.b.w.resolve(h)\n\tp.handOff.start(h, d, c.err)",
			breaks:  "a record is finished before its copy is acknowledged",
		},
		{
			name: "epoch-0", file: "committer.go",
			old:     "kgo.EpochOffset{Epoch: m.Epoch,",
			planted: "kgo.EpochOffset{Epoch: 0 * m.Epoch,",
			breaks:  "commits carry the leader epoch 0",
		},
		{
			name: "lost-commits-ignored", file: "ownership.go",
			old:     "member != in.memberID() {\n\t\tin.give",
			planted: "member == \"nobody\" {\n\t\tin.give",
			breaks:  "a revocation as another member is not taken for a loss",
			test:    "TestSilentRejoinIsALoss",
		},
		{
			name: "held-counts-as-finished", file: "held.go",
			old:     "\t\tw.tracker.Hold(h.b.done, h.i)\n",
			planted: "",
			breaks:  "a record that is parked or leaving counts as finished",
		},
		{
			name: "walk-while-lanes-live", file: "internal/lanes/partition.go",
			old:     "if q.byKey && q.live == 0 && q.keyed >= sample {",
			planted: "if q.byKey && q.keyed >= sample {",
			breaks:  "a partition is walked although keys of it wait",
			test:    "./internal/lanes TestNoWalkPastAParkedRecord|TestOrder",
		},
		{
			name: "park-without-cut", file: "internal/lanes/walk.go",
			old:     "\tif wait != 0 && !q.byKey {\n\t\tq.cut()",
			planted: "\tif wait < 0 && !q.byKey {\n\t\tq.cut()",
			breaks:  "a walk goes on past a record that has to wait",
		},
		{
			name: "pick-overtakes-a-busy-key", file: "internal/lanes/keyed.go",
			old:     "\t\t\tl.waiting.push(it)\n\t\t\treturn nil\n",
			planted: "\t\t\t_ = l\n",
			breaks:  "records of a key are handled at once",
		},
		{
			name: "keys-ignored", file: "consumer.go",
			old:     "return maphash.Bytes(seed, k), k != nil",
			planted: "return maphash.Bytes(seed, k), len(k) > 100",
			breaks:  "records of a key are handled at once",
		},
		{
			name: "no-fence", file: "window.go",
			old:     "\tw.fenced.Store(true)\n\treturn w.lane.Fence()\n",
			planted: "\tif c := w.gone.Load(); !c {\n\t\tc := make(chan struct{})\n\t\tclose(c)\n\t\treturn c\n\t}\n\treturn w.lane.Fence()\n",
			breaks:  "a partition is given up while its records are handled on",
		},
		{
			name: "no-drain", file: "ownership.go",
			old:     "if !in.drain(ws, in.cfg.revokeDrain) {",
			planted: "if !in.drain(ws, 0) {",
			breaks:  "handlers are cancelled at once when their partition leaves",
			test:    "TestRevokeDrainsRunningHandlers",
		},
		{
			name: "retry-start-latest", file: "feed.go",
			old:     "\tstart := kgo.NewOffset().AtStart()\n",
			planted: "\tstart := kgo.NewOffset().AtEnd()\n",
			breaks:  "what was written to a retry topic before its group has looked at it is never read",
		},
		{
			name: "unscoped-dedupe", file: "claims.go",
			old:     "c.cfg.group + \"\\x00\" + c.cfg.prefix() + \"\\x00\"",
			planted: "\"\"",
			breaks:  "a group skips what another has handled",
		},
		{
			name: "confirm-before-handler", file: "pipeline.go",
			old:     "\tc.err = p.call(c.b.w.ctx, c.msg)\n",
			planted: "\tif p.claims != nil {\n\t\tif l := c.b.w.claim(c.msg.Record.Offset); l != nil {\n\t\t\t_ = p.claims.confirm(c.b.w.intake.base, l)\n\t\t}\n\t}\n\tc.err = p.call(c.b.w.ctx, c.msg)\n",
			breaks:  "a record counts as handled that a crash has not let be handled",
		},
		{
			name: "claim-not-asked", file: "claims.go",
			old:     "\tcase ClaimInProgress:\n\t\treturn verdict{kind: unclaimed, wait: askAgain}\n",
			planted: "\tcase ClaimInProgress:\n",
			breaks:  "a record is handled that somebody else is handling",
		},
		{
			name: "claim-kept-while-parking", file: "window.go",
			old:     "\tw.giveClaimsBack(told)\n",
			planted: "\tw.giveClaimsBack(w.running())\n",
			breaks:  "a claim of a record that was being parked while its partition went is renewed for ever (it was so)",
		},
		{
			name: "fail-open-behind-the-fence", file: "claims.go",
			old:     "\tcase err != nil && k.failOpen && w.fenced.Load(): // meanwhile\n\t\treturn verdict{kind: released}\n",
			planted: "",
			breaks:  "a handler begins after its partition has gone, where the store fails (it was so)",
			test:    "TestDedupeFailOpenBegins",
		},
		{
			name: "ctx-on-handoff", file: "handoff.go",
			old:     "\t\tproduce(o.ctx, &sh.record,",
			planted: "\t\tproduce(sh.copying.b.w.ctx, &sh.record,",
			breaks:  "the end of one partition's context fails the copies of others",
			test:    "TestHandOff|TestLadderCancel|TestOwnership|TestLost",
		},
		{
			name: "no-cancellation-option", file: "handoff.go",
			old:     "\t\t\tkgo.AllowIdempotentProduceCancellation(), // or a withheld answer would never time out\n",
			planted: "",
			breaks:  "a copy whose answer is withheld waits for ever",
			test:    "TestHandOff",
		},
		{
			name: "due-trusted", file: "retryfacts.go",
			old:     "\twritten = written.Add(time.Millisecond) // a timestamp is cut to the one before\n\treturn earlier(earlier(header, written.Add(delay)), seen.Add(delay))",
			planted: "\t_, _, _ = written, seen, delay\n\treturn header",
			breaks:  "a forged due time holds its partition for ever",
		},
		{
			name: "due-ignored", file: "line.go",
			old:     "for l.next < len(b.facts) && !now.Before(b.due(l.next)) {",
			planted: "for l.next < len(b.facts) && !now.Add(time.Second).Before(b.due(l.next)) {",
			breaks:  "records of retry topics are handled a second early",
		},
		{
			name: "due-cut", file: "headers.go",
			old:     "\tw.time(headerDue, nextMilli(f.due))\n",
			planted: "\tw.time(headerDue, f.due)\n",
			breaks:  "due times are cut to milliseconds: up to one early",
		},
		{
			name: "resume-clears-user-pause", file: "pauses.go",
			old:     "\t\tif reasons&pausedFull != 0 && w.roomy(in.cfg.window) {\n\t\t\treasons &^= pausedFull\n",
			planted: "\t\tif reasons&pausedFull != 0 && w.roomy(in.cfg.window) {\n\t\t\tin.allPaused = false\n\t\t\tclear(in.topicsPaused)\n\t\t\treasons &^= pausedFull\n",
			breaks:  "the end of backpressure ends the user's pause, too",
			test:    "TestVirtualPause",
		},
		{
			name: "pause-forgotten-at-assignment", file: "intake.go",
			old:     "\tin.windows[tp] = w\n\tin.apply(w)\n",
			planted: "\tin.windows[tp] = w\n",
			breaks:  "a rebalance undoes the user's pause",
			test:    "TestVirtualPause",
		},
		{
			name: "stale-completion", file: "held.go",
			old:     "\tif h.ended {\n\t\treturn false\n\t}\n\th.ended = true\n",
			planted: "\th.ended = true\n",
			breaks:  "a record is finished twice",
			test:    "TestVirtualSkip|TestOutbox|TestHandOffSkip|TestOversize",
		},
		{
			name: "unmoved-offset-committed", file: "window.go",
			old:     "return m, ok && !w.dead && m.Offset > w.committed",
			planted: "return m, ok && m.Offset >= w.committed",
			breaks:  "an unmoved offset is committed again and again",
			test:    "TestNothingIsCommittedWhereNothingMoved",
		},
		{
			name: "drop-on-full", file: "answers.go",
			old:     "\tcase errors.Is(err, kgo.ErrMaxBuffered): // by others: whether it can be written is not known\n\t\tbox.full = true\n\t\tbox.takeBack(c)\n",
			planted: "\tcase errors.Is(err, kgo.ErrMaxBuffered): // by others: whether it can be written is not known\n\t\tc.setFlying(false)\n",
			breaks:  "a copy for which the client has no room is never sent",
			test:    "TestOutbox|TestHandOff|TestAFullClient",
		},
		{
			name: "failed-copy-dropped", file: "answers.go",
			old:     "\t\tbox.down = true\n\t\tbox.takeBack(c)\n",
			planted: "\t\tbox.down = true\n\t\tc.setFlying(false)\n",
			breaks:  "a copy that has failed is never sent again",
		},
		{
			name: "attempt-on-cancel", file: "judge.go",
			old:     "\tcase a.cancelled:\n\t\treturn verdict{kind: released}\n\t}\n\td := p.directive(err)\n",
			planted: "\t}\n\td := p.directive(err)\n",
			breaks:  "a cancelled call costs an attempt, and sends the record away",
		},
		{
			name: "hop-counts-attempt", file: "settle.go",
			old:     "\tif !v.spends {\n\t\td.attempt--\n\t}\n\tif !v.notBefore.IsZero()",
			planted: "\tif !v.notBefore.IsZero()",
			breaks:  "a snooze or a hop costs an attempt",
		},
		{
			name: "attempts-not-persisted", file: "retryfacts.go",
			old:     "\tn, _ := numberOf(header)\n\treturn int(min(n,",
			planted: "\tn, _ := numberOf(header)\n\tn *= 0\n\treturn int(min(n,",
			breaks:  "each stage begins with attempt 1: retries without end",
		},
		{
			name: "headers-appended", file: "headers.go",
			old:     "\t\tif !ours(h.Key) {\n\t\t\tw.hs = append(w.hs, h)\n",
			planted: "\t\tif !ours(h.Key) && h.Key != \"trace\" {\n\t\t\tw.hs = append(w.hs, h)\n",
			breaks:  "a copy loses one of its record's headers",
		},
		{
			name: "value-nil-becomes-empty", file: "held.go",
			old:     "\t\tif b == nil {\n\t\t\treturn nil\n\t\t}\n",
			planted: "",
			breaks:  "a tombstone's copy has an empty value",
		},
		{
			name: "early-return", file: "shutdown.go",
			old:     "\tif !settle(ws, soft) {\n",
			planted: "\tif !settle(ws, 0) {\n",
			breaks:  "a shutdown cancels its handlers at once",
			test:    "TestShutdown",
		},
		{
			name: "run-does-not-wait", file: "shutdown.go",
			old:     "\t\tsettle(ws, hard/5)\n",
			planted: "",
			breaks:  "Run does not wait for cancelled handlers, and gives their records back as abandoned",
			test:    "TestShutdown",
		},
		{
			name: "end-without-limit", file: "shutdown.go",
			old:     "context.WithDeadline(base, end.Add(-min(closeReserve, hard/5)))",
			planted: "context.WithDeadline(base, end.Add(time.Hour))",
			breaks:  "the end of Run waits for brokers that do not answer",
		},
		{
			name: "leave-forgotten", file: "shutdown.go",
			old:     "\tin.client.CloseAllowingRebalance()\n\tin.client.AllowRebalance() // the",
			planted: "\tin.client.AllowRebalance() // the",
			breaks:  "Run leaves a client open",
		},
		{
			name: "release-counted-twice", file: "window.go",
			old:     "\treturn w.tracker.Unfinished(not...)\n",
			planted: "\t_ = not\n\treturn w.tracker.Unfinished()\n",
			breaks:  "records whose handler runs at a give-up are counted twice",
		},
		{
			name: "hand-off-stays-ill", file: "answers.go",
			old:     "\t\tbox.failing = false\n\t\to.board.clear(HealthHandOffFailing, box.target.topic, box.target.partition)\n",
			planted: "\t\tbox.failing = false\n",
			breaks:  "Health says for ever that a target fails which works again",
		},
		{
			name: "copies-of-dead-windows", file: "ownership.go",
			old:     "\tin.handOff.forget(w.topicPartition)\n",
			planted: "",
			breaks:  "copies of a partition that has gone wait on, and are sent when their target works again",
			test:    "TestHandOff",
		},
	}
}
