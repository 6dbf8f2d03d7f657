package tracing_test

import (
	"strconv"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/leaky-tokens/leaky-tokens/internal/tracing"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0"

func TestSampled(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		parent + "1": true, parent + "0": false, parent + "3": true, parent + "2": false, "": false, "01": false,
		parent + "1" + "1": false, strings.Repeat("1", 55): false, strings.Repeat("A", 60_000): false,
	} {
		if got := tracing.Sampled(text); got != want {
			t.Errorf("%.60q: want %v, got %v", text, want, got)
		}
	}
}

func TestAParentComesBackAsItWas(t *testing.T) {
	t.Parallel()
	for _, text := range []string{parent + "1", parent + "0"} {
		if got := tracing.Text(trace.SpanContextFromContext(tracing.Parent(t.Context(), text))); got != text {
			t.Errorf("want %s, got %s", text, got)
		}
	}
	for _, text := range []string{"", "00", strings.Repeat("0", 55), "ff" + parent[2:] + "1", parent + "g"} {
		if got := tracing.Text(trace.SpanContextFromContext(tracing.Parent(t.Context(), text))); got != "" {
			t.Errorf("%q: want no parent, got %s", text, got)
		}
	}
}

func TestTheShareThatIsChosen(t *testing.T) {
	t.Parallel()
	for sample, want := range map[float64]int{0: 0, 1: 10_000, 0.5: 5_000, 0.01: 100} {
		chosen := 0
		for i := range 10_000 {
			if tracing.Chosen(tracing.Derived(strconv.Itoa(i), "").Trace, tracing.Share(sample)) {
				chosen++
			}
		}
		if chosen < want-want/3 || chosen > want+want/3 {
			t.Errorf("share %v: want about %d of 10000, got %d", sample, want, chosen)
		}
	}
}

func TestDerivedIDs(t *testing.T) {
	t.Parallel()
	const id = "7b52009b-64fd-4a2a-89f0-4d0d8a4e0c1b"
	call, again, settle := tracing.Derived(id, "call"), tracing.Derived(id, "call"), tracing.Derived(id, "settle")
	if call != again || call.Span == settle.Span {
		t.Errorf("want one for each step, whenever it is asked: %v %v %v", call, again, settle)
	}
	if call.Trace.String() != strings.ReplaceAll(id, "-", "") || settle.Trace != call.Trace {
		t.Errorf("want the request's own trace, got %s and %s", call.Trace, settle.Trace)
	}
	if odd := tracing.Derived("no uuid", "call"); !odd.Trace.IsValid() || !odd.Span.IsValid() {
		t.Errorf("want ids for any request, got %v", odd)
	}
	if _, ok := tracing.IDsOf("", ""); ok {
		t.Error("want no ids of a call without a trace")
	}
	if _, ok := tracing.IDsOf(call.Trace.String(), call.Span.String()); !ok {
		t.Error("want the ids of a call with one")
	}
}
