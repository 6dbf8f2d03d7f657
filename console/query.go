package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
)

// span is how far back a page looks.
type span struct {
	Name, Label string
	length      time.Duration
	interval    string
}

func spans() []span {
	return []span{{"1h", "Last hour", time.Hour, "minute"}, {"24h", "Last 24 hours", 24 * time.Hour, "hour"},
		{"7d", "Last 7 days", 7 * 24 * time.Hour, "hour"}, {"30d", "Last 30 days", 30 * 24 * time.Hour, "day"},
		{"90d", "Last 90 days", 90 * 24 * time.Hour, "day"}}
}

// choice is an entry of a list to choose from.
type choice struct {
	Value, Label string
	Chosen       bool
}

// Whose calls a page is about, beside the id of an organisation.
const (
	ofMe  = "me"
	ofAll = "all"
)

// view is what a page of numbers is about: whose calls, and since when.
type view struct {
	Scopes []choice
	Spans  []choice
	Whom   string // in words
	Span   span
	of     string
	params url.Values // of analytics
	From   time.Time
	To     time.Time
}

// viewOf reads whose calls, and since when, from the address.
func (v *visit) viewOf() (view, error) {
	q := v.r.URL.Query()
	byDefault := ofMe
	if v.admin() {
		byDefault = ofAll
	}
	out := view{of: cmp.Or(q.Get("of"), byDefault), params: url.Values{}, To: time.Now().UTC().Truncate(time.Second)}
	all := spans()
	at := slices.IndexFunc(all, func(s span) bool { return s.Name == cmp.Or(q.Get("range"), "24h") })
	if at < 0 {
		return out, &shown{status: http.StatusBadRequest, title: "Malformed", text: "range is one of 1h, 24h, 7d, 30d and 90d."}
	}
	out.Span = all[at]
	for _, s := range all {
		out.Spans = append(out.Spans, choice{s.Name, s.Label, s.Name == out.Span.Name})
	}
	out.From = out.To.Add(-out.Span.length)
	out.params.Set("from", out.From.Format(time.RFC3339))
	out.params.Set("to", out.To.Add(time.Second).Format(time.RFC3339))
	return out, v.chooseScope(&out)
}

// chooseScope offers whose calls there are to see: one's own, an organisation's, everybody's. The
// control API refuses what is not the caller's to see, whatever is asked here.
func (v *visit) chooseScope(out *view) error {
	offer := func(value, label string) {
		if value == out.of {
			out.Whom = label
		}
		out.Scopes = append(out.Scopes, choice{value, label, value == out.of})
	}
	offer(ofMe, "My calls")
	for _, o := range v.me.Organisations {
		offer(o.ID.String(), o.Name)
	}
	if v.admin() {
		offer(ofAll, "Everybody")
	}
	switch out.of {
	case ofMe:
		out.params.Set("userId", v.me.ID.String())
		return nil
	case ofAll:
		if !v.admin() {
			return &shown{status: http.StatusForbidden, title: "Refused", text: "Everybody's calls are for an ADMIN."}
		}
		return nil
	}
	org, err := id(out.of, "of")
	if err != nil {
		return err
	}
	out.params.Set("orgId", org.String())
	o, member := v.orgOf(org)
	if member && o.Role != membership.Owner && !v.admin() {
		out.params.Set("userId", v.me.ID.String()) // of the others' calls an OWNER sees
		out.Whom += " (my calls)"
	}
	return nil
}

// filters are parameters of analytics that the address may have, with what people read.
func filters() []filter {
	return []filter{{Name: "provider", Label: "Provider"}, {Name: "model", Label: "Model"}, {Name: "team", Label: "Team"},
		{Name: "keyId", Label: "Key id"}, {Name: "account", Label: "Account"}, {Name: "endUser", Label: "End user"},
		{Name: "session", Label: "Session"}, {Name: "tag", Label: "Tag (name:value)"}}
}

type filter struct {
	Name, Label, Value string
	Options            []string // to choose from; none: free text
}

// filtered puts the filters of the address into the parameters, and gives them for the form.
func (s *site) filtered(v *visit, out *view, names ...string) []filter {
	var found []filter
	for _, f := range filters() {
		if !slices.Contains(names, f.Name) {
			continue
		}
		f.Value = strings.TrimSpace(v.r.URL.Query().Get(f.Name))
		if f.Value != "" {
			out.params.Set(f.Name, f.Value)
		}
		if f.Name == "provider" {
			f.Options = s.cfg.Providers
		}
		found = append(found, f)
	}
	return found
}

// asked are the providers that a page asks about: one, or all.
func (s *site) asked(params url.Values) []string {
	if one := params.Get("provider"); one != "" {
		return []string{one}
	}
	return s.cfg.Providers
}

// get asks analytics.
func get[T any](ctx context.Context, c *client.Client, at string, params url.Values) (T, error) {
	var out T
	err := c.Call(ctx, http.MethodGet, at+"?"+params.Encode(), nil, &out)
	return out, err
}

// with is a copy of parameters with more of them.
func with(params url.Values, pairs ...string) url.Values {
	out := maps.Clone(params)
	for i := 0; i+1 < len(pairs); i += 2 {
		out.Set(pairs[i], pairs[i+1])
	}
	return out
}

// atOnce bounds the calls that one page makes at the same time.
const atOnce = 4

// each asks about every provider, some at a time, and gives the answers in their order.
func each[T any](ctx context.Context, providers []string, ask func(ctx context.Context, provider string) (T, error)) ([]T, error) {
	out := make([]T, len(providers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, provider := range providers {
		g.Go(func() (err error) {
			out[i], err = ask(ctx, provider)
			return err
		})
	}
	return out, g.Wait()
}

// group is one row of sums.
type group struct {
	Key  string // as analytics has it
	Name string // as people know it
	Sums api.UsageSums
}

// mostGroups is how many rows a table has.
const mostGroups = 50

// groups sums up by a dimension over all providers that are asked about, the most tokens first.
func (s *site) groups(ctx context.Context, v *visit, params url.Values, by string) ([]group, error) {
	reports, err := each(ctx, s.asked(params), func(ctx context.Context, provider string) (api.UsageReport, error) {
		return get[api.UsageReport](ctx, v.api, "/api/v1/analytics/report", with(params, "provider", provider, "groupBy", by, "limit", "500"))
	})
	if err != nil {
		return nil, err
	}
	sums := map[string]api.UsageSums{}
	for _, report := range reports {
		for _, g := range report.Groups {
			key := g.Key[by]
			sums[key] = add(sums[key], g.Sums)
		}
	}
	var out []group
	for key, sum := range sums {
		out = append(out, group{Key: key, Name: key, Sums: sum})
	}
	slices.SortFunc(out, func(a, b group) int {
		return cmp.Or(cmp.Compare(b.Sums.TotalTokens, a.Sums.TotalTokens), cmp.Compare(b.Sums.TotalEvents, a.Sums.TotalEvents),
			cmp.Compare(a.Key, b.Key))
	})
	return out[:min(len(out), mostGroups)], nil
}

func add(a, b api.UsageSums) api.UsageSums {
	out := a
	out.TotalEvents += b.TotalEvents
	out.AllowedEvents += b.AllowedEvents
	out.TotalTokens += b.TotalTokens
	out.ConsumedTokens += b.ConsumedTokens
	out.InputTokens += b.InputTokens
	out.OutputTokens += b.OutputTokens
	out.CachedTokens += b.CachedTokens
	out.EstimatedTokens += b.EstimatedTokens
	out.UnpricedTokens += b.UnpricedTokens
	out.CostMicros = maps.Clone(a.CostMicros)
	if out.CostMicros == nil {
		out.CostMicros = map[string]int64{}
	}
	for currency, micros := range b.CostMicros {
		out.CostMicros[currency] += micros
	}
	return out
}

// names finds names for ids: of users (an ADMIN knows all, a member those of their organisations), of
// organisations and of the caller's keys. A name that nobody tells is left out.
func (s *site) names(ctx context.Context, v *visit, of string) (map[string]string, error) {
	known := map[string]string{v.me.ID.String(): v.me.Username, "user:" + v.me.ID.String(): v.me.Username}
	for _, o := range v.me.Organisations {
		known[o.ID.String()], known["org:"+o.ID.String()] = o.Name, o.Name
	}
	learn := func(user, name string) { known[user], known["user:"+user] = name, name }
	const most = 1000
	if org, err := id(of, "of"); err == nil {
		members, err := v.api.ListMembersWithResponse(ctx, org, &api.ListMembersParams{Limit: new(api.PageLimit(most))})
		if err != nil {
			return known, fmt.Errorf("list members: %w", err)
		}
		if members.JSON200 != nil {
			for _, m := range *members.JSON200 {
				learn(m.UserID.String(), m.Username)
			}
		}
	} else if v.admin() {
		users, err := v.api.ListUsersWithResponse(ctx, &api.ListUsersParams{Limit: new(api.PageLimit(most))})
		if err != nil {
			return known, fmt.Errorf("list users: %w", err)
		}
		if users.JSON200 != nil {
			for _, u := range *users.JSON200 {
				learn(u.ID.String(), u.Username)
			}
		}
	}
	keys, err := v.api.ListAPIKeysWithResponse(ctx, &api.ListAPIKeysParams{UserID: &v.me.ID})
	if err != nil {
		return known, fmt.Errorf("list keys: %w", err)
	}
	if keys.JSON200 != nil {
		for _, k := range *keys.JSON200 {
			if k.Name != nil && *k.Name != "" {
				known[k.ID.String()] = *k.Name
			}
		}
	}
	return known, nil
}

// tolerable tells whether a page is worth showing without what an error kept from it.
func tolerable(err error) bool {
	refused, ok := errors.AsType[*client.Error](err)
	return ok && (refused.Status == http.StatusForbidden || refused.Status == http.StatusNotFound)
}
