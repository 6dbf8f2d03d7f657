package identity

import (
	"context"
	"math"
	"time"

	"google.golang.org/grpc"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
)

// Limiter is the part of ratelimit that tells callers how they stand.
type Limiter interface {
	GetAccountState(ctx context.Context, in *limitpb.GetAccountStateRequest, opts ...grpc.CallOption) (*limitpb.GetAccountStateResponse, error)
}

// standingTimeout bounds what GET /api/v1/me waits for the limiter: it answers without it.
const standingTimeout = time.Second

// limitView is one limit of the caller's as it is now. Remaining is what fits at once.
type limitView struct {
	Rule         string  `json:"rule"`
	Unit         string  `json:"unit"` // tokens or requests
	Provider     string  `json:"provider,omitzero"`
	Route        string  `json:"route,omitzero"`
	Capacity     float64 `json:"capacity"`
	Level        float64 `json:"level"` // held included
	Held         float64 `json:"held"`
	Remaining    int64   `json:"remaining"`
	PerSecond    float64 `json:"perSecond"`    // what drains
	ResetSeconds float64 `json:"resetSeconds"` // until it is empty
	Shadow       bool    `json:"shadow"`       // it refuses nobody
}

// balanceView is what an account owns at one provider, in tokens.
type balanceView struct {
	Provider     string   `json:"provider"`
	Credits      int64    `json:"credits"`
	Spent        int64    `json:"spent"`
	Held         int64    `json:"held"`
	Left         int64    `json:"left"`
	ResetSeconds *float64 `json:"resetSeconds"` // until its window ends; null: it has none
}

// standing is how the caller stands with the limiter. The lists are null while it does not
// tell; a provider without a balance has no pool, or nobody knows it just now.
type standing struct {
	Account  string        `json:"account"`
	Limits   []limitView   `json:"limits"`
	Balances []balanceView `json:"balances"`
}

// stand asks the limiter about the caller as they call: for an organisation if their
// credential is bound to one.
func (s *Service) stand(ctx context.Context, p principal.Principal, tier string) standing {
	out := standing{Account: "user:" + p.UserID}
	if p.OrgID != "" {
		out.Account = "org:" + p.OrgID
	}
	if s.cfg.Limiter == nil {
		return out
	}
	if p.Tier != "" {
		tier = p.Tier
	}
	ctx, cancel := context.WithTimeout(ctx, standingTimeout)
	defer cancel()
	seen, err := s.cfg.Limiter.GetAccountState(ctx, &limitpb.GetAccountStateRequest{Providers: s.cfg.Providers,
		Facts: &limitpb.Facts{User: p.UserID, Org: p.OrgID, Team: p.Team, Key: p.KeyID, Tier: tier}})
	if err != nil {
		s.said.Warn(ctx, "limits are not told", err)
		return out
	}
	out.Limits, out.Balances = make([]limitView, 0, len(seen.GetBuckets())), []balanceView{}
	for _, b := range seen.GetBuckets() {
		out.Limits = append(out.Limits, newLimitView(b))
	}
	for i, b := range seen.GetBalances() {
		if b.GetPresent() && i < len(s.cfg.Providers) {
			out.Balances = append(out.Balances, newBalanceView(s.cfg.Providers[i], b))
		}
	}
	return out
}

func newLimitView(b *limitpb.Bucket) limitView {
	v := limitView{Rule: b.GetRule(), Unit: b.GetUnit(), Capacity: b.GetCapacity(), Level: b.GetLevel(), Held: b.GetHeld(),
		PerSecond: b.GetRate(), Shadow: b.GetShadow(),
		Remaining: int64(max(0, math.Floor(b.GetCapacity()-b.GetLevel()))), ResetSeconds: float64(b.GetResetUs()) / 1e6}
	for _, e := range b.GetFound().GetEntries() {
		switch e.GetKey() {
		case attributes.Provider:
			v.Provider = e.GetValue()
		case attributes.Route:
			v.Route = e.GetValue()
		}
	}
	return v
}

func newBalanceView(provider string, b *limitpb.Balance) balanceView {
	v := balanceView{Provider: provider, Credits: b.GetCredits(), Spent: b.GetSpent(), Held: b.GetHeld(),
		Left: b.GetCredits() - b.GetSpent() - b.GetHeld()}
	if us := b.GetResetUs(); us > 0 {
		seconds := float64(us) / 1e6
		v.ResetSeconds = &seconds
	}
	return v
}
