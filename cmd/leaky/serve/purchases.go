package serve

import (
	"os"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/payment"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/saga"
)

// openPurchases makes the part of the token service that sells tokens. Prices, the caps of
// tiers and the flag follow leaky.yaml while it runs; a purchase keeps the price it was made at.
func openPurchases(s service, pool *pgxpool.Pool, members saga.Members, policy func() ledger.Policy) (*saga.Service, error) {
	p := s.cfg.Purchases
	reach := payment.Config{URL: p.Payment.URL, Timeout: p.Payment.Timeout, Spans: s.traces.Transport}
	if p.Payment.APIKeyEnv != "" {
		reach.APIKey = os.Getenv(p.Payment.APIKeyEnv)
	}
	payments, err := openPayments(p.Payment.Protocol, reach)
	if err != nil {
		return nil, err
	}
	return saga.New(saga.Config{Pool: pool, Payments: payments, Members: members, Providers: s.live.providers,
		Enabled:  func() bool { return s.live.flags().TokenService.SagaPurchases },
		Price:    func(provider string) int64 { return s.live.now.Load().Purchases.Price(provider) },
		QuotaMax: func(tier string) int64 { return s.live.now.Load().Tiers.Levels[tier].QuotaMax },
		Policy:   policy, Currency: p.Currency, Workers: p.Workers, Attempts: p.Attempts,
		Timing: saga.Timing{Step: p.StepTimeout(), Lease: p.Lease, Poll: p.PollEvery, Backoff: p.Backoff, BackoffMax: p.BackoffMax,
			Recover: p.RecoverEvery, Stale: p.StaleAfter, KeepKeys: p.KeepKeys},
		Log: s.log, Metrics: s.metrics})
}

func openPayments(protocol string, reach payment.Config) (saga.Payments, error) {
	if protocol == config.PaymentStripe {
		return payment.NewStripe(reach)
	}
	return payment.NewPlain(reach)
}
