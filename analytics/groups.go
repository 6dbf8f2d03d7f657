package analytics

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

const (
	mostDimensions           = 4
	groupLimit, groupsAtMost = 100, 5000
)

// dimensions are what calls can be grouped by, as SQL.
func dimensions() map[string]string {
	return map[string]string{"user": "user_id", "org": "org_id", "team": "team", "key": "key_id", "account": "account", "tier": "tier",
		"provider": "provider", "model": model, "modelAsked": "model_asked", "endUser": "end_user", "session": "session", "route": "route",
		"source": "source", "reason": "reason", "status": "status", "allowed": "if(allowed, 'true', 'false')",
		"stream": "if(stream, 'true', 'false')", "priceVersion": "price_version", "currency": "currency"}
}

// groupBy reads names of dimensions with commas between; tag.NAME is the value of a tag.
func (p params) groupBy() (names, expressions []string, err error) {
	text, err := p.text("groupBy")
	if err != nil || text == "" {
		return nil, nil, err
	}
	known := dimensions()
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		expression, ok := known[name]
		if tag, is := strings.CutPrefix(name, "tag."); is && usage.TagName.MatchString(tag) {
			expression, ok = "tags['"+tag+"']", true // the name holds letters, digits and _ alone
		}
		if !ok || slices.Contains(names, name) {
			return nil, nil, bad("groupBy takes %s and tag.NAME, each once, with commas between", strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		names, expressions = append(names, name), append(expressions, expression)
	}
	if len(names) > mostDimensions {
		return nil, nil, bad("groupBy takes at most %d dimensions", mostDimensions)
	}
	return names, expressions, nil
}

// groupAnswer is one group.
type groupAnswer struct {
	Key  map[string]string `json:"key"`
	Sums Sums              `json:"sums"`
}

// groupsAnswer is an answer by groups. The total is exact over [windowStart, windowEnd), whatever
// the limit of the list.
type groupsAnswer struct {
	WindowStart   time.Time     `json:"windowStart"`
	WindowEnd     time.Time     `json:"windowEnd"`
	Total         Sums          `json:"total"`
	GroupCount    int64         `json:"groupCount"`
	Groups        []groupAnswer `json:"groups"`
	PendingEvents *int64        `json:"pendingEvents"`
}

func newGroups(names []string, found []Group) []groupAnswer {
	groups := make([]groupAnswer, len(found))
	for i, g := range found {
		groups[i] = groupAnswer{Key: map[string]string{}, Sums: g.Sums}
		for j, name := range names {
			groups[i].Key[name] = g.Key[j]
		}
	}
	return groups
}

// grouped answers a filter by dimensions.
func (a *API) grouped(w http.ResponseWriter, r *http.Request, f Filter, names []string, limit int) error {
	known, expressions := dimensions(), make([]string, len(names))
	for i, name := range names {
		expressions[i] = known[name]
	}
	pending := a.pending(r.Context()) // before the sums: they hold at least what this says
	found, err := a.cfg.Store.Group(r.Context(), f, expressions, limit, false)
	if err != nil {
		return err
	}
	httpapi.WriteJSON(w, http.StatusOK, groupsAnswer{WindowStart: f.From, WindowEnd: f.To, Total: found.Total, GroupCount: found.Count,
		Groups: newGroups(names, found.Groups), PendingEvents: pending})
	return nil
}

const day = 24 * time.Hour

// byProvider sums up each provider.
func (a *API) byProvider(w http.ResponseWriter, r *http.Request, caller reader) error {
	p, err := parseParams(r.URL.RawQuery, filterNames("limit")...)
	if err != nil {
		return err
	}
	f, err := caller.filter(r.Context(), p, false)
	if err != nil {
		return err
	}
	if err := p.span(&f, day, time.Now()); err != nil {
		return err
	}
	limit, err := p.positive("limit", groupLimit, groupsAtMost)
	if err != nil {
		return err
	}
	return a.grouped(w, r, f, []string{"provider"}, limit)
}

// ofUser sums up one user by provider and model.
func (a *API) ofUser(w http.ResponseWriter, r *http.Request, caller reader) error {
	p, err := parseParams(r.URL.RawQuery, without(filterNames("limit"), "userId")...)
	if err != nil {
		return err
	}
	p.values.Set("userId", r.PathValue("id")) // refused where it is not the caller's to see
	return a.ofOne(w, r, caller, p, day)
}

// ofCaller sums up the caller by provider and model, since the month began.
func (a *API) ofCaller(w http.ResponseWriter, r *http.Request, caller reader) error {
	p, err := parseParams(r.URL.RawQuery, without(filterNames("limit"), "userId", "orgId")...)
	if err != nil {
		return err
	}
	p.values.Set("userId", caller.who.UserID)
	now := time.Now().UTC()
	month := now.Sub(time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC))
	return a.ofOne(w, r, caller, p, max(month.Truncate(time.Millisecond), time.Millisecond))
}

func (a *API) ofOne(w http.ResponseWriter, r *http.Request, caller reader, p params, byDefault time.Duration) error {
	f, err := caller.filter(r.Context(), p, false)
	if err != nil {
		return err
	}
	if err := p.span(&f, byDefault, time.Now()); err != nil {
		return err
	}
	limit, err := p.positive("limit", groupLimit, groupsAtMost)
	if err != nil {
		return err
	}
	return a.grouped(w, r, f, []string{"provider", "model"}, limit)
}

func without(names []string, some ...string) []string {
	return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(some, name) })
}

// bucketAnswer is one bucket of a trend, half-open.
type bucketAnswer struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
	Sums  Sums      `json:"sums"`
}

// trendAnswer has every bucket of [windowStart, windowEnd), also empty ones. The first and the last
// may be larger than what is asked for; they hold what is.
type trendAnswer struct {
	WindowStart   time.Time      `json:"windowStart"`
	WindowEnd     time.Time      `json:"windowEnd"`
	Interval      string         `json:"interval"`
	Zone          string         `json:"zone"`
	Total         Sums           `json:"total"`
	Buckets       []bucketAnswer `json:"buckets"`
	PendingEvents *int64         `json:"pendingEvents"`
}

// trends sums up each bucket of a time.
func (a *API) trends(w http.ResponseWriter, r *http.Request, caller reader) error {
	p, err := parseParams(r.URL.RawQuery, filterNames("interval", "zone")...)
	if err != nil {
		return err
	}
	f, err := caller.filter(r.Context(), p, false)
	if err != nil {
		return err
	}
	if err := p.span(&f, day, time.Now()); err != nil {
		return err
	}
	c, err := p.calendar(f.To.Sub(f.From))
	if err != nil {
		return err
	}
	starts, err := c.buckets(f.From, f.To)
	if err != nil {
		return err
	}
	pending := a.pending(r.Context())
	total, sums, err := a.cfg.Store.Buckets(r.Context(), f, starts)
	if err != nil {
		return err
	}
	answer := trendAnswer{WindowStart: f.From, WindowEnd: f.To, Interval: c.interval, Zone: c.zone.String(), Total: total,
		PendingEvents: pending}
	for i, s := range sums {
		answer.Buckets = append(answer.Buckets, bucketAnswer{Start: starts[i], End: starts[i+1], Sums: s})
	}
	httpapi.WriteJSON(w, http.StatusOK, answer)
	return nil
}

// index is the place of a bucket's beginning, in seconds, among starts; -1 where there is none.
func index(starts []time.Time, unix int64) int {
	i := sort.Search(len(starts), func(i int) bool { return starts[i].Unix() >= unix })
	if i == len(starts) || starts[i].Unix() != unix {
		return -1
	}
	return i
}

// seconds lists beginnings for SQL.
func seconds(starts []time.Time) string {
	var list strings.Builder
	for i, s := range starts {
		if i > 0 {
			list.WriteByte(',')
		}
		fmt.Fprint(&list, s.Unix())
	}
	return list.String()
}
