package console

import (
	"cmp"
	"slices"

	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// limitsData is the tree of what bounds the caller's calls: below each provider what counts there,
// what counts everywhere first.
type limitsData struct {
	Tier    string
	Account string
	Silent  bool // the limiter does not tell
	Tokens  []branch
	Asks    []branch // of requests
}

// branch is what bounds calls of one provider, or of all.
type branch struct {
	Name     string
	Rules    []limitRow
	Balance  *api.Balance
	Tightest *limitRow // the one that a call would meet first
}

type limitRow struct {
	api.Limit

	Tightest bool
}

func (s *site) limits(v *visit) error {
	d := limitsData{Tier: v.me.Tier, Account: v.me.Account, Silent: v.me.Limits == nil}
	if v.me.Limits != nil {
		d.Tokens, d.Asks = branches(*v.me.Limits, "tokens"), branches(*v.me.Limits, "requests")
	}
	if v.me.Balances != nil {
		for _, b := range *v.me.Balances {
			at := slices.IndexFunc(d.Tokens, func(t branch) bool { return t.Name == b.Provider })
			if at < 0 {
				d.Tokens, at = append(d.Tokens, branch{Name: b.Provider}), len(d.Tokens)
			}
			d.Tokens[at].Balance = &b
		}
	}
	return s.show(v, "limits", "/limits", "Limits", d)
}

// branches puts the limits of a unit below what they count for: a provider, else a route.
func branches(limits []api.Limit, unit string) []branch {
	var out []branch
	for _, l := range limits {
		if l.Unit != unit {
			continue
		}
		name := cmp.Or(l.Provider, l.Route)
		at := slices.IndexFunc(out, func(b branch) bool { return b.Name == name })
		if at < 0 {
			out, at = append(out, branch{Name: name}), len(out)
		}
		out[at].Rules = append(out[at].Rules, limitRow{Limit: l})
	}
	slices.SortStableFunc(out, func(a, b branch) int { return cmp.Compare(a.Name, b.Name) }) // everywhere first
	for i := range out {
		out[i].mark()
	}
	return out
}

// mark finds the limit that a call would meet first: the one with the least room. Shadow rules refuse
// nobody, and those of one route not the calls of others.
func (b *branch) mark() {
	for i := range b.Rules {
		r := &b.Rules[i]
		if applies := !r.Shadow && (r.Route == "" || r.Route == b.Name); applies && (b.Tightest == nil || r.Remaining < b.Tightest.Remaining) {
			b.Tightest = r
		}
	}
	if b.Tightest != nil {
		b.Tightest.Tightest = true
	}
}
