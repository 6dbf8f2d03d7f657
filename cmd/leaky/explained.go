package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/leaky-tokens/leaky-tokens/client/api"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
)

// explained is what `leaky explain` knows of one call.
type explained struct {
	RequestID string            `json:"requestId"`
	Source    string            `json:"source"`              // decision, hold or event: where it is from
	Part      string            `json:"part,omitzero"`       // process of ratelimit that decided
	DecidedAt time.Time         `json:"decidedAt,omitzero"`  //
	Account   string            `json:"account,omitzero"`    // whose buckets hold
	Caller    explainedCaller   `json:"caller"`              //
	Call      explainedCall     `json:"call"`                //
	Admitted  bool              `json:"admitted"`            //
	Refusal   string            `json:"refusal,omitzero"`    // limit, balance or no_pool
	Rule      string            `json:"rule,omitzero"`       // that refused
	RetryMS   int64             `json:"retryAfterMs"`        // -1: coming back does not help
	Held      int64             `json:"heldTokens"`          //
	Output    int64             `json:"heldOutputTokens"`    // part of heldTokens
	Limits    []explainedLimit  `json:"limits"`              // after the decision
	Shadow    []string          `json:"shadow,omitempty"`    // rules in shadow mode that would have refused
	Unmatched []string          `json:"unmatched,omitempty"` // descriptors that no rule matched
	Balance   *explainedBalance `json:"balance,omitempty"`   // after the decision
	Hold      *explainedHold    `json:"hold,omitempty"`      // as it is now
	Event     *api.UsageItem    `json:"event,omitempty"`     // as analytics has it
	Note      string            `json:"note,omitzero"`
}

type explainedCaller struct {
	User string `json:"userId,omitzero"`
	Org  string `json:"orgId,omitzero"`
	Team string `json:"team,omitzero"`
	Key  string `json:"keyId,omitzero"`
	Tier string `json:"tier,omitzero"`
}

type explainedCall struct {
	Route    string `json:"route,omitzero"`
	Provider string `json:"provider,omitzero"`
	Model    string `json:"model,omitzero"`
	Bytes    int64  `json:"inputBytes"`
	Stream   bool   `json:"stream"`
}

type explainedLimit struct {
	Rule      string  `json:"rule"`
	Unit      string  `json:"unit"`
	Capacity  float64 `json:"capacity"`
	Level     float64 `json:"level"`
	Held      float64 `json:"held"`
	PerSecond float64 `json:"perSecond"`
	Verdict   string  `json:"verdict"` // fits, refused, or shadow: it would have refused
}

type explainedBalance struct {
	Present bool  `json:"present"`
	Credits int64 `json:"credits"`
	Spent   int64 `json:"spent"`
	Held    int64 `json:"held"`
	Left    int64 `json:"left"`
}

type explainedHold struct {
	State   string `json:"state"` // held, settled, expired or unknown
	Held    int64  `json:"held"`
	Charged int64  `json:"charged"`
}

func (e *explained) facts(f *limitpb.Facts) {
	e.Caller = explainedCaller{User: f.GetUser(), Org: f.GetOrg(), Team: f.GetTeam(), Key: f.GetKey(), Tier: f.GetTier()}
	e.Call = explainedCall{Route: f.GetRoute(), Provider: f.GetProvider(), Model: f.GetModel(), Bytes: f.GetInputBytes(),
		Stream: f.GetStream()}
}

// fromMemory takes over what a process of ratelimit remembers.
func (e *explained) fromMemory(r *limitpb.ExplainResponse, part string) {
	e.Source, e.Part, e.DecidedAt = "decision", part, time.UnixMicro(r.GetDecidedUnixUs()).UTC()
	e.facts(r.GetFacts())
	e.Account, e.Admitted, e.Rule, e.Note, e.Shadow = r.GetAccount(), r.GetAdmitted(), r.GetRule(), r.GetNote(), r.GetShadow()
	e.Held, e.Output, e.RetryMS = r.GetHeld(), r.GetOutput(), milliseconds(r.GetRetryAfterUs())
	switch r.GetRefusal() {
	case limitpb.Refusal_REFUSAL_LIMIT:
		e.Refusal = "limit"
	case limitpb.Refusal_REFUSAL_BALANCE:
		e.Refusal = "balance"
	case limitpb.Refusal_REFUSAL_NO_POOL:
		e.Refusal = "no_pool"
	}
	e.Limits = []explainedLimit{}
	for _, b := range r.GetBuckets() {
		one := explainedLimit{Rule: b.GetRule(), Unit: b.GetUnit(), Capacity: b.GetCapacity(), Level: b.GetLevel(), Held: b.GetHeld(),
			PerSecond: b.GetRate(), Verdict: "fits"}
		switch {
		case b.GetRule() == e.Rule:
			one.Verdict = "refused"
		case slices.Contains(e.Shadow, b.GetRule()):
			one.Verdict = "shadow"
		}
		e.Limits = append(e.Limits, one)
	}
	for _, d := range r.GetUnmatched() {
		var text []string
		for _, one := range d.GetEntries() {
			text = append(text, one.GetKey()+"="+one.GetValue())
		}
		e.Unmatched = append(e.Unmatched, strings.Join(text, ","))
	}
	if b := r.GetBalance(); b != nil {
		e.Balance = &explainedBalance{Present: b.GetPresent(), Credits: b.GetCredits(), Spent: b.GetSpent(), Held: b.GetHeld(),
			Left: b.GetCredits() - b.GetSpent() - b.GetHeld()}
	}
	if h := r.GetHold(); h != nil {
		e.Hold = &explainedHold{State: strings.ToLower(h.GetState().String()), Held: h.GetHeld(), Charged: h.GetCharged()}
	}
}

// milliseconds rounds up; a negative wait stays -1.
func milliseconds(us int64) int64 {
	if us < 0 {
		return -1
	}
	return (us + 999) / 1000
}

// fromHold takes over a call that still holds.
func (e *explained) fromHold(h *limitpb.Held, now time.Time) {
	e.Source, e.Admitted, e.Account, e.Held = "hold", true, h.GetAccount(), h.GetHeld()
	e.DecidedAt = now.Add(-time.Duration(h.GetAgeUs()) * time.Microsecond).UTC().Truncate(time.Millisecond)
	e.facts(h.GetFacts())
	e.Limits, e.Hold = []explainedLimit{}, &explainedHold{State: "held", Held: h.GetHeld()}
	e.Note = "the process that decided does not remember it any more; this is from its hold"
}

// fromEvent takes over a call that is over.
func (e *explained) fromEvent(u *api.UsageItem) {
	e.Source, e.Admitted, e.Account, e.Held, e.DecidedAt = "event", u.Allowed, u.Account, u.HeldTokens, u.Key.Timestamp
	e.Caller = explainedCaller{User: u.UserID, Org: u.OrgID, Key: u.KeyID}
	e.Call = explainedCall{Route: u.Route, Provider: u.Provider, Model: u.Model, Stream: u.Stream}
	e.Limits, e.Event = []explainedLimit{}, u
	e.Note = "the process that decided does not remember it any more; this is from its usage event"
}

// print is for people.
func (e *explained) print(out io.Writer, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	when := fmt.Sprintf("%s, %s ago", e.DecidedAt.Format(time.RFC3339Nano), age(now.Sub(e.DecidedAt)))
	if e.Part != "" {
		when += ", by " + e.Part
	}
	line("request", "%s (%s)", e.RequestID, when)
	line("caller", "%s", fields("account", e.Account, "user", e.Caller.User, "org", e.Caller.Org, "team", e.Caller.Team, "key", e.Caller.Key,
		"tier", e.Caller.Tier))
	what := fields("route", e.Call.Route, "provider", e.Call.Provider, "model", e.Call.Model)
	if e.Call.Bytes > 0 {
		what += fmt.Sprintf(" bytes=%d", e.Call.Bytes)
	}
	if e.Call.Stream {
		what += " stream"
	}
	line("call", "%s", what)
	line("decision", "%s", e.decision())
	if h := e.Hold; h != nil && h.State != "unknown" {
		line("hold", "%s: %d held, %d charged", h.State, h.Held, h.Charged)
	}
	if b := e.Balance; b != nil && b.Present {
		line("balance", "%d left of %d bought: %d spent, %d held", b.Left, b.Credits, b.Spent, b.Held)
	} else if b != nil {
		line("balance", "the account has no pool for the provider")
	}
	if u := e.Event; u != nil {
		line("event", "status %d, charged %d (%d input, %d output), source %s %s", u.Status, u.Tokens, u.InputTokens, u.OutputTokens, u.Source, u.Reason)
	}
	if e.Note != "" {
		line("note", "%s", e.Note)
	}
	for _, d := range e.Unmatched {
		line("no rule for", "%s", d)
	}
	if len(e.Limits) > 0 {
		fmt.Fprintln(w, "\nRULE\tUNIT\tCAPACITY\tLEVEL\tHELD\tPER SECOND\tVERDICT")
	}
	for _, b := range e.Limits {
		fmt.Fprintf(w, "%s\t%s\t%.0f\t%.2f\t%.0f\t%.4g\t%s\n", b.Rule, b.Unit, b.Capacity, b.Level, b.Held, b.PerSecond, b.Verdict)
	}
	return w.Flush()
}

// decision is one sentence.
func (e *explained) decision() string {
	switch {
	case e.Admitted && e.Output > 0:
		return fmt.Sprintf("admitted, held %d tokens (%d of them for the output)", e.Held, e.Output)
	case e.Admitted:
		return fmt.Sprintf("admitted, held %d tokens", e.Held)
	case e.Refusal == "balance":
		return "refused: the balance does not cover it"
	case e.Refusal == "no_pool":
		return "refused: the account has no pool for the provider, and one is required"
	case e.Refusal == "limit" && e.RetryMS < 0:
		return fmt.Sprintf("refused by %q: more than the limit can ever hold", e.Rule)
	case e.Refusal == "limit":
		return fmt.Sprintf("refused by %q: it may fit in %s", e.Rule, time.Duration(e.RetryMS)*time.Millisecond)
	}
	return "refused"
}

// fields are name=value for each value that is not empty.
func fields(pairs ...string) string {
	var out []string
	for pair := range slices.Chunk(pairs, 2) {
		if name, value := pair[0], pair[len(pair)-1]; value != "" {
			out = append(out, name+"="+value)
		}
	}
	return strings.Join(out, " ")
}
