package meter

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

func ptr[T any](v T) *T { return &v }

// fixed is a judge that always says the same.
type fixed struct{ in, out int64 }

func (f fixed) output(kind, answered, bool) int64 { return f.out }
func (f fixed) least(_ kind, a answered) int64    { return a.told + a.after }
func (f fixed) input(kind, int64) int64           { return f.in }

// byDefault charges calls that ended early their input and what passed.
func byDefault(string) config.ChargeMode { return config.ChargeInput }

// held is a line of a request that was admitted with 44 + 256 tokens and answered in full.
func held(change func(*spool.Line)) spool.Line {
	l := spool.Line{ID: "6d5f9a53-5f0b-4d6e-9a43-0c1c3f1d2a10", Account: "user:u1", Held: ptr(300.0), HeldIn: ptr(44.0), User: "u1",
		Key: "k1", Tier: "GOLD",
		Route: "openai-chat", Provider: "openai", Model: "gpt-4o", Bytes: "174",
		Answer: spool.Answer{Whole: true, In: 12, Out: 80, Cached: 4, Model: "gpt-4o-2024"},
		Status: 200, Flags: "-", Upstream: "200", BytesSent: 900, WireSent: 700, WireRecv: 1200,
		HeaderRecv: 300, Millis: 812,
		FirstByte: ptr(int64(5)), Start: "2026-11-22T11:51:54.123Z"}
	if change != nil {
		change(&l)
	}
	return l
}

// unknownUsage takes the provider's count away.
func unknownUsage(l *spool.Line) {
	l.Answer = spool.Answer{}
}

// unanswered is a call that the provider got whole and never answered.
func unanswered(l *spool.Line) {
	unknownUsage(l)
	l.Status, l.Upstream, l.WireRecv, l.HeaderRecv = 0, "-", 0, 0
}

// refusedLine takes the hold away.
func refusedLine(l *spool.Line) {
	unknownUsage(l)
	l.Account, l.Held, l.HeldIn, l.Upstream, l.WireSent, l.WireRecv, l.HeaderRecv = "", nil, nil, "-", 0, 0, 0
}

func TestCharge(t *testing.T) {
	t.Parallel()
	type want struct {
		Settle, Publish, Orphan, Allowed bool
		Account                          string
		In, Out, Charged, Held           int64
		Source                           usage.Source
		Reason                           string
	}
	settled := func(in, out int64, source usage.Source, reason string) want {
		return want{Settle: true, Publish: true, Allowed: true, Account: "user:u1", In: in, Out: out, Charged: in + out, Held: 300,
			Source: source, Reason: reason}
	}
	guess := fixed{in: 20, out: 33}
	for name, c := range map[string]struct {
		line spool.Line
		j    fixed
		want want
	}{
		"complete JSON":        {held(nil), guess, settled(12, 80, usage.FromProvider, "")},
		"pictures, usage told": {held(func(l *spool.Line) { l.Route = "openai-images" }), guess, settled(12, 80, usage.FromProvider, "")},
		"pictures at their price": {held(func(l *spool.Line) { unknownUsage(l); l.Route = "openai-images" }), guess,
			settled(20, 256, usage.FromHold, ReasonNoUsage)},
		"speech that its caller left": {held(func(l *spool.Line) { unknownUsage(l); l.Route, l.Flags = "openai-speech", "DC" }), guess,
			settled(20, 256, usage.FromHold, ReasonDisconnected)},
		"complete SSE": {held(func(l *spool.Line) { l.Stream = "true" }), guess, settled(12, 80, usage.FromProvider, "")},
		"usage above the hold": {held(func(l *spool.Line) { l.Answer.Out = 5000 }), guess,
			settled(12, 5000, usage.FromProvider, "")},
		"complete and then a disconnect": {held(func(l *spool.Line) { l.Flags = "DC" }), guess, settled(12, 80, usage.FromProvider, "")},
		"embeddings": {held(func(l *spool.Line) { l.Answer.Out, l.Answer.Cached = 0, 0 }), guess,
			settled(12, 0, usage.FromProvider, "")},
		"gemini thoughts": {held(func(l *spool.Line) { l.Answer.Reasoning = 30 }), guess,
			settled(12, 80, usage.FromProvider, "")},
		"aborted stream": {held(func(l *spool.Line) { unknownUsage(l); l.Flags, l.Stream = "DC", "true" }), guess,
			settled(20, 33, usage.FromEstimate, ReasonDisconnected)},
		"estimate above the hold": {held(func(l *spool.Line) { unknownUsage(l); l.Flags = "DC" }), fixed{in: 1e6, out: 1e6},
			settled(44, 256, usage.FromEstimate, ReasonDisconnected)},
		"usage omitted": {held(unknownUsage), guess, settled(20, 33, usage.FromEstimate, ReasonNoUsage)},
		"usage broken off": {held(func(l *spool.Line) { l.Answer.Whole, l.Answer.Out = false, 3 }), guess,
			settled(12, 33, usage.FromEstimate, ReasonPartial)},
		"what was told is a floor": {held(func(l *spool.Line) { l.Answer.Whole = false }), guess,
			settled(12, 80, usage.FromEstimate, ReasonPartial)},
		"more passed after it": {held(func(l *spool.Line) { l.Answer.After, l.Flags = 7, "DC" }), guess,
			settled(12, 87, usage.FromEstimate, ReasonDisconnected)},
		"an error and nothing else": {held(func(l *spool.Line) { l.Answer = spool.Answer{Failed: true} }), guess,
			settled(0, 0, usage.FromUnstarted, ReasonProviderError)},
		"an error after content": {held(func(l *spool.Line) { l.Answer = spool.Answer{Failed: true, Events: 4} }), guess,
			settled(20, 33, usage.FromEstimate, ReasonNoUsage)},
		"encoded": {held(func(l *spool.Line) { l.Answer = spool.Answer{Coded: true} }), guess,
			settled(20, 0, usage.FromEstimate, ReasonCoded)},
		"stream cut by the provider": {held(func(l *spool.Line) { unknownUsage(l); l.Flags, l.Stream = "UC", "true" }), guess,
			settled(20, 33, usage.FromEstimate, ReasonCut)},
		"stream too long": {held(func(l *spool.Line) { unknownUsage(l); l.Flags = "DT" }), guess, settled(20, 33, usage.FromEstimate, ReasonTimedOut)},
		"embeddings aborted": {held(func(l *spool.Line) { unknownUsage(l); l.Flags, l.HeldIn = "DC", ptr(300.0) }), guess,
			settled(20, 0, usage.FromEstimate, ReasonDisconnected)},
		"provider 500": {held(func(l *spool.Line) { unknownUsage(l); l.Status, l.Upstream = 500, "500" }), guess,
			settled(0, 0, usage.FromUnstarted, ReasonProvider+"500")},
		"provider 429": {held(func(l *spool.Line) { unknownUsage(l); l.Status, l.Upstream = 429, "429" }), guess,
			settled(0, 0, usage.FromUnstarted, ReasonProvider+"429")},
		"connect failure": {held(func(l *spool.Line) { unanswered(l); l.Status, l.Flags, l.WireSent = 503, "UF,URX", 0 }), guess,
			settled(0, 0, usage.FromUnstarted, ReasonNotServed)},
		"half of the request was sent": {held(func(l *spool.Line) { unanswered(l); l.Status, l.Flags, l.WireSent = 503, "UC", 170 }), guess,
			settled(0, 0, usage.FromUnstarted, ReasonNotServed)},
		"disconnect before the answer": {held(func(l *spool.Line) { unanswered(l); l.Flags = "DC" }), guess,
			settled(20, 0, usage.FromEstimate, ReasonDisconnected)},
		"timed out before the answer": {held(func(l *spool.Line) { unanswered(l); l.Status, l.Flags = 504, "UT" }), guess,
			settled(20, 0, usage.FromEstimate, ReasonTimedOut)},
		"provider gone before the answer": {held(func(l *spool.Line) { unanswered(l); l.Status, l.Flags = 503, "UC" }), guess,
			settled(20, 0, usage.FromEstimate, ReasonNoAnswer)},
		"head only": {held(func(l *spool.Line) { unknownUsage(l); l.Flags, l.WireRecv = "DC", 300 }), fixed{in: 20},
			settled(20, 0, usage.FromEstimate, ReasonDisconnected)},
		"refused by a limit": {held(func(l *spool.Line) { refusedLine(l); l.Status, l.Flags = 429, "RL" }), guess,
			want{Publish: true, Account: "user:u1", Source: usage.FromRefusal, Reason: ReasonRateLimited}},
		"asks for what no hold can bound": {held(func(l *spool.Line) { refusedLine(l); l.Status, l.Flags = 400, "RL" }), guess,
			want{Publish: true, Account: "user:u1", Source: usage.FromRefusal, Reason: ReasonNotAccepted}},
		"refused for an organisation": {held(func(l *spool.Line) { refusedLine(l); l.Status, l.Flags, l.Org = 429, "RL", "o1" }), guess,
			want{Publish: true, Account: "org:o1", Source: usage.FromRefusal, Reason: ReasonRateLimited}},
		"guard 400": {held(func(l *spool.Line) { refusedLine(l); l.Status, l.Bytes = 400, "" }), guess, want{}},
		"no credential": {held(func(l *spool.Line) { refusedLine(l); l.Status, l.Flags, l.User, l.Bytes = 401, "UAEX", "", "" }), guess,
			want{}},
		"unknown model": {held(func(l *spool.Line) { refusedLine(l); l.Status = 404 }), guess, want{}},
		"limit service silent": {held(func(l *spool.Line) { refusedLine(l); l.Status, l.Flags = 503, "RLSE" }), guess,
			want{Settle: true, Orphan: true, Allowed: true, Account: "user:u1", Source: usage.FromUnstarted, Reason: ReasonUndecided}},
		"client left while it was asked": {held(func(l *spool.Line) { refusedLine(l); l.Status, l.Flags = 0, "DC" }), guess,
			want{Settle: true, Orphan: true, Allowed: true, Account: "user:u1", Source: usage.FromUnstarted, Reason: ReasonUndecided}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := charge(&c.line, c.j, byDefault, time.Unix(0, 0))
			e := v.event
			got := want{}
			if v.settle || v.publish {
				got = want{v.settle, v.publish, v.orphan, e.Allowed, e.Account, e.Input, e.Output, e.Charged, e.Held, e.Source, e.Reason}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("verdict differs (-want +got):\n%s", diff)
			}
			if e.RequestID != c.line.ID || !e.Timestamp.Equal(time.Date(2026, 11, 22, 11, 51, 54, 123e6, time.UTC)) {
				t.Errorf("want the line's id and start, got %+v", e)
			}
			if !v.publish {
				return
			}
			text, err := usage.Encode(e, "/meter", "", "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := usage.Decode(text); err != nil {
				t.Errorf("the event is poison: %v", err)
			}
		})
	}
}

func TestChargeOfOddLines(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l := held(func(l *spool.Line) { l.Start, l.Provider, l.Held, l.HeldIn = "soon", "a.b", ptr(-5.0), nil })
	v := charge(&l, fixed{}, byDefault, now)
	if !v.event.Timestamp.Equal(now) || v.event.Provider != unknownProvider || v.event.Held != 0 {
		t.Errorf("want now, %q and no hold, got %+v", unknownProvider, v.event)
	}
	l = held(func(l *spool.Line) { unknownUsage(l); l.Flags, l.HeldIn = "DC", ptr(900.0) }) // more input than was held at all
	if v := charge(&l, fixed{in: 10, out: 10}, byDefault, now); v.event.Charged != 10 || v.event.Output != 0 {
		t.Errorf("want 10 + 0, got %+v", v.event)
	}
}

// TestChargeOfACallThatMoved: asked as the line says, served and priced as its last cluster does.
func TestChargeOfACallThatMoved(t *testing.T) {
	t.Parallel()
	l, err := spool.Parse([]byte(`{"id":"r1","account":"user:u","held":900,"held_in":100,"user":"u","route":"openai-chat","provider":"one","model":"first",` +
		`"cluster":"fallback/two/meta/second","status":200,"flags":"-","up":"200","recv_h":10,"recv":500,"bytes":"40","wire":400,"attempts":2,` +
		`"answer":"events=0,after=0,bytes=80,whole=1,in=7,out=5,model=second-2025"}`))
	if err != nil {
		t.Fatal(err)
	}
	e := charge(&l, NewEstimator(nil), func(string) config.ChargeMode { return config.ChargeInput }, time.Now()).event
	if e.Provider != "two" || e.ModelAsked != "first" || e.ModelServed != "second-2025" || e.Held != 0 || e.Attempts != 2 || e.Account != "user:u" {
		t.Errorf("want first asked and two's second served, with what the books hold, got %+v", e)
	}
	l.Answer.Model = ""
	if e := eventOf(&l, time.Now()); e.ModelServed != "meta/second" {
		t.Errorf("want the fallback's name where the provider tells none, got %+v", e)
	}
}
