package telemetry_test

import (
	"log/slog"
	"slices"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/leaky-tokens/leaky-tokens/internal/telemetry"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/otlptest"
	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

func TestSpansAreThoseThatSomebodyKeeps(t *testing.T) {
	t.Parallel()
	collector, err := otlptest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(collector.Stop)
	traces, err := telemetry.OpenTraces(t.Context(), telemetry.TracesConfig{OTLP: collector.URL, Service: "extauthz", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	tracer := traces.Tracer("")
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"
	span := func(text, name string) { // as a service makes one
		_, s := tracer.Start(tracing.Parent(t.Context(), text), name)
		s.End()
	}
	span(parent+"1", "chosen")
	span(parent+"0", "not chosen")
	span("", "without a trace")
	given := tracing.Derived("r-1", "call")
	_, s := tracer.Start(tracing.WithIDs(t.Context(), given), "kept")
	s.End()
	_, s = tracer.Start(tracing.WithIDs(tracing.Parent(t.Context(), parent+"0"), given), "kept below one that is not", trace.WithSpanKind(trace.SpanKindClient))
	s.End()
	traces.Close()
	var got []string
	for _, s := range collector.All() {
		got = append(got, s.Service+" "+s.GetName()+" "+s.TraceID()+" "+s.Parent())
		if s.GetName() != "chosen" && s.ID() != given.Span.String() {
			t.Errorf("%s: want the id that was given, got %s", s.GetName(), s.ID())
		}
	}
	want := []string{"extauthz chosen 0af7651916cd43dd8448eb211c80319c b7ad6b7169203331", "extauthz kept " + given.Trace.String() + " ",
		"extauthz kept below one that is not 0af7651916cd43dd8448eb211c80319c b7ad6b7169203331"}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("want %q, got %q", want, got)
	}
}

// TestWithoutACollectorNothingIsTraced: no address, and one where nobody answers.
func TestWithoutACollectorNothingIsTraced(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"", "http://127.0.0.1:1"} {
		traces, err := telemetry.OpenTraces(t.Context(), telemetry.TracesConfig{OTLP: at, Service: "meter", Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		_, s := traces.Tracer("").Start(tracing.WithIDs(t.Context(), tracing.Derived("r", "call")), "call")
		if s.End(); s.IsRecording() {
			t.Error("want no span to be recorded after its end")
		}
		traces.Close()
	}
}
