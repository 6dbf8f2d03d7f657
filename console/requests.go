package console

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"

	"github.com/leaky-tokens/leaky-tokens/client/api"
)

// mostRequests is how many calls of each provider are looked at, and how many are shown.
const mostRequests = 100

// requestsData is the log of decisions.
type requestsData struct {
	View    view
	Filters []filter
	Refused bool // only those
	Rows    []call
	Full    bool // there may be more than are shown
	Pending *int64
}

// call is a row, and opened a page.
type call struct {
	api.UsageItem

	Name, KeyName string // of the caller and their key
	Address       string // of its page
	Why           []string
}

func (s *site) requests(v *visit) error {
	ctx := v.r.Context()
	w, err := v.viewOf()
	if err != nil {
		return err
	}
	d := requestsData{View: w, Filters: s.filtered(v, &w, "provider", "model", "team", "keyId", "endUser", "session", "tag"),
		Refused: v.r.URL.Query().Get("only") == "refused"}
	pages, err := each(ctx, s.asked(w.params), func(ctx context.Context, provider string) (api.UsagePage, error) {
		return get[api.UsagePage](ctx, v.api, "/api/v1/analytics/usage", with(w.params, "provider", provider,
			"limit", fmt.Sprint(mostRequests)))
	})
	if err != nil {
		return err
	}
	known, err := s.names(ctx, v, w.of)
	if err != nil && !tolerable(err) {
		return err
	}
	for _, p := range pages {
		d.Full = d.Full || len(p.Items) == mostRequests
		for _, item := range p.Items {
			if !d.Refused || !item.Allowed {
				d.Rows = append(d.Rows, s.callOf(item, known, w.of))
			}
		}
	}
	slices.SortStableFunc(d.Rows, func(a, b call) int { return b.Key.Timestamp.Compare(a.Key.Timestamp) })
	d.Full = d.Full || len(d.Rows) > mostRequests
	d.Rows = d.Rows[:min(len(d.Rows), mostRequests)]
	return s.show(v, "requests", "/requests", "Requests", d)
}

func (s *site) callOf(item api.UsageItem, known map[string]string, of string) call {
	q := url.Values{"of": {of}, "provider": {item.Provider}}
	shortKey := item.KeyID[:min(len(item.KeyID), 8)]
	return call{UsageItem: item, Name: cmp.Or(known[item.UserID], item.UserID), KeyName: cmp.Or(known[item.KeyID], shortKey),
		Address: path + "/requests/" + url.PathEscape(item.RequestID) + "?" + q.Encode(), Why: why(item)}
}

// requestID is what the gateway names calls by.
var requestID = regexp.MustCompile(`^[A-Za-z0-9._:~-]{1,128}$`)

// request is one call: what was held for it, what it settled at, and why.
func (s *site) request(v *visit) error {
	ctx := v.r.Context()
	w, err := v.viewOf()
	if err != nil {
		return err
	}
	name := v.r.PathValue("id")
	if !requestID.MatchString(name) {
		return &shown{status: http.StatusNotFound, title: "Not here", text: "No call has such an id."}
	}
	w.params.Del("from") // of any time
	w.params.Del("to")
	s.filtered(v, &w, "provider")
	pages, err := each(ctx, s.asked(w.params), func(ctx context.Context, provider string) (api.UsagePage, error) {
		return get[api.UsagePage](ctx, v.api, "/api/v1/analytics/usage", with(w.params, "provider", provider, "requestId", name))
	})
	if err != nil {
		return err
	}
	for _, p := range pages {
		if len(p.Items) == 0 {
			continue
		}
		known, err := s.names(ctx, v, w.of)
		if err != nil && !tolerable(err) {
			return err
		}
		one := s.callOf(p.Items[0], known, w.of)
		if v.fragment() {
			return s.part(v, "call", one)
		}
		return s.show(v, "request", "/requests", "Request", one)
	}
	return &shown{status: http.StatusNotFound, title: "Not here", text: "No call of yours has this id, or it is not in the books yet: " +
		"that takes a second or two."}
}

// why tells in sentences what was decided about a call.
func why(c api.UsageItem) []string {
	var say []string
	if !c.Allowed {
		refusal := fmt.Sprintf("Refused with status %d before it reached %s.", c.Status, c.Provider)
		if c.Reason != "" {
			refusal = fmt.Sprintf("Refused with status %d before it reached %s: %s.", c.Status, c.Provider, brief(c.Reason))
		}
		return []string{refusal, "Nothing was charged."}
	}
	if c.HeldTokens > 0 {
		say = append(say, fmt.Sprintf("Admitted: %s tokens were held for it, the most that it could use. Every limit that matched, and the "+
			"balance, had room for them.", count(c.HeldTokens)))
	}
	switch c.Source {
	case "provider":
		say = append(say, fmt.Sprintf("Settled at %s tokens, as %s counted them: %s in and %s out.", count(c.Tokens), c.Provider,
			count(c.InputTokens), count(c.OutputTokens)))
	case "estimated":
		say = append(say, fmt.Sprintf("Settled at %s tokens by estimate, since the provider's count did not come: by the bytes that passed, "+
			"and never above what was held.", count(c.Tokens)))
	case "held":
		say = append(say, fmt.Sprintf("Settled at all of the %s tokens that were held: so the policy for calls that end early has it.",
			count(c.Tokens)))
	case "expired":
		say = append(say, "Nobody settled it in time; the sweeper did, by policy.")
	case "released":
		say = append(say, "The provider served nothing: what was held was given back, and nothing was charged.")
	case "requested":
		say = append(say, fmt.Sprintf("Charged %s tokens, as the caller stated them.", count(c.Tokens)))
	}
	if back := c.HeldTokens - c.Tokens; back > 0 && c.Source != "released" {
		say = append(say, fmt.Sprintf("%s held tokens were given back.", count(back)))
	}
	if c.Reason != "" {
		say = append(say, "Noted: "+brief(c.Reason)+".")
	}
	if c.CostMicros == nil {
		return append(say, "No price was known for this model, so its cost is unknown, and not zero.")
	}
	return append(say, fmt.Sprintf("It cost %s by the price list %s.", money(map[string]int64{c.Currency: *c.CostMicros}), c.PriceVersion))
}
