package analytics

import (
	"net/http"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// item is one event as callers see it. Tokens is what was charged.
type item struct {
	Key struct {
		Provider  string    `json:"provider"`
		Timestamp time.Time `json:"timestamp"`
	} `json:"key"`
	RequestID       string            `json:"requestId"`
	UserID          string            `json:"userId"`
	OrgID           string            `json:"orgId,omitzero"`
	Team            string            `json:"team,omitzero"`
	KeyID           string            `json:"keyId,omitzero"`
	Account         string            `json:"account"`
	EndUser         string            `json:"endUser,omitzero"`
	Session         string            `json:"session,omitzero"`
	Tags            map[string]string `json:"tags,omitempty"`
	Version         int64             `json:"version"` // of what is said of the call; 0: never corrected
	Provider        string            `json:"provider"`
	Route           string            `json:"route"`
	Model           string            `json:"model"`
	ModelServed     string            `json:"modelServed,omitzero"`
	Tokens          int64             `json:"tokens"`
	InputTokens     int64             `json:"inputTokens"`
	OutputTokens    int64             `json:"outputTokens"`
	CachedTokens    int64             `json:"cachedTokens"`
	ReasoningTokens int64             `json:"reasoningTokens"`
	CacheWrite5m    int64             `json:"cacheWrite5mTokens"`
	CacheWrite1h    int64             `json:"cacheWrite1hTokens"`
	ToolInput       int64             `json:"toolInputTokens"`
	Audio           int64             `json:"audioTokens"`
	AudioOutput     int64             `json:"audioOutputTokens"`
	HeldTokens      int64             `json:"heldTokens"`
	PriceVersion    string            `json:"priceVersion,omitzero"` // without one the call is unpriced
	CostMicros      *int64            `json:"costMicros"`            // null: unpriced
	Currency        string            `json:"currency,omitzero"`
	Source          usage.Source      `json:"source"`
	Allowed         bool              `json:"allowed"`
	Stream          bool              `json:"stream"`
	Status          int               `json:"status"`
	Reason          string            `json:"reason,omitzero"`
	Attempts        int64             `json:"attempts"`
	LatencyMS       int64             `json:"latencyMs"`
	FirstByteMS     int64             `json:"firstByteMs"`
}

func newItem(r Row) item {
	i := item{RequestID: r.RequestID, UserID: r.UserID, OrgID: r.OrgID, KeyID: r.KeyID, Account: r.Account, Provider: r.Provider,
		Route: r.Route,
		Model: r.ModelAsked, ModelServed: r.ModelServed, Tokens: r.Charged, InputTokens: r.Input, OutputTokens: r.Output, CachedTokens: r.Cached,
		ReasoningTokens: r.Reasoning, HeldTokens: r.Held, Source: r.Source, Allowed: r.Allowed, Stream: r.Stream, Status: r.Status,
		Reason:    r.Reason,
		LatencyMS: r.LatencyMS, FirstByteMS: r.FirstByteMS}
	i.Team, i.EndUser, i.Session, i.Tags, i.Version, i.Attempts = r.Team, r.EndUser, r.Session, r.Tags, r.Version, r.Attempts
	i.CacheWrite5m, i.CacheWrite1h, i.ToolInput, i.Audio, i.AudioOutput = r.CacheWrite5m, r.CacheWrite1h, r.ToolInput, r.Audio, r.AudioOutput
	if i.PriceVersion, i.Currency = r.PriceVersion, r.Currency; r.PriceVersion != "" {
		i.CostMicros = &r.CostMicros
	}
	i.Key.Provider, i.Key.Timestamp = r.Provider, r.Timestamp.UTC()
	return i
}

type usageAnswer struct {
	Provider string `json:"provider"`
	Count    int    `json:"count"`
	Items    []item `json:"items"`
}

func (a *API) usage(w http.ResponseWriter, r *http.Request, caller reader) error {
	now := time.Now()
	p, err := caller.usage(r.Context(), r.URL.RawQuery, now)
	if err != nil {
		return err
	}
	rows, err := a.cfg.Store.Latest(r.Context(), p.filter, p.limit, now)
	if err != nil {
		return err
	}
	answer := usageAnswer{Provider: p.filter.Provider, Count: len(rows), Items: make([]item, len(rows))}
	for i, row := range rows {
		answer.Items[i] = newItem(row)
	}
	httpapi.WriteJSON(w, http.StatusOK, answer)
	return nil
}

// reportAnswer: totals are exact over the window [windowStart, windowEnd); totalTokens =
// consumedTokens + deniedTokens. PendingEvents is null when NATS does not tell. Groups are there when
// dimensions were asked for.
type reportAnswer struct {
	Provider    string    `json:"provider"`
	WindowStart time.Time `json:"windowStart"`
	WindowEnd   time.Time `json:"windowEnd"`
	Sums
	DeniedEvents          int64         `json:"deniedEvents"`
	DeniedTokens          int64         `json:"deniedTokens"`
	AverageTokensPerEvent float64       `json:"averageTokensPerEvent"`
	UniqueUsers           int64         `json:"uniqueUsers"`
	SampleLimit           int           `json:"sampleLimit"`
	TopUsers              []UserTotal   `json:"topUsers"`
	GroupCount            int64         `json:"groupCount,omitzero"`
	Groups                []groupAnswer `json:"groups,omitzero"`
	PendingEvents         *int64        `json:"pendingEvents"`
}

func (a *API) report(w http.ResponseWriter, r *http.Request, caller reader) error {
	p, err := caller.report(r.Context(), r.URL.RawQuery, time.Now())
	if err != nil {
		return err
	}
	pending := a.pending(r.Context()) // before the sums: they hold at least what this says
	sum, err := a.cfg.Store.Totals(r.Context(), p.filter, min(p.limit, topUsersMost))
	if err != nil {
		return err
	}
	answer := reportAnswer{Provider: p.filter.Provider, WindowStart: p.filter.From, WindowEnd: p.filter.To, Sums: sum.Sums,
		DeniedEvents: sum.Events - sum.Allowed, DeniedTokens: sum.Tokens - sum.Consumed,
		UniqueUsers: sum.Users, SampleLimit: p.limit, TopUsers: sum.Top, PendingEvents: pending}
	if sum.Events > 0 {
		answer.AverageTokensPerEvent = float64(sum.Tokens) / float64(sum.Events)
	}
	if answer.TopUsers == nil {
		answer.TopUsers = []UserTotal{}
	}
	if len(p.by) > 0 {
		found, err := a.cfg.Store.Group(r.Context(), p.filter, p.by, p.limit, false)
		if err != nil {
			return err
		}
		answer.GroupCount, answer.Groups = found.Count, newGroups(p.groupBy, found.Groups)
	}
	httpapi.WriteJSON(w, http.StatusOK, answer)
	return nil
}

// anomalyAnswer: Ratio is null when the baseline is zero, as no number would be true.
type anomalyAnswer struct {
	Provider              string    `json:"provider"`
	WindowStart           time.Time `json:"windowStart"`
	WindowEnd             time.Time `json:"windowEnd"`
	BaselineWindows       int       `json:"baselineWindows"`
	CurrentTokens         int64     `json:"currentTokens"`
	BaselineAverageTokens float64   `json:"baselineAverageTokens"`
	Ratio                 *float64  `json:"ratio"`
	ThresholdMultiplier   float64   `json:"thresholdMultiplier"`
	Anomaly               bool      `json:"anomaly"`
	SampleLimit           int       `json:"sampleLimit"`
}

func (a *API) anomalies(w http.ResponseWriter, r *http.Request, caller reader) error {
	p, err := caller.anomalies(r.Context(), r.URL.RawQuery, time.Now())
	if err != nil {
		return err
	}
	span := p.filter
	span.From = p.filter.From.Add(-time.Duration(p.baselines) * p.filter.To.Sub(p.filter.From))
	current, before, err := a.cfg.Store.Windows(r.Context(), span, p.filter.From)
	if err != nil {
		return err
	}
	answer := anomalyAnswer{Provider: p.filter.Provider, WindowStart: p.filter.From, WindowEnd: p.filter.To, BaselineWindows: p.baselines,
		CurrentTokens: current, BaselineAverageTokens: float64(before) / float64(p.baselines), ThresholdMultiplier: p.threshold,
		SampleLimit: p.limit}
	if mean := answer.BaselineAverageTokens; mean > 0 {
		ratio := float64(current) / mean
		answer.Ratio, answer.Anomaly = &ratio, ratio >= p.threshold
	}
	httpapi.WriteJSON(w, http.StatusOK, answer)
	return nil
}
