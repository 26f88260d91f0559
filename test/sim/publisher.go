package sim

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kstage/kstage"
)

// published is what is written of a record, headers and all.
func (r *RecordPlan) published() []kgo.RecordHeader {
	hs := []kgo.RecordHeader{{Key: recordHeader, Value: []byte(r.ID)}}
	if r.Message != "" {
		hs = append(hs, kgo.RecordHeader{Key: "message-id", Value: []byte(r.Message)})
	}
	if r.Foreign {
		hs = append(hs, kgo.RecordHeader{Key: "kstage-group", Value: []byte("somebody else's")})
	}
	return append(hs, r.Headers...)
}

// target is where a record goes.
func (p *Plan) target(r *RecordPlan) string {
	if r.Into == "" {
		return r.Topic
	}
	return p.groupOf(r.Into).retryTopic(1)
}

// groupOf is a group by name; nil: there is none.
func (p *Plan) groupOf(name string) *GroupPlan {
	for i := range p.Groups {
		if p.Groups[i].Name == name {
			return &p.Groups[i]
		}
	}
	return nil
}

const producerName = "producer"

// publish publishes all records of the plan and returns when all are answered.
func (w *world) publish() {
	p, err := kstage.NewProducer(kstage.WithBrokers(w.addrs...), kstage.WithClientID(producerName), kstage.WithMessageIDs(nil),
		kstage.WithClientOptions(func(kstage.ClientRole) []kgo.Opt {
			return []kgo.Opt{kgo.Dialer(w.net.dialer(producerName)), kgo.DisableClientMetrics(), kgo.RequestTimeoutOverhead(5 * time.Second)}
		}))
	if err != nil {
		panic(err)
	}
	for i := range w.plan.Records {
		r := &w.plan.Records[i]
		wait(r.After)
		p.PublishAsync(w.ctx, &kgo.Record{Topic: w.plan.target(r), Key: r.Key, Value: r.Value, Headers: r.published()}, func(sent *kgo.Record, err error) {
			if err == nil {
				w.published(r, Place{sent.Topic, sent.Partition, sent.Offset})
			}
		})
	}
	limited, cancel := context.WithTimeout(w.ctx, 5*time.Minute)
	defer cancel()
	_ = p.Close(limited)
}

// published is told that a record was acknowledged.
func (w *world) published(r *RecordPlan, at Place) {
	w.history.add(Event{Kind: Published, Record: r.ID, Place: at})
	w.mu.Lock()
	defer w.mu.Unlock()
	if ends := w.acked[at.Topic]; ends != nil {
		ends[at.Partition] = max(ends[at.Partition], at.Offset+1)
	}
}

// wait lets time pass.
func wait(d time.Duration) {
	if d > 0 {
		<-time.After(d)
	}
}
