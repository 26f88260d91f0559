// Command mutants plants mistakes in kstage, one at a time, and sees how many seeds
// the simulator takes to find each, or that a test does. The tree is not touched: a
// mistake is an overlay of the build.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

func main() {
	seeds := flag.Int("seeds", 500, "how many seeds at most")
	first := flag.Int("seed", 1, "the first seed")
	only := flag.String("only", "", "a regular expression of names; empty: all")
	flag.Parse()
	dir, err := os.MkdirTemp("", "kstage-mutants")
	if err != nil {
		fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	h := hunt{dir: dir, seeds: *seeds, first: *first}
	wanted := regexp.MustCompile(*only)
	survived := 0
	fmt.Println("| mistake | what it breaks | caught by | after |\n|---|---|---|---|")
	for _, m := range mutants() {
		if !wanted.MatchString(m.name) {
			continue
		}
		by, after := h.run(m)
		if by == "" {
			survived++
			by = "**nobody**"
		}
		fmt.Printf("| %s | %s | %s | %s |\n", m.name, m.breaks, by, after)
	}
	if survived > 0 {
		fatal(fmt.Errorf("%d mistakes were not seen", survived))
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// plant returns a file's text with the mistake in it.
func (m *mutant) plant(text string) (string, error) {
	if n := strings.Count(text, m.old); n != 1 {
		return "", fmt.Errorf("mutant %s: its text occurs %d times in %s, not once", m.name, n, m.file)
	}
	return strings.Replace(text, m.old, m.planted, 1), nil
}

// hunt looks for who sees a mistake.
type hunt struct {
	dir          string
	seeds, first int
}

// run says who has caught a mistake, and after how much; nobody: empty.
func (h *hunt) run(m mutant) (by, after string) {
	overlay, err := h.overlay(m)
	if err != nil {
		fatal(err)
	}
	if m.test != "" {
		pkg, test := ".", m.test
		if p, t, ok := strings.Cut(m.test, " "); ok {
			pkg, test = p, t
		}
		return h.directed(overlay, pkg, test)
	}
	return h.simulated(overlay)
}

// overlay writes what the build takes instead of the file.
func (h *hunt) overlay(m mutant) (string, error) {
	text, err := os.ReadFile(m.file)
	if err != nil {
		return "", err
	}
	planted, err := m.plant(string(text))
	if err != nil {
		return "", err
	}
	real, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	file := filepath.Join(h.dir, m.name+".go")
	if err := os.WriteFile(file, []byte(planted), 0o600); err != nil {
		return "", err
	}
	doc, err := json.Marshal(map[string]map[string]string{"Replace": {real: file}})
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(h.dir, m.name+".json")
	return overlay, os.WriteFile(overlay, doc, 0o600)
}

// directed runs tests that are to fail.
func (h *hunt) directed(overlay, pkg, test string) (by, after string) {
	out, err := command("go", "test", "-overlay", overlay, "-tags", "synctests", "-count=1", "-timeout", "3m", "-run", test, pkg)
	if err == nil {
		return "", ""
	}
	if failed := regexp.MustCompile(`(?m)^--- FAIL: (\S+)`).FindStringSubmatch(out); failed != nil {
		return "`" + failed[1] + "`", "1 run"
	}
	if strings.Contains(out, "build failed") {
		fatal(fmt.Errorf("%s", out))
	}
	return "a test that does not end", "1 run"
}

// simulated lives seeds until one breaks a rule.
func (h *hunt) simulated(overlay string) (by, after string) {
	binary := filepath.Join(h.dir, "sim.test")
	if out, err := command("go", "test", "-c", "-overlay", overlay, "-tags", "synctests,sim", "-o", binary, "./test/sim"); err != nil {
		fatal(fmt.Errorf("%w: %s", err, out))
	}
	out, err := command(binary, "-test.run", "TestSeeds", "-test.timeout", "0", "-test.v", "-stop", "-patience", "30s", "-events", "0", "-seed", fmt.Sprint(h.first), "-seeds", fmt.Sprint(h.seeds))
	if err == nil {
		return "", fmt.Sprintf("%d seeds", h.seeds)
	}
	lived := regexp.MustCompile(`seed (\d+)`).FindAllStringSubmatch(out, -1)
	if len(lived) == 0 {
		fatal(fmt.Errorf("%w: %s", err, out))
	}
	after = h.seedsTo(lived[len(lived)-1][1])
	rule := regexp.MustCompile(`(?m)^\s+([a-z-]+) at `).FindStringSubmatch(out)
	switch {
	case rule != nil:
		return "rule `" + rule[1] + "`", after
	case strings.Contains(out, "time stands still"):
		return "the watchdog", after
	}
	return "a panic", after
}

// seedsTo counts the seeds to one.
func (h *hunt) seedsTo(seed string) string {
	n, _ := strconv.Atoi(seed)
	return fmt.Sprintf("%d seeds", n-h.first+1)
}

func command(name string, args ...string) (string, error) {
	out, err := exec.CommandContext(context.Background(), name, args...).CombinedOutput() //nolint:forbidigo // a program makes its own context
	return string(out), err
}
