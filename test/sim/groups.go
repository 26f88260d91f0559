package sim

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kstage/kstage"
)

// What this embedded broker does that a broker does not do, and what the harness
// does about it. Without these the first seeds are false alarms.

// answerEpochs answers where a leader epoch ends: the embedded broker does not know
// it of an epoch in which nothing was written, and clients take that for lost data.
// Nothing is ever cut off here, so that no epoch ends before what was read of it.
func (w *world) answerEpochs() {
	w.cluster.ControlKey(int16(kmsg.OffsetForLeaderEpoch), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		w.cluster.KeepControl()
		req := kreq.(*kmsg.OffsetForLeaderEpochRequest)
		resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
		for _, t := range req.Topics {
			rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
				rp.Partition, rp.LeaderEpoch, rp.EndOffset = p.Partition, p.LeaderEpoch, math.MaxInt64
				rt.Partitions = append(rt.Partitions, rp)
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
}

// ghostAge is how long the group may name a member that nobody is.
const ghostAge = 2 * sessionTimeout

// banGhosts takes members out of classic groups that no process is any more: the
// embedded broker starts no session timer for a member whose join it could not
// answer, and each join anew restarts the rebalance's deadline, so that such a member
// can hold up its group for ever.
func (w *world) banGhosts() {
	for group, role := range w.groupRoles() {
		info := w.cluster.GroupInfo(group)
		if info == nil {
			continue
		}
		if stuck := w.isStuck(info); stuck {
			for _, m := range info.Members {
				w.ban(group, m.MemberID)
			}
			continue
		}
		for _, m := range info.Members {
			if w.isSomebody(m.MemberID, role) {
				delete(w.ghosts, m.MemberID)
				continue
			}
			if since, seen := w.ghosts[m.MemberID]; !seen {
				w.ghosts[m.MemberID] = time.Now()
			} else if time.Since(since) > ghostAge {
				w.ban(group, m.MemberID)
			}
		}
	}
}

// stuckAfter is longer than a rebalance may take.
const stuckAfter = 90 * time.Second

// isStuck says that a group has been rebalancing for longer than a broker lets it.
func (w *world) isStuck(info *kfake.GroupInfo) bool {
	if info.State != "PreparingRebalance" {
		delete(w.ghosts, info.Group)
		return false
	}
	since, seen := w.ghosts[info.Group]
	if !seen {
		w.ghosts[info.Group] = time.Now()
		return false
	}
	if time.Since(since) < stuckAfter {
		return false
	}
	delete(w.ghosts, info.Group)
	return true
}

// groupRoles are the groups of the world, and which of a member's clients is in them.
func (w *world) groupRoles() map[string]kstage.ClientRole {
	roles := map[string]kstage.ClientRole{}
	for i := range w.plan.Groups {
		g := &w.plan.Groups[i]
		roles[g.Name] = kstage.RoleMain
		if len(g.Stages) > 0 {
			roles[g.retryGroup()] = kstage.RoleRetry
		}
	}
	return roles
}

func (w *world) isSomebody(id string, role kstage.ClientRole) bool {
	return slices.ContainsFunc(w.all, func(m *member) bool {
		cl := m.client(role)
		if cl == nil || m.crashed.Load() || m.hasReturned() {
			return false
		}
		mine, _ := cl.GroupMetadata()
		return mine == id
	})
}

func (w *world) ban(group, id string) {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = group
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID = id
	req.Members = append(req.Members, m)
	limited, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	_, _ = w.cl.Request(limited, req)
	delete(w.ghosts, id)
}

const (
	lookEach      = time.Second // at Health and Stats
	banEach       = 10 * time.Second
	progressSlack = 15 * time.Minute // of progressLimit, for what is not waiting
)

// progressLimit is how long it may take from the end of the last fault to the end of
// all work: twice the longest way through the stages, since a crash repeats one.
func (p *Plan) progressLimit() time.Duration {
	longest := time.Duration(0)
	for i := range p.Groups {
		way := time.Duration(0)
		for _, d := range p.Groups[i].Stages {
			way += d
		}
		longest = max(longest, way)
	}
	return progressSlack + 2*longest
}

// quiesce waits until all that was written is finished, and all members are well; what
// it returns was not.
func (w *world) quiesce() string {
	began := time.Now()
	for i := 0; ; i++ {
		left := w.lag() + w.unwell()
		if left == "" || time.Since(began) >= w.plan.progressLimit() {
			return left
		}
		w.pass(lookEach)
		w.look()
		w.operate()
		if w.plan.Protocol != NextGen && i%int(banEach/lookEach) == 0 {
			w.banGhosts()
		}
	}
}

// unwell is which members are not ready, in words.
func (w *world) unwell() string {
	var b strings.Builder
	for _, m := range w.members {
		if h := m.Health(); !h.Live || !h.Ready {
			fmt.Fprintf(&b, "%s: live %v, ready %v %v; ", m.name, h.Live, h.Ready, h.Reasons)
		}
	}
	return b.String()
}

// lag is what is not committed, in words.
func (w *world) lag() string {
	var b strings.Builder
	for i := range w.plan.Groups {
		for group, topics := range w.plan.Groups[i].reads() {
			info := w.cluster.GroupInfo(group)
			behind := false
			for _, t := range topics {
				for _, p := range w.cluster.PartitionInfos(t) {
					at := int64(0)
					if info != nil {
						at = info.Commits[t][p.Partition].Offset
					}
					if end := w.lastRecord(t, p); end > max(at, p.LogStartOffset) {
						behind = true
						fmt.Fprintf(&b, "%s: %s/%d %d of %d; ", group, t, p.Partition, at, end)
					}
				}
			}
			if behind && info != nil {
				fmt.Fprintf(&b, "(%s is %s with %d members) ", group, info.State, len(info.Members))
			}
		}
	}
	return b.String()
}

// lastRecord is the offset behind a partition's last record that must be read: of
// main topics the last that was acknowledged, since transactions leave markers.
func (w *world) lastRecord(topic string, p *kfake.PartitionInfo) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, isMain := w.acked[topic]; isMain {
		return w.acked[topic][p.Partition]
	}
	return p.HighWatermark
}

// operate is the operator of groups whose dead records block: it skips them.
func (w *world) operate() {
	for _, m := range w.members {
		if m.group.Dead != kstage.Block {
			continue
		}
		for _, r := range m.Health().Reasons {
			if r.Kind != kstage.HealthStuckRecord || r.Err == nil {
				continue
			}
			e := Event{Kind: Skipped, Member: m.name, Group: m.group.Name, Place: Place{r.Topic, r.Partition, r.Offset}}
			w.history.add(e)
			if err := m.Skip(r.Topic, r.Partition, r.Offset); err != nil {
				e.Note = notSkipped
				w.history.add(e)
			}
		}
	}
}

// notSkipped is the note of a Skip that was refused.
const notSkipped = "refused"
