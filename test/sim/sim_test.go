//go:build synctests

package sim_test

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zapcore"

	"github.com/kstage/kstage/internal/hook"
	"github.com/kstage/kstage/test/sim"
)

var (
	seeds    = flag.Int("seeds", 10, "how many seeds")
	first    = flag.Uint64("seed", 1, "the first seed")
	protocol = flag.String("protocol", "", "cooperative, eager or next-gen; empty: as the seed says")
	records  = flag.Int("records", 0, "records of a world; 0: 300")
	faults   = flag.Int("faults", 0, "faults of a world; 0: 20, -1: none")
	plain    = flag.Bool("plain", false, "worlds as the prototype's, to compare duplicates")
	stop     = flag.Bool("stop", false, "stop at the first seed that breaks a rule")
	events   = flag.Int("events", 60, "how many of the last events before a violation to print; -1: all")
	verbose  = flag.Bool("logs", false, "print what members log")
	hash     = flag.Bool("hash", false, "print the hash of each seed's history")
	patience = flag.Duration("patience", 3*time.Minute, "how long one world may take, in real time")
	keep     = flag.String("keep", "", "a directory to write the histories of failed seeds to")
)

// TestSeeds lives one world for each seed, and checks every rule.
//
//nolint:paralleltest // worlds share the hooks
func TestSeeds(t *testing.T) {
	sum := newSummary()
	for i := range *seeds {
		seed := *first + uint64(i)
		if !sum.add(t, seed, live(t, seed)) && *stop {
			t.Logf("stopped after %d seeds", i+1)
			break
		}
	}
	t.Log(sum)
	sum.assertReached(t)
}

// TestRegressions lives the seeds that once broke a rule, several times each: natively
// a seed does not repeat exactly.
//
//nolint:paralleltest // worlds share the hooks
func TestRegressions(t *testing.T) {
	list, err := os.ReadFile("testdata/regressions.txt")
	require.NoError(t, err)
	sum := newSummary()
	for line := range strings.Lines(string(list)) {
		if seed, err := strconv.ParseUint(strings.Fields(line)[0], 10, 64); err == nil {
			for range 3 {
				sum.add(t, seed, live(t, seed))
			}
		}
	}
	require.NotZero(t, sum.worlds)
	t.Log(sum)
}

func live(t *testing.T, seed uint64) (r *sim.Run) {
	t.Helper()
	plan := sim.PlanOf(seed, sim.Settings{Protocol: sim.Protocol(*protocol), Records: *records, Faults: *faults, Plain: *plain})
	defer watchdog(seed).Stop()
	if *stop { // should it panic
		fmt.Fprintf(os.Stderr, "seed %d\n", seed)
	}
	synctest.Test(t, func(t *testing.T) {
		var log sim.Logger
		if *verbose {
			start := time.Now()
			log = func(member string, e zapcore.Entry, fs []zapcore.Field) {
				enc := zapcore.NewMapObjectEncoder()
				for _, f := range fs {
					f.AddTo(enc)
				}
				fmt.Fprintf(os.Stderr, "%13v %-4s %s %s %v\n", time.Since(start), member, e.LoggerName, e.Message, enc.Fields)
			}
		}
		r = sim.Live(t.Context(), plan, log)
		if len(r.Left) > 0 { // the bubble is about to panic: say before what has happened
			t.Log(sim.Report(seed, r, sim.Check(r), *events))
		}
	})
	return r
}

// watchdog ends the process when a world takes too long in real time: somebody holds a
// mutex and waits, which freezes virtual time, or calls without end and no time passes.
func watchdog(seed uint64) *time.Timer {
	return time.AfterFunc(*patience, func() {
		buf := make([]byte, 64<<20)
		fmt.Fprintf(os.Stderr, "seed %d does not end: time stands still\n%s\n", seed, buf[:runtime.Stack(buf, true)])
		os.Exit(1)
	})
}

// summary adds up seeds.
type summary struct {
	began       time.Time
	worlds, bad int
	virtual     time.Duration
	facts       map[string]int
	hits        [hook.NumberOfPoints]int64
}

func newSummary() *summary { return &summary{began: time.Now(), facts: map[string]int{}} }

// add takes a run; false: it has broken a rule.
func (s *summary) add(t *testing.T, seed uint64, r *sim.Run) bool {
	t.Helper()
	s.worlds++
	s.virtual += r.Took
	for k, n := range sim.Facts(r) {
		s.facts[k] += n
	}
	if *hash {
		fmt.Printf("seed %d: %d events, hash %016x\n", seed, len(r.History.Events()), r.History.Hash())
	}
	for i, n := range r.Hits {
		s.hits[i] += n
	}
	vs := sim.Check(r)
	if len(vs) == 0 {
		return true
	}
	s.bad++
	report := sim.Report(seed, r, vs, *events)
	t.Error(report)
	if *keep != "" {
		_ = os.WriteFile(fmt.Sprintf("%s/seed-%d.txt", *keep, seed), []byte(sim.Report(seed, r, vs, -1)), 0o644)
	}
	return false
}

// assertReached checks that no hook point has gone out of use. Some are rare.
func (s *summary) assertReached(t *testing.T) {
	t.Helper()
	const enough = 30
	for p, n := range s.hits {
		if hook.On && s.worlds >= enough {
			require.NotZero(t, n, "hook point %v was never reached", hook.Point(p))
		}
	}
}

func (s *summary) String() string {
	real := time.Since(s.began)
	var b strings.Builder
	fmt.Fprintf(&b, "%d worlds, %d broke a rule; %v virtual in %v, %.0f seeds a minute\n", s.worlds, s.bad, s.virtual.Round(time.Second), real.Round(time.Millisecond), float64(s.worlds)/real.Minutes())
	fmt.Fprintf(&b, "of each world: %s", sim.PerWorld(s.facts, s.worlds))
	return b.String()
}
