package sim

import "github.com/kstage/kstage"

// claimOf is what a member has claimed.
type claimOf struct{ member, group, id string }

// dedupe: nothing is handled whose key was confirmed, and nothing without a claim.
// Whether a second success was in the documented window, the claims tell: a key is
// lent again only when its holder has let it go, or did not come for a lease.
func dedupe(r *Run, f *findings) {
	done := map[[2]string]bool{}          // by group and message id: confirmed
	lent := map[claimOf]map[uint64]bool{} // tokens that were claimed, and not let go
	for _, e := range r.History.Events() {
		g := r.Plan.groupOf(e.Group)
		if g == nil || !g.Dedupe || g.FailOpen {
			continue
		}
		_, id, _ := cutLast(e.Key, "\x00")
		switch e.Kind {
		case Asked:
			if e.Answer == kstage.ClaimNew.String() && e.Note == "" {
				k := claimOf{e.Member, e.Group, id}
				if lent[k] == nil {
					lent[k] = map[uint64]bool{}
				}
				lent[k][e.Token] = true
			}
		case Sure:
			if e.Note == "" {
				done[[2]string{e.Group, id}] = true
			}
		case Freed:
			delete(lent[claimOf{e.Member, e.Group, id}], e.Token)
		case Started:
			rec := recordPlan(&r.Plan, e.Record)
			if rec == nil || rec.Message == "" {
				continue
			}
			if done[[2]string{e.Group, rec.Message}] {
				f.add(e.At, "%s handles %v (%s), whose id %s is done", e.Member, e.Place, e.Record, rec.Message)
			}
			if len(lent[claimOf{e.Member, e.Group, rec.Message}]) == 0 {
				f.add(e.At, "%s handles %v (%s) without a claim of %s", e.Member, e.Place, e.Record, rec.Message)
			}
		}
	}
}
