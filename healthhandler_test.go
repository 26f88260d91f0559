package kstage_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kstage/kstage"
)

func asked(h http.Handler, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
	return w
}

func TestProbesSayWhatHealthSays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, opts := w.ladder(1)
	m := w.start(handleNothing, opts...)
	w.eventually(func() bool { return m.Health().Ready })
	live, ready := m.LivenessHandler(), m.ReadinessHandler()

	answer := asked(ready, "/readyz")
	require.Equal(t, http.StatusOK, answer.Code)
	require.Equal(t, "application/json", answer.Header().Get("Content-Type"))
	require.Equal(t, "no-store", answer.Header().Get("Cache-Control"))
	require.JSONEq(t, `{"ready":true}`, answer.Body.String())
	require.JSONEq(t, `{"live":true}`, asked(live, "/livez").Body.String())
	require.JSONEq(t, `{"live":true,"ready":true,"reasons":[]}`, asked(ready, "/readyz?verbose").Body.String())

	require.NoError(t, m.stop())
	answer = asked(ready, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, answer.Code)
	require.JSONEq(t, `{"ready":false}`, answer.Body.String())
	require.Equal(t, http.StatusOK, asked(live, "/livez").Code, "a clean end needs no restart")
	var all struct {
		Live    bool
		Ready   bool
		Reasons []struct {
			Kind, Group string
			Since       time.Time
			Partition   *int
		}
	}
	require.NoError(t, json.Unmarshal(asked(live, "/livez?verbose=1").Body.Bytes(), &all))
	require.True(t, all.Live)
	require.False(t, all.Ready)
	require.Len(t, all.Reasons, 1)
	require.Equal(t, "not-joined", all.Reasons[0].Kind)
	require.Equal(t, w.name("g"), all.Reasons[0].Group)
	require.Nil(t, all.Reasons[0].Partition)
	require.WithinDuration(t, time.Now(), all.Reasons[0].Since, time.Minute)
}

func TestALostConsumerIsNotLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topic, opts := w.ladder(1)
	w.fill(topic, 0, 1, 1)
	m := w.start(func(context.Context, kstage.Message) error { return kstage.Permanent(errors.New("never")) },
		append(opts, kstage.WithoutDLQ(kstage.Stop))...)
	require.Error(t, m.wait())
	answer := asked(m.LivenessHandler(), "/livez")
	require.Equal(t, http.StatusServiceUnavailable, answer.Code)
	require.JSONEq(t, `{"live":false}`, answer.Body.String())
}

func TestAReasonInJSON(t *testing.T) {
	t.Parallel()
	b := kstage.NewBoard(nil)
	b.Raise(kstage.HealthReason{Kind: kstage.HealthStuckRecord, Topic: "orders", Partition: 0, Offset: 0, Err: errors.New("slow")})
	var got map[string]any
	answer := asked(b.Readiness(), "/readyz?verbose")
	require.NoError(t, json.Unmarshal(answer.Body.Bytes(), &got))
	reason := got["reasons"].([]any)[0].(map[string]any)
	delete(reason, "since")
	require.Equal(t, map[string]any{"kind": "stuck-record", "topic": "orders", "partition": 0.0, "offset": 0.0, "error": "slow"}, reason)
}

func TestProbesAreForReading(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.producer()
	w.eventually(func() bool { return p.Health().Ready })
	for method, code := range map[string]int{"GET": 200, "HEAD": 200, "POST": 405, "DELETE": 405} {
		answer := httptest.NewRecorder()
		p.ReadinessHandler().ServeHTTP(answer, httptest.NewRequest(method, "/readyz", nil))
		require.Equal(t, code, answer.Code, method)
	}
	require.NoError(t, p.Close(t.Context()))
	require.Equal(t, 503, asked(p.ReadinessHandler(), "/").Code)
	require.Equal(t, 200, asked(p.LivenessHandler(), "/").Code)
}
