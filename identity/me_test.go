package identity

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// looker answers as the limiter would, and remembers who was asked for.
type looker struct {
	mu     sync.Mutex
	asked  *limitpb.GetAccountStateRequest
	answer *limitpb.GetAccountStateResponse
	err    error
}

func (l *looker) GetAccountState(_ context.Context, in *limitpb.GetAccountStateRequest, _ ...grpc.CallOption) (*limitpb.GetAccountStateResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = in
	return l.answer, l.err
}

func TestMeTellsLimitsAndBalances(t *testing.T) {
	t.Parallel()
	limiter := &looker{answer: &limitpb.GetAccountStateResponse{
		Buckets: []*limitpb.Bucket{{Rule: "user-tokens", Unit: "tokens", Capacity: 1000, Level: 250.5, Held: 100, Rate: 10, ResetUs: 15_050_000,
			Found: &limitpb.Descriptor{Entries: []*limitpb.Entry{{Key: "count", Value: "tokens"}, {Key: "provider", Value: "openai"}}}}},
		Balances: []*limitpb.Balance{{}, {Present: true, Credits: 500, Spent: 120, Held: 30, ResetUs: 2_500_000}, {Unknown: true}}}}
	cfg, signer := settings(t, testenv.Postgres(t))
	cfg.Limiter, cfg.Providers = limiter, []string{"gemini", "openai", "qwen"}
	b := launch(t, cfg, signer)
	b.waitReady()
	ann := b.join("ann")
	var me meView
	r := b.call("GET", "/api/v1/me", nil, ann)
	if err := json.Unmarshal([]byte(r.text), &me); err != nil || r.status != http.StatusOK {
		t.Fatalf("got %d %s, %v", r.status, r.text, err)
	}
	want := limitView{Rule: "user-tokens", Unit: "tokens", Provider: "openai", Capacity: 1000, Level: 250.5, Held: 100, Remaining: 749,
		PerSecond: 10, ResetSeconds: 15.05}
	if len(me.Limits) != 1 || me.Limits[0] != want || me.Account != "user:"+ann.UserID || me.Username != "ann" {
		t.Errorf("want %+v, got %s", want, r.text)
	}
	if len(me.Balances) != 1 || me.Balances[0].Provider != "openai" || me.Balances[0].Left != 350 || *me.Balances[0].ResetSeconds != 2.5 {
		t.Errorf("want the one pool that is there, got %s", r.text)
	}
	if f := limiter.asked.GetFacts(); f.GetUser() != ann.UserID || f.GetTier() != "USER" || f.GetOrg() != "" {
		t.Errorf("asked for %v", f)
	}
	ann.OrgID, ann.KeyID, ann.Tier = uuid.NewString(), "key-1", "GOLD"
	if r := b.call("GET", "/api/v1/me", nil, ann); r.body["account"] != "org:"+ann.OrgID || limiter.asked.GetFacts().GetOrg() != ann.OrgID ||
		limiter.asked.GetFacts().GetTier() != "GOLD" {
		t.Errorf("want their organisation's, got %s", r.text)
	}
	limiter.mu.Lock()
	limiter.err = errors.New("away")
	limiter.mu.Unlock()
	if r := b.call("GET", "/api/v1/me", nil, ann); r.status != http.StatusOK || !strings.Contains(r.text, `"limits":null`) ||
		r.body["username"] != "ann" {
		t.Errorf("want the rest without the limiter, got %d %s", r.status, r.text)
	}
}
