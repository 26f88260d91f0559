package kstage

import (
	"encoding/json"
	"net/http"
	"time"
)

// LivenessHandler answers 200 while Health is Live, else 503: then only a restart
// helps. It asks no broker: one that is away is no reason to restart. It is for
// Kubernetes' livenessProbe.
//
// The answer is a JSON object, {"live":true}; with ?verbose it is all of Health, which
// names topics and shows errors as logs do.
func (c *Consumer) LivenessHandler() http.Handler { return probe(c.Health, isLive) }

// ReadinessHandler answers 200 while Health is Ready, else 503, without asking a broker
// (see WatchHealth). It is for Kubernetes' readinessProbe and startupProbe; its answer is
// as LivenessHandler's, with "ready".
func (c *Consumer) ReadinessHandler() http.Handler { return probe(c.Health, isReady) }

// LivenessHandler is Consumer.LivenessHandler. A Producer is always live.
func (p *Producer) LivenessHandler() http.Handler { return probe(p.Health, isLive) }

// ReadinessHandler is Consumer.ReadinessHandler, of a Producer.
func (p *Producer) ReadinessHandler() http.Handler { return probe(p.Health, isReady) }

func isLive(h Health) (name string, ok bool)  { return "live", h.Live }
func isReady(h Health) (name string, ok bool) { return "ready", h.Ready }

func probe(health func() Health, of func(Health) (string, bool)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
			return
		}
		h := health()
		name, ok := of(h)
		var answer any = map[string]bool{name: ok}
		if r.URL.Query().Has("verbose") {
			answer = report(h)
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !ok {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(answer) // who asked has gone
	})
}

// healthReport is Health in JSON.
type healthReport struct {
	Live    bool           `json:"live"`
	Ready   bool           `json:"ready"`
	Reasons []reasonReport `json:"reasons"`
}

type reasonReport struct {
	Kind      string    `json:"kind"`
	Group     string    `json:"group,omitempty"`
	Topic     string    `json:"topic,omitempty"`
	Partition *int32    `json:"partition,omitempty"`
	Offset    *int64    `json:"offset,omitempty"`
	Since     time.Time `json:"since"`
	Error     string    `json:"error,omitempty"`
}

func report(h Health) healthReport {
	t := healthReport{Live: h.Live, Ready: h.Ready, Reasons: []reasonReport{}}
	for _, r := range h.Reasons {
		reason := reasonReport{Kind: r.Kind.String(), Group: r.Group, Topic: r.Topic, Since: r.Since}
		if r.Partition >= 0 {
			reason.Partition = &r.Partition
		}
		if r.Kind.ofRecord() {
			reason.Offset = &r.Offset
		}
		if r.Err != nil {
			reason.Error = r.Err.Error()
		}
		t.Reasons = append(t.Reasons, reason)
	}
	return t
}
