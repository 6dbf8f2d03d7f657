package meter

import (
	"cmp"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/operation"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// Why an event carries no count of the provider's; Event.Reason.
const (
	ReasonRateLimited   = "rate_limited"           // a limit refused
	ReasonNotAccepted   = "request_not_accepted"   // it asks for what no hold can bound, such as a hosted tool
	ReasonDisconnected  = "client_disconnected"    // the client went away before the end of the answer
	ReasonTimedOut      = "timed_out"              // the provider took longer than the gateway waits
	ReasonCut           = "stream_cut"             // the answer broke off
	ReasonNoAnswer      = "provider_gone"          // the request was delivered and the provider ended the connection
	ReasonNoUsage       = "usage_missing"          // the provider told no usage
	ReasonPartial       = "usage_partial"          // it told some, and more passed after it
	ReasonCoded         = "answer_encoded"         // the answer had a content-encoding that nobody can read
	ReasonNotServed     = "not_served"             // the request never reached the provider
	ReasonProviderError = "provider_error"         // an error within an answer of status 200
	ReasonProvider      = "provider_status_"       // + its status
	ReasonUndecided     = "limit_service_no_reply" // Envoy had no reply to its question; a hold may stand
)

// unknownProvider stands in the event of a line without a provider: the subject needs one.
const unknownProvider = "unknown"

// unreported: one of so many of the events that the reader reported may have come since. It reports more
// rarely the more there are, see count in usage_scan.lua.
const unreported = 4

// answered is how much of an answer came.
type answered struct {
	bytes  int64 // of the body
	head   int64 // of those, before its first content; 0 where that is not known
	events int64 // that carried content
	text   text  // that the model produced; zero where that is not known
	told   int64 // tokens of output that the provider told, and
	after  int64 // events that came since
}

// judge estimates what nobody counted, in tokens; bytes are those of the request's body.
type judge interface {
	output(k kind, a answered, ended bool) int64
	least(k kind, a answered) int64 // what the provider told of an output, and what came since
	input(k kind, bytes int64) int64
}

// kind is what an estimate depends on.
type kind struct {
	provider, model string
	route           string // of an answer, whose shape its bytes are
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
	tries  int   // how often an orphan or a hold of an outage was sought
	from   place // of one that is away: where its line's batch began
	event  usage.Event

	correlation, trace string    // for the event's envelope
	traceID, spanID    string    // of Envoy's span
	began              time.Time // the call
}

// Policy says what a call is charged that ended early, by the name of its route.
type Policy func(route string) config.ChargeMode

// charge decides what a request costs. It is pure: the same line and the same judge give
// the same verdict. now stands in for a start time that does not parse.
//
//   - refused by a limit, or as what no hold can bound: nothing is settled, the event says so;
//   - nothing was held (no credential, a bad body): neither settled nor published, unless the
//     provider served it all the same;
//   - the provider's usage covers what passed: its count, exactly, even above the hold;
//   - the provider refused, by its status or by an error and nothing else: zero;
//   - the request never reached the provider: zero, and the hold is given back;
//   - it made pictures or sound and told no usage: what each is held at;
//   - it did, and no usage covers what came of it: an estimate, never above the hold, or
//     what the policy says where the answer did not come to its end.
func charge(l *spool.Line, j judge, policy Policy, now time.Time) verdict {
	v := verdict{event: eventOf(l, now)}
	e := &v.event
	switch {
	case flagged(l, "RL"):
		e.Account, e.Held = accountOf(l), 0
		e.Source, e.Reason, v.publish = usage.FromRefusal, ReasonRateLimited, l.Provider != ""
		if l.Status == http.StatusBadRequest {
			e.Reason = ReasonNotAccepted
		}
		return v
	case l.Account == "" && !unasked(l):
		return orphaned(l, v)
	}
	v.settle, v.publish = true, true
	v.outage = l.Account == "" || l.Held != nil && l.HeldIn == nil
	e.Account = accountOf(l)
	e.Allowed = true
	a := &l.Answer
	e.Cached, e.Reasoning = a.CachedInput(), a.ReasonedOutput()
	e.CacheWrite1h = min(a.Written, a.Written1h)
	e.CacheWrite5m, e.ToolInput, e.Audio, e.AudioOutput = a.Written-e.CacheWrite1h+a.Wrote, a.Tools, a.AudioIn, a.AudioOut
	switch {
	case served(l) && a.Counted():
		e.Source = usage.FromProvider
		e.Input, e.Output = a.Tokens()
	case refused(l) != "":
		e.Source, e.Reason = usage.FromUnstarted, refused(l)
	default:
		e.Source, e.Reason = usage.FromEstimate, reason(l)
		if e.Input, e.Output = estimate(l, j); operation.PerItem(l.Route) && served(l) && !l.Answer.Told() {
			e.Source, e.Output = usage.FromHold, max(0, whole(l.Held)-heldInput(l, e.Input)) // the price of its items
		} else if !ended(l) {
			byPolicy(e, l, policy(l.Route))
		}
	}
	e.Charged = e.Input + e.Output
	return v
}

// byPolicy changes what a call is charged that ended early.
func byPolicy(e *usage.Event, l *spool.Line, mode config.ChargeMode) {
	switch mode {
	case config.ChargeNothing:
		e.Source, e.Input, e.Output = usage.FromUnstarted, 0, 0
	case config.ChargeHold:
		if held := whole(l.Held); held > e.Input+e.Output {
			e.Source = usage.FromHold
			e.Input = max(e.Input, heldInput(l, e.Input))
			e.Output = held - e.Input
		}
	}
}

// refused is why the provider did nothing that costs; empty when it did.
func refused(l *spool.Line) string {
	status, answered := providerStatus(l)
	switch {
	case answered && (status < 200 || status > 299):
		return ReasonProvider + strconv.Itoa(status)
	case answered && l.Answer.Failed && l.Answer.Events == 0 && !l.Answer.Told():
		return ReasonProviderError
	case !answered && !delivered(l):
		return ReasonNotServed
	}
	return ""
}

// delivered says that the provider got the whole request, as far as its length tells.
func delivered(l *spool.Line) bool { return l.WireSent > parseBytes(l.Bytes) }

// unasked is a call that Envoy let pass although ratelimit did not answer, as a route does
// whose outage mode is open. The provider served it, so it counts; the limits do not know
// it, unless ratelimit held for it after all.
func unasked(l *spool.Line) bool {
	return l.User != "" && l.Bytes != "" && l.Provider != "" && served(l)
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
		ModelAsked: l.Model, ModelServed: l.Answer.Model, Held: whole(l.Held), Stream: l.Stream == "true", Status: l.Status, LatencyMS: l.Millis,
		FirstByteMS: count(l.FirstByte), Timestamp: start.UTC(),
		EndUser: labelOf(l.EndUser), Session: labelOf(l.Session), Tags: tagsOf(l.Tags), Attempts: l.Attempts}
	if l.Moved() { // asked as the line says, served by another; the books know what that one held
		provider, model := l.Served()
		e.Provider, e.ModelServed, e.Held = provider, cmp.Or(l.Answer.Model, model), 0
	}
	if e.Provider == "" || strings.ContainsAny(e.Provider, ".*> \t\r\n") {
		e.Provider = unknownProvider
	}
	return e
}

// estimate is input and output of a call whose usage nobody told in full. Each stays below
// what was held for it, if anything was. What the provider told is a floor, and so is a
// token for each event that passed after it.
func estimate(l *spool.Line, j judge) (input, output int64) {
	k, a := kindOf(l), &l.Answer
	input = j.input(k, parseBytes(l.Bytes))
	if l.Parts != "" {
		input = max(input, heldInput(l, input)) // its parts were priced there; bytes say nothing of them
	}
	p := passed(l)
	output = j.output(k, p, ended(l))
	if l.Account != "" {
		heldIn := heldInput(l, input)
		input, output = min(input, heldIn), min(output, max(0, whole(l.Held)-heldIn))
	}
	if !served(l) || a.Coded {
		output = 0
	}
	if toldIn, _ := a.Tokens(); toldIn > 0 {
		input = toldIn // told once, at the beginning or the end; never a running count
	}
	return input, max(output, j.least(k, p))
}

// passed is how much of an answer came: body bytes, and events if it was a stream of them.
// The reader's last report may be older than the end; the events since are taken to have
// been as the ones before; there are few of them, however many bytes came that carried nothing.
func passed(l *spool.Line) answered {
	a := &l.Answer
	_, told := a.Tokens()
	p := answered{bytes: max(0, l.WireRecv-l.HeaderRecv), head: a.Head, events: a.Events, text: textOf(a), told: told, after: a.After}
	before := a.Bytes - a.Head
	if a.Events == 0 || before <= 0 || l.BytesSent <= a.Bytes || ended(l) {
		return p
	}
	// What went to the client is counted as the reader counts; what came on the wire has frames around it.
	most := float64(a.Events/unreported) / float64(a.Events)
	more := min(float64(l.BytesSent-a.Bytes)/float64(before), most)
	p.text = p.text.times(1 + more)
	since := int64(math.Round(float64(a.Events) * more))
	if p.events += since; a.After > 0 {
		p.after += since
	}
	return p
}

// heldInput is what was held for the input; in an outage the limiter tells only the sum.
func heldInput(l *spool.Line, guess int64) int64 {
	if l.HeldIn == nil {
		return min(whole(l.Held), guess)
	}
	return whole(l.HeldIn)
}

func kindOf(l *spool.Line) kind {
	provider, model := l.Served()
	return kind{provider: provider, model: cmp.Or(model, l.Answer.Model), route: l.Route, stream: l.Stream == "true"}
}

// served says that the provider began an answer that is not an error.
func served(l *spool.Line) bool {
	status, answered := providerStatus(l)
	return answered && status >= 200 && status < 300
}

// providerStatus is the status that the provider gave, if it answered at all.
func providerStatus(l *spool.Line) (status int, answered bool) {
	status, err := strconv.Atoi(l.Upstream)
	return status, err == nil
}

// ended says that the answer came to its end, as far as HTTP tells.
func ended(l *spool.Line) bool { return l.Flags == "" || l.Flags == "-" }

func reason(l *spool.Line) string {
	switch {
	case l.Answer.Coded:
		return ReasonCoded
	case flagged(l, "DC"):
		return ReasonDisconnected
	case timedOut(l):
		return ReasonTimedOut
	case !served(l):
		return ReasonNoAnswer
	case !ended(l):
		return ReasonCut
	case l.Answer.Told():
		return ReasonPartial
	}
	return ReasonNoUsage
}

// timedOut says that the gateway ended the call: nothing moved for too long (SI), no answer
// began (UT), or it lasted too long (DT, UMSDR).
func timedOut(l *spool.Line) bool {
	return flagged(l, "SI") || flagged(l, "UT") || flagged(l, "DT") || flagged(l, "UMSDR")
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
