// Package examples_test runs the examples as their users do.
package examples_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// build makes the programs, once, and returns where they are.
func build(t *testing.T) string {
	t.Helper()
	dir, err := built()
	require.NoError(t, err)
	return dir
}

var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "kstage-examples")
	if err != nil {
		return "", err
	}
	if out, err := exec.Command("go", "build", "-o", dir, "./broker", "./producer", "./consumer").CombinedOutput(); err != nil {
		return dir, fmt.Errorf("%w: %s", err, out)
	}
	return dir, nil
})

// process is a running program.
type process struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and all it wrote was read
	err  error         // of its end

	mu    sync.Mutex
	grown *sync.Cond // there is another line, or the end
	lines []string   // of stdout and stderr
	ended bool
}

// start starts a program.
func start(t *testing.T, path string, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: filepath.Base(path), cmd: exec.Command(path, args...), done: make(chan struct{})}
	p.grown = sync.NewCond(&p.mu)
	p.cmd.Env = append([]string{"HEALTH_ADDR=127.0.0.1:0", "PATH=" + os.Getenv("PATH")}, env...)
	r, w := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = w, w
	require.NoError(t, p.cmd.Start())
	var reading sync.WaitGroup
	reading.Go(func() {
		for scan := bufio.NewScanner(r); scan.Scan(); {
			p.mu.Lock()
			p.lines = append(p.lines, scan.Text())
			p.grown.Broadcast()
			p.mu.Unlock()
		}
	})
	go func() {
		err := p.cmd.Wait()
		_ = w.Close()
		reading.Wait()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.err, p.ended = err, true
		p.grown.Broadcast()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%s:\n%s", p.name, strings.Join(p.lines[max(0, len(p.lines)-20):], "\n"))
		}
	})
	return p
}

// await waits until its lines are as they should be.
func (p *process) await(what string, cond func(lines []string) bool) {
	p.t.Helper()
	limit := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() })
	defer limit.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for !cond(p.lines) {
		require.False(p.t, p.ended, "%s ended before: %s", p.name, what)
		p.grown.Wait()
	}
}

// line waits for one that matches, and returns its first group.
func (p *process) line(re string) (found string) {
	p.t.Helper()
	p.await(re, func(lines []string) bool {
		for _, l := range lines {
			if m := regexp.MustCompile(re).FindStringSubmatch(l); m != nil {
				found = m[1]
				return true
			}
		}
		return false
	})
	return found
}

// terminate sends SIGTERM and waits for the end, which has to be a good one.
func (p *process) terminate() {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	p.wait()
}

func (p *process) wait() {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		require.FailNow(p.t, p.name+" does not end")
	}
	require.NoError(p.t, p.err, p.name)
}

// ids returns the message ids of the log lines with a message.
func (p *process) ids(msg string) map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return idsOf(p.lines, msg)
}

func idsOf(lines []string, msg string) map[string]bool {
	ids := map[string]bool{}
	for _, l := range lines {
		var line struct {
			Msg       string `json:"msg"`
			MessageID string `json:"message_id"`
		}
		if json.Unmarshal([]byte(l), &line) == nil && line.Msg == msg {
			ids[line.MessageID] = true
		}
	}
	return ids
}

// embedded starts examples/broker and returns the environment that reaches it.
func embedded(t *testing.T, dir string) []string {
	t.Helper()
	broker := start(t, filepath.Join(dir, "broker"), nil, "-port", "0")
	return []string{"KAFKA_BROKERS=" + broker.line(`^broker on (\S+) `)}
}

// What was published is handled or dead, once each; a SIGTERM in the middle loses nothing.
func TestProgramsLoseNothing(t *testing.T) {
	t.Parallel()
	const events = 1000
	dir := build(t)
	env := embedded(t, dir)
	consume := func() *process {
		return start(t, filepath.Join(dir, "consumer"), env, "-work", "2ms")
	}
	first := consume()
	producer := start(t, filepath.Join(dir, "producer"), env, "-n", fmt.Sprint(events), "-every", "1ms")
	first.await("300 handled", func(lines []string) bool { return len(idsOf(lines, "event handled")) >= 300 })
	first.terminate()
	second := consume()
	producer.wait()
	require.Contains(t, producer.lines, fmt.Sprintf("published %d, failed 0", events))
	published := producer.ids("event published")
	require.Len(t, published, events)

	all := func(lines []string) map[string]bool {
		ids := idsOf(lines, "event handled")
		for _, msg := range []string{"event handled", "record is dead: to the dead-letter topic"} {
			for id := range idsOf(lines, msg) {
				ids[id] = true
			}
			for id := range first.ids(msg) {
				ids[id] = true
			}
		}
		return ids
	}
	second.await("all handled or dead", func(lines []string) bool { return len(all(lines)) >= events })
	second.terminate()
	require.Equal(t, published, all(second.lines))
	require.NotEmpty(t, first.ids("event handled"))
	require.NotEmpty(t, second.ids("event handled"))
	for _, p := range []*process{first, second} {
		p.line(`^(received \d+ = processed \d+ )`)
	}
}

func TestProgramsTellTheirHealth(t *testing.T) {
	t.Parallel()
	dir := build(t)
	env := embedded(t, dir)
	for _, name := range []string{"consumer", "producer"} {
		p := start(t, filepath.Join(dir, name), env)
		url := p.line(`"health":"(\S+)/readyz"`)
		require.Eventually(t, func() bool { return status(t, url+"/readyz") == http.StatusOK }, 20*time.Second, 20*time.Millisecond)
		require.Equal(t, http.StatusOK, status(t, url+"/livez"))
		p.terminate()
	}
}

func status(t *testing.T, url string) int {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		return 0
	}
	require.NoError(t, answer.Body.Close())
	http.DefaultClient.CloseIdleConnections()
	return answer.StatusCode
}

// docs/troubleshooting.md shows what programs print.
func TestTroubleshootingShowsWhatIsPrinted(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "docs", "troubleshooting.md"))
	require.NoError(t, err)
	dir := build(t)
	env := embedded(t, dir)
	away := []string{"KAFKA_BROKERS=127.0.0.1:1"}
	for name, c := range map[string]struct {
		program string
		env     []string
		args    []string
	}{
		"wrong variables":     {"consumer", []string{"KAFKA_CONSUMER_WORKERS=five", "KAFKA_DLQ_TOPIC=my dlq"}, nil},
		"a contradiction":     {"producer", []string{"KAFKA_PRODUCER_ACKS=1", "KAFKA_PRODUCER_IDEMPOTENT=true"}, nil},
		"unreachable":         {"consumer", away, []string{"-start-timeout", "1s"}},
		"unreachable to it":   {"producer", away, nil},
		"a missing topic":     {"producer", append([]string{"KAFKA_PRODUCER_TOPIC=event"}, env...), nil},
		"a port that is used": {"consumer", []string{"HEALTH_ADDR=" + strings.TrimPrefix(env[0], "KAFKA_BROKERS=")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(t, filepath.Join(dir, c.program), c.env, c.args...)
			<-p.done
			require.Equal(t, 1, p.cmd.ProcessState.ExitCode())
			require.Contains(t, string(text), "```\n"+plain(p.lines, c.program)+"\n```")
		})
	}
}

// plain is the error that a program has ended with, without what differs each time.
func plain(lines []string, program string) string {
	for i, l := range lines {
		if strings.HasPrefix(l, program+": ") {
			text := strings.Join(lines[i:], "\n")
			text = regexp.MustCompile(`message-id "\w+"`).ReplaceAllString(text, `message-id "..."`)
			return regexp.MustCompile(`listen tcp 127\.0\.0\.1:\d+`).ReplaceAllString(text, "listen tcp 127.0.0.1:8080")
		}
	}
	return "(no error)"
}
