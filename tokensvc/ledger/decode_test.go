package ledger

import (
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

func TestWhichEventsCost(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		pool  usage.Pool
		model string
		want  bool
	}{
		{"drawn", usage.PoolDrawn, "gpt-4o", true},
		{"not known", "", "gpt-4o", true},
		{"none", usage.PoolNone, "gpt-4o", false},
		{"drawn, and a model that says otherwise", usage.PoolDrawn, `x","pool":"none"`, true},
	} {
		e := usage.Event{RequestID: "6d5f9a53-5f0b-4d6e-9a43-0c1c3f1d2a10", UserID: "11111111-2222-3333-4444-555555555555",
			Account: "user:11111111-2222-3333-4444-555555555555",
			Route:   "openai-chat", Provider: "openai", ModelAsked: tc.model, Charged: 7, Source: usage.FromProvider, Pool: tc.pool, Allowed: true,
			Status: 200, Timestamp: time.Now()}
		text, err := usage.Encode(e, "/test", "", "")
		if err != nil {
			t.Fatal(err)
		}
		if _, costs, err := decode(text); err != nil || costs != tc.want {
			t.Errorf("%s: want %v, got %v %v", tc.name, tc.want, costs, err)
		}
	}
}
