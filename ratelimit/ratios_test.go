package ratelimit_test

import (
	"math"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

func learning(on bool) option {
	return func(c *ratelimit.Config) {
		c.Providers = map[string]config.Provider{"openai": {Protocol: config.ProtocolOpenAI, TokensPerByte: 1, OutputFill: 256, LearnInput: on}}
	}
}

// inputHeld is what is held for the input of a body, in tokens, and its bytes.
func (e *env) inputHeld(t *testing.T, model string) (tokens, bytes int64) {
	t.Helper()
	a := ask{maxTokens: "1", prompt: 200, model: model}
	r := e.ask(t, a)
	held := int64(r.GetDynamicMetadata().GetFields()["input"].GetNumberValue())
	if held == 0 {
		t.Fatalf("want it admitted, got %v", r)
	}
	return held, int64(len(a.body()))
}

func TestHoldsOfInputsFollowWhatWasSeen(t *testing.T) {
	t.Parallel()
	var at ratelimit.Config
	e := start(t, strings.ReplaceAll(thousand, "burst: 1000", "burst: 1000000"), learning(true), func(c *ratelimit.Config) { at = *c })
	report := func(e *env, meter string, ratios ...*limitpb.Ratio) {
		t.Helper()
		if _, err := e.limiter.ReportRatios(t.Context(), &limitpb.ReportRatiosRequest{Meter: meter, Ratios: ratios}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, model string, perByte float64) {
		t.Helper()
		if held, bytes := e.inputHeld(t, model); held != int64(math.Ceil(float64(bytes)*perByte)) {
			t.Errorf("%s: want %v of %d bytes held, got %d", what, perByte, bytes, held)
		}
	}
	want("nothing learned", "gpt-4o", 1)
	report(e, "one", &limitpb.Ratio{Provider: "openai", Model: "gpt-4o", TokensPerByte: 0.4, Samples: 999})
	want("too few", "gpt-4o", 1)
	report(e, "one", &limitpb.Ratio{Provider: "openai", Model: "gpt-4o", TokensPerByte: 0.4, Samples: 1000},
		&limitpb.Ratio{Provider: "openai", TokensPerByte: 0.6, Samples: 5000})
	want("learned, with a margin", "gpt-4o", 0.5)
	want("another model", "gpt-new", 0.75)
	report(e, "two", &limitpb.Ratio{Provider: "openai", Model: "gpt-4o", TokensPerByte: 0.48, Samples: 1000})
	want("the higher of two meters", "gpt-4o", 0.6)
	report(e, "two", &limitpb.Ratio{Provider: "openai", Model: "gpt-4o", TokensPerByte: 7, Samples: 1000})
	want("never above the promise", "gpt-4o", 1)
	report(e, "two")
	report(e, "one", &limitpb.Ratio{Provider: "openai", Model: "gpt-4o", TokensPerByte: 0.01, Samples: 1000})
	want("taught down", "gpt-4o", 0.25)

	at.Metrics = prometheus.NewRegistry() // another replica, or this one after a restart
	other := start(t, thousand, func(c *ratelimit.Config) { *c = at })
	report(other, "three")
	if held, bytes := other.inputHeld(t, "gpt-4o"); held != (bytes+3)/4 {
		t.Errorf("another replica: want a quarter of %d bytes, got %d", bytes, held)
	}
}

func TestLearningIsOffUnlessAskedFor(t *testing.T) {
	t.Parallel()
	e := start(t, thousand, learning(false))
	if _, err := e.limiter.ReportRatios(t.Context(), &limitpb.ReportRatiosRequest{Meter: "one",
		Ratios: []*limitpb.Ratio{{Provider: "openai", Model: "gpt-4o", TokensPerByte: 0.3, Samples: 5000}}}); err != nil {
		t.Fatal(err)
	}
	if held, bytes := e.inputHeld(t, "gpt-4o"); held != bytes {
		t.Errorf("want a token for each of %d bytes, got %d", bytes, held)
	}
	for name, r := range map[string]*limitpb.ReportRatiosRequest{
		"no name":     {},
		"zero":        {Meter: "m", Ratios: []*limitpb.Ratio{{Provider: "openai"}}},
		"NaN":         {Meter: "m", Ratios: []*limitpb.Ratio{{Provider: "openai", TokensPerByte: math.NaN()}}},
		"infinite":    {Meter: "m", Ratios: []*limitpb.Ratio{{Provider: "openai", TokensPerByte: math.Inf(1)}}},
		"no provider": {Meter: "m", Ratios: []*limitpb.Ratio{{TokensPerByte: 1}}},
		"too many":    {Meter: "m", Ratios: make([]*limitpb.Ratio, 2001)},
	} {
		if _, err := e.limiter.ReportRatios(t.Context(), r); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: want InvalidArgument, got %v", name, err)
		}
	}
}
