package meter

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// Why an event carries no count of the provider's; Event.Reason.
const (
	ReasonRateLimited  = "rate_limited"           // a limit refused
	ReasonDisconnected = "client_disconnected"    // the client went away in the middle of the answer
	ReasonCut          = "stream_cut"             // the answer broke off
	ReasonNoUsage      = "usage_missing"          // the provider told no usage
	ReasonPartial      = "usage_partial"          // some of the usage was lost on the way
	ReasonNotServed    = "not_served"             // the provider was never asked or never answered
	ReasonProvider     = "provider_status_"       // + its status
	ReasonUndecided    = "limit_service_no_reply" // Envoy had no reply to its question; a hold may stand
)

// unknownProvider stands in the event of a line without a provider: the subject needs one.
const unknownProvider = "unknown"

// judge estimates what nobody counted; bytes are bytes of a body, results are tokens.
type judge interface {
	output(k kind, bytes int64, ended bool) int64
	input(k kind, bytes int64) int64
}

// kind is what an estimate depends on.
type kind struct {
	provider, model string
	stream          bool
}

// verdict is what becomes of one line.
type verdict struct {
	settle  bool // the hold is replaced by event.Charged
	publish bool
	// orphan: no hold is known to stand. The settlement gives back one that Envoy never
	// heard of, and only if there was one the event is published.
	orphan bool
	// outage: ratelimit admitted it while Redis was away, and writes its hold down afterwards.
	// Until then the books do not know it, and it is settled again later.
	outage bool
	tries  int // how often an orphan or a hold of an outage was sought
	event  usage.Event

	correlation, trace string // for the event's envelope
}

// charge decides what a request costs. It is pure: the same line and the same judge give
// the same verdict. now stands in for a start time that does not parse.
//
//   - refused by a limit: nothing is settled, the event says so;
//   - nothing was held (no credential, a bad body): neither settled nor published, unless the
//     provider served it all the same;
//   - the provider's usage is complete: its count, exactly, even above the hold;
//   - bytes of an answer came, without usage or in part: an estimate, never above the hold;
//   - nothing was served: zero, and the hold is given back.
func charge(l *spool.Line, j judge, now time.Time) verdict {
	v := verdict{event: eventOf(l, now)}
	e := &v.event
	switch {
	case flagged(l, "RL"):
		e.Account, e.Held = accountOf(l), 0
		e.Source, e.Reason, v.publish = usage.FromRefusal, ReasonRateLimited, l.Provider != ""
		return v
	case l.Account == "" && !unasked(l):
		return orphaned(l, v)
	}
	v.settle, v.publish = true, true
	v.outage = l.Account == "" || l.Held != nil && l.HeldIn == nil
	e.Account = accountOf(l)
	e.Allowed = true
	body := max(0, l.WireRecv-l.HeaderRecv)
	switch {
	case l.Quality == spool.Complete && l.Input != nil:
		e.Source, e.Input, e.Output = usage.FromProvider, *l.Input, count(l.Output)
		e.Cached, e.Reasoning = count(l.Cached), count(l.Reasoning)
	case served(l) && body > 0:
		e.Source, e.Reason = usage.FromEstimate, reason(l)
		e.Input, e.Output = estimate(l, j, body)
	default:
		e.Source, e.Reason = usage.FromUnstarted, ReasonNotServed
		if status := providerStatus(l); status >= 400 && body > 0 {
			e.Reason = ReasonProvider + strconv.Itoa(status)
		}
	}
	e.Charged = e.Input + e.Output
	return v
}

// unasked is a call that Envoy let pass although ratelimit did not answer, as a route does
// whose outage mode is open. The provider served it, so it counts; the limits do not know
// it, unless ratelimit held for it after all.
func unasked(l *spool.Line) bool {
	return l.User != "" && l.Bytes != "" && l.Provider != "" && l.Upstream != "" && l.Upstream != "-" && served(l)
}

// orphaned is a line without a hold. Where Envoy asked ratelimit and never heard the
// reply (a timeout, a restart, a client that left), a hold may stand all the same: it is
// given back, since nothing was served.
func orphaned(l *spool.Line, v verdict) verdict {
	asked := l.User != "" && l.Bytes != "" && (flagged(l, "RLSE") || flagged(l, "DC"))
	if !asked {
		return v
	}
	v.settle, v.orphan = true, true
	v.event.Account = accountOf(l)
	v.event.Allowed, v.event.Source, v.event.Reason = true, usage.FromUnstarted, ReasonUndecided
	return v
}

// accountOf is whose buckets hold: ratelimit's word, else as it decides.
func accountOf(l *spool.Line) string {
	switch {
	case l.Account != "":
		return l.Account
	case l.Org != "":
		return "org:" + l.Org
	}
	return "user:" + l.User
}

func eventOf(l *spool.Line, now time.Time) usage.Event {
	start, err := time.Parse(time.RFC3339Nano, l.Start)
	if err != nil {
		start = now
	}
	e := usage.Event{RequestID: l.ID, UserID: l.User, OrgID: l.Org, Team: l.Team, KeyID: l.Key, Tier: l.Tier, Account: l.Account,
		Route: l.Route, Provider: l.Provider,
		ModelAsked: l.Model, ModelServed: l.Served, Held: whole(l.Held), Stream: l.Stream == "true", Status: l.Status, LatencyMS: l.Millis,
		FirstByteMS: count(l.FirstByte), Timestamp: start.UTC()}
	if e.Provider == "" || strings.ContainsAny(e.Provider, ".*> \t\r\n") {
		e.Provider = unknownProvider
	}
	return e
}

// estimate is input and output of an answer nobody counted in full. Each stays below what
// was held for it, if anything was. A partial count of the provider's is a floor: it served
// at least that.
func estimate(l *spool.Line, j judge, body int64) (input, output int64) {
	k := kindOf(l)
	heldIn := whole(l.HeldIn)
	if l.HeldIn == nil { // admitted in an outage, which tells only the sum
		heldIn = min(whole(l.Held), j.input(k, parseBytes(l.Bytes)))
	}
	input = min(j.input(k, parseBytes(l.Bytes)), heldIn)
	output = min(j.output(k, body, ended(l)), max(0, whole(l.Held)-heldIn))
	if l.Account == "" {
		input, output = j.input(k, parseBytes(l.Bytes)), j.output(k, body, ended(l))
	}
	if l.Quality == spool.Partial || l.Quality == spool.Complete {
		output = max(output, count(l.Output))
		if l.Input != nil {
			input = *l.Input // told once, at the beginning or the end; never a running count
		}
	}
	return input, output
}

func kindOf(l *spool.Line) kind {
	model := l.Model
	if model == "" {
		model = l.Served
	}
	return kind{provider: l.Provider, model: model, stream: l.Stream == "true"}
}

// served says that the provider began an answer that counts: not an error.
func served(l *spool.Line) bool {
	status := providerStatus(l)
	return status >= 200 && status < 300
}

// providerStatus is the status the provider gave, else the one the client saw.
func providerStatus(l *spool.Line) int {
	if status, err := strconv.Atoi(l.Upstream); err == nil {
		return status
	}
	return l.Status
}

// ended says that the answer came to its end, as far as HTTP tells.
func ended(l *spool.Line) bool { return l.Flags == "" || l.Flags == "-" }

func reason(l *spool.Line) string {
	switch {
	case l.Quality == spool.Partial:
		return ReasonPartial
	case flagged(l, "DC"):
		return ReasonDisconnected
	case ended(l):
		return ReasonNoUsage
	}
	return ReasonCut
}

// flagged looks for one of Envoy's comma-joined response flags.
func flagged(l *spool.Line, flag string) bool {
	if len(l.Flags) == len(flag) {
		return l.Flags == flag
	}
	for f := range strings.SplitSeq(l.Flags, ",") {
		if f == flag {
			return true
		}
	}
	return false
}

func count(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

func whole(f *float64) int64 {
	if f == nil || *f < 0 || *f > math.MaxInt32 {
		return 0
	}
	return int64(math.Ceil(*f))
}

func parseBytes(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || f < 0 || f > math.MaxInt32 {
			return 0
		}
		n = int64(f)
	}
	return max(0, n)
}
