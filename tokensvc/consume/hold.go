package consume

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

const (
	// routeName is what limits call this way to spend tokens ("route: consume").
	routeName = "consume"
	// holdFor is how long a hold lives that nobody settled. The provider has two seconds.
	holdFor = 30 * time.Second
	// limiterTimeout bounds one question to ratelimit, unless Config has a longer time.
	limiterTimeout = time.Second
	// settleTimeout bounds the settling of a call whose caller may have gone.
	settleTimeout = 2 * time.Second
	// bookTimeout bounds the booking, by Postgres or else by JetStream.
	bookTimeout = 3 * time.Second
)

// unlimited is said while holds cannot be taken.
const unlimited = "limiter did not answer"

// hold takes the tokens from every limit and the pool, or from none. The limiter finds the
// limits itself from the facts.
func (a *API) hold(ctx context.Context, c call) (*limitpb.HoldResponse, error) {
	policy := limitpb.BalancePolicy_BALANCE_REQUIRED
	if !a.cfg.Enforce() {
		policy = limitpb.BalancePolicy_BALANCE_NONE
	}
	ctx, cancel := context.WithTimeout(ctx, max(limiterTimeout, a.cfg.Timeout))
	defer cancel()
	held, err := a.cfg.Limiter.Hold(ctx, &limitpb.HoldRequest{
		Facts: &limitpb.Facts{RequestId: c.id, User: c.user, Org: c.org, Team: c.team, Key: c.key, Tier: c.tier, Route: routeName,
			Provider: c.provider},
		// A fixed cost: nothing is filled in, so all of it counts as input.
		InputTokens: c.tokens, Balance: policy, LifetimeUs: holdFor.Microseconds(), ReleaseExpired: true,
	})
	switch status.Code(err) {
	case codes.OK:
		a.said.Over(ctx, unlimited, "limiter answers again")
		return held, nil
	case codes.InvalidArgument:
		return nil, err // ours to mend: the body was checked
	}
	a.said.Warn(ctx, unlimited, err)
	return nil, httpapi.Unavailable("limits cannot be checked now")
}

// settle replaces the hold by what is charged. It outlives the caller, who may have gone.
func (a *API) settle(ctx context.Context, c call, held *limitpb.HoldResponse, charged int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	_, err := a.cfg.Limiter.Settle(ctx, &limitpb.SettleRequest{
		Settlements: []*limitpb.Settlement{{RequestId: c.id, Account: held.GetAccount(), Charged: charged}}})
	if err != nil {
		a.said.Warn(ctx, "hold stands until it expires", err, slog.String("request_id", c.id), slog.Int64("tokens", charged))
	}
	return err
}
