package meter

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/telemetry"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/otlptest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

// TestCallsThatAreKept: of none Envoy keeps the spans, and the meter makes the one of each that was
// refused, failed or slow, in the place of Envoy's.
func TestCallsThatAreKept(t *testing.T) {
	t.Parallel()
	const traceID, spanID, callers = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00-0af7651916cd43dd8448eb211c80319c-aaaaaaaaaaaaaaaa-00"
	cases := map[string]struct {
		change string // members of the line instead of those of one that went well
		kept   string // error.type, "slow" or empty
	}{
		"well":            {``, ""},
		"refused":         {`"account":null,"held":null,"held_in":null,"flags":"RL","status":429,"up":"-","recv":0,"recv_h":0`, ReasonRateLimited},
		"left":            {`"flags":"DC","answer":""`, ReasonDisconnected},
		"left at the end": {`"flags":"DC"`, ""},
		"no answer":       {`"flags":"UC","status":503,"up":"-","recv":0,"recv_h":0`, ReasonNotServed},
		"an error":        {`"status":500,"up":"500"`, "500"},
		"undecided":       {`"account":null,"held":null,"held_in":null,"flags":"RLSE","status":503,"recv":0,"recv_h":0`, ReasonUndecided},
		"slow":            {`"ms":9000,"ttfb":5001`, "slow"},
		"long":            {`"ms":9000,"ttfb":50`, ""},
		"slow, whole":     {`"ms":5001,"ttfb":null`, "slow"},
		"its usage":       {`"answer":"whole=0"`, ""},
		"of no trace":     {`"status":502,"up":"502","trace_id":null,"span_id":null,"trace":null`, "502"},
		"odd ids":         {`"status":502,"up":"502","trace_id":"xyz","span_id":"0000000000000000"`, "502"},
		"a foreign id":    {`"status":502,"up":"502","trace_id":"\"},{\"","span_id":"-"`, "502"},
	}
	r := newRig(t)
	collector, traces := collect(t)
	text, ids := "", map[string]string{}
	for name, c := range cases {
		ids[name] = uuid.NewString()
		whole := strings.TrimSuffix(spoolLine(ids[name], 20), "}\n") + fmt.Sprintf(`,"ms":400,"ttfb":90,"trace_id":%q,"span_id":%q,"trace":%q`, traceID, spanID, callers)
		if c.change != "" {
			whole += "," + c.change // the last of two members counts
		}
		text += whole + "}\n"
	}
	write(t, r.spool, text)
	_, stop := r.start(func(c *Config) {
		c.Traces = Traces{Provider: traces, Share: func() uint32 { return 0 }, Slow: 5 * time.Second}
	})
	testenv.Eventually(t, "the end of the spool", r.caughtUp)
	stop()
	traces.Close()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			spans := collector.Request(ids[name])
			own := withAttribute(spans, "leaky.request_id", ids[name])
			switch {
			case c.kept == "" && own == nil:
				return
			case c.kept == "" || own == nil:
				t.Fatalf("want it kept for %q, got %v", c.kept, spans)
			case c.kept != "slow" && (own.Attribute("error.type") != c.kept || own.GetStatus().GetCode() != 2):
				t.Errorf("want an error %q, got %s", c.kept, own)
			case c.kept == "slow" && own.Attribute("error.type") != "":
				t.Errorf("want no error, got %s", own)
			}
			if own.Attribute("gen_ai.request.model") != "gpt-4o" || own.GetName() != "chat gpt-4o" || own.Parent() != "" {
				t.Errorf("want the first span of its trace, of the model, got %s", own)
			}
			derived := tracing.Derived(ids[name], "call")
			if odd := c.kept == "502"; odd && own.TraceID() != derived.Trace.String() || !odd && (own.TraceID() != traceID || own.ID() != spanID) {
				t.Errorf("want the place of Envoy's span, or a trace of the request's id, got %s %s", own.TraceID(), own.ID())
			}
		})
	}
	if header := r.header(ids["left"]); !tracing.Sampled(header) || !strings.Contains(header, traceID+"-"+spanID) {
		t.Errorf("want the event to go on below the span, got %q", header)
	}
	if header := r.header(ids["well"]); header != "" {
		t.Errorf("want no header of a call that is not kept, got %q", header)
	}
}

// TestACallThatEnvoyChose is below Envoy's span, and a meter that does a line again makes the same
// spans again.
func TestACallThatEnvoyChose(t *testing.T) {
	t.Parallel()
	const traceID, spanID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	r := newRig(t)
	collector, traces := collect(t)
	id := uuid.NewString()
	line := strings.TrimSuffix(spoolLine(id, 20), "}\n") + fmt.Sprintf(`,"ms":400,"trace_id":%q,"span_id":%q}`+"\n", traceID, spanID)
	write(t, r.spool, line+line)
	_, stop := r.start(func(c *Config) {
		c.Traces = Traces{Provider: traces, Share: func() uint32 { return tracing.Million }, Slow: time.Minute}
	})
	testenv.Eventually(t, "the end of the spool", r.caughtUp)
	stop()
	traces.Close()
	seen := map[string]int{}
	for _, s := range collector.Request(id) {
		seen[s.GetName()+" "+s.ID()]++
		if s.GetName() != "settle" && (s.Parent() != spanID || s.Attribute("gen_ai.usage.input_tokens") != "12" || s.Attribute("gen_ai.usage.output_tokens") != "20") {
			t.Errorf("want it below Envoy's span, with what it used, got %s", s)
		}
	}
	want := map[string]int{"chat gpt-4o " + tracing.Derived(id, "call").Span.String(): 2, "settle " + tracing.Derived(id, "settle").Span.String(): 2}
	if fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("want %v, got %v", want, seen)
	}
}

func collect(t *testing.T) (*otlptest.Collector, *telemetry.Traces) {
	t.Helper()
	collector, err := otlptest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(collector.Stop)
	traces, err := telemetry.OpenTraces(t.Context(), telemetry.TracesConfig{OTLP: collector.URL, Service: "meter", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return collector, traces
}

func withAttribute(spans []otlptest.Span, name, value string) *otlptest.Span {
	for i := range spans {
		if spans[i].Attribute(name) == value {
			return &spans[i]
		}
	}
	return nil
}

// header is the trace context of the stored event of a request.
func (r *rig) header(id string) string {
	r.t.Helper()
	stream, err := r.js.Stream(r.t.Context(), usage.Stream)
	if err != nil {
		r.t.Fatal(err)
	}
	info, err := stream.Info(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		m, err := stream.GetMsg(r.t.Context(), seq)
		if err == nil && m.Header.Get(jetstream.MsgIDHeader) == id {
			return m.Header.Get(tracing.Header)
		}
	}
	r.t.Errorf("no event of %s", id)
	return ""
}
