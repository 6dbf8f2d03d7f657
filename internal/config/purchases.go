package config

import (
	"maps"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Protocols of payment providers.
const (
	PaymentPlain  = "plain"  // our own: the payment stub, or an adapter to any provider
	PaymentStripe = "stripe" // payment intents
)

// Purchases is how tokens are sold.
type Purchases struct {
	// PricePerMillion is what a million tokens cost, in minor units of Currency, by provider; the
	// entry "default" is of those without one. A purchase is rounded up to the next unit.
	PricePerMillion map[string]int64 `yaml:"price_per_million"`
	Currency        string           `yaml:"currency"` // ISO 4217, lower-case, default usd
	Payment         Payment          `yaml:"payment"`
	Workers         int              `yaml:"workers"`       // purchases that a replica carries on at once, default 8
	Attempts        int              `yaml:"attempts"`      // tries of a step before it is parked for a person, default 20
	Backoff         time.Duration    `yaml:"backoff"`       // after a failed try, doubled each time, default 500ms
	BackoffMax      time.Duration    `yaml:"backoff_max"`   // default 1m
	PollEvery       time.Duration    `yaml:"poll_every"`    // without a notification, default 1s
	Lease           time.Duration    `yaml:"lease"`         // a worker that says nothing for so long is dead, default 30s
	RecoverEvery    time.Duration    `yaml:"recover_every"` // default 1m
	StaleAfter      time.Duration    `yaml:"stale_after"`   // a purchase that stood still for so long is driven on or back, default 10m
	KeepKeys        time.Duration    `yaml:"keep_keys"`     // idempotency keys, default 24h
}

// Payment is the provider that takes the money.
type Payment struct {
	Protocol  string        `yaml:"protocol" jsonschema:"enum=plain,enum=stripe"` // plain (default) or stripe
	URL       string        `yaml:"url"`                                          // default the payment stub's
	APIKeyEnv string        `yaml:"api_key_env"`                                  // environment variable with the provider's key; empty: none is sent
	Timeout   time.Duration `yaml:"timeout"`                                      // of one call, default 4s
}

// priceDefault is the entry of providers without one of their own.
const priceDefault = "default"

// maxPrice keeps the price of the largest purchase (a million tokens) within an int64.
const maxPrice = math.MaxInt64 / 10_000_000

func defaultPurchases() Purchases {
	return Purchases{PricePerMillion: map[string]int64{priceDefault: 1000}, Currency: "usd", Payment: Payment{Protocol: PaymentPlain,
		URL: "http://127.0.0.1:8094", Timeout: 4 * time.Second},
		Workers: 8, Attempts: 20, Backoff: 500 * time.Millisecond, BackoffMax: time.Minute, PollEvery: time.Second, Lease: 30 * time.Second,
		RecoverEvery: time.Minute, StaleAfter: 10 * time.Minute, KeepKeys: 24 * time.Hour}
}

// Price is what a million of a provider's tokens cost, in minor units.
func (p Purchases) Price(provider string) int64 {
	if price, ok := p.PricePerMillion[provider]; ok {
		return price
	}
	if price, ok := p.PricePerMillion[priceDefault]; ok {
		return price
	}
	return defaultPurchases().PricePerMillion[priceDefault]
}

// StepTimeout bounds a step: two calls to the payment and what is written of them.
func (p Purchases) StepTimeout() time.Duration { return 2*p.Payment.Timeout + 2*time.Second }

var currencyCode = regexp.MustCompile(`^[a-z]{3}$`)

func (p Purchases) validate(v *validator, providers map[string]Provider) {
	known := slices.Sorted(maps.Keys(providers))
	for _, name := range slices.Sorted(maps.Keys(p.PricePerMillion)) {
		key := "purchases.price_per_million." + name
		if name != priceDefault {
			v.oneOf(key, name, append(known, priceDefault)...)
		}
		between(v, key, p.PricePerMillion[name], 1, maxPrice)
	}
	if !currencyCode.MatchString(p.Currency) {
		v.fail("purchases.currency", "%q: write three lower-case letters, such as usd", p.Currency)
	}
	v.oneOf("purchases.payment.protocol", p.Payment.Protocol, PaymentPlain, PaymentStripe)
	if u, err := url.Parse(p.Payment.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" ||
		u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		v.fail("purchases.payment.url", "write http(s)://host[:port][/prefix], without credentials, query or fragment")
	}
	if name := p.Payment.APIKeyEnv; strings.ContainsAny(name, "= \t\x00") {
		v.fail("purchases.payment.api_key_env", "%q is not the name of an environment variable", name)
	}
	between(v, "purchases.payment.timeout", p.Payment.Timeout, 10*time.Millisecond, time.Minute)
	between(v, "purchases.workers", p.Workers, 1, 256)
	between(v, "purchases.attempts", p.Attempts, 1, 1000)
	between(v, "purchases.backoff", p.Backoff, time.Millisecond, time.Hour)
	between(v, "purchases.backoff_max", p.BackoffMax, p.Backoff, 24*time.Hour)
	between(v, "purchases.poll_every", p.PollEvery, 10*time.Millisecond, time.Minute)
	between(v, "purchases.lease", p.Lease, 2*p.StepTimeout(), time.Hour) // else a slow worker would be taken for dead
	between(v, "purchases.recover_every", p.RecoverEvery, 100*time.Millisecond, time.Hour)
	between(v, "purchases.stale_after", p.StaleAfter, p.Lease, 30*24*time.Hour)
	between(v, "purchases.keep_keys", p.KeepKeys, 24*time.Hour, 365*24*time.Hour)
}

func (t Tier) validateQuotaMax(v *validator, key string) {
	between(v, key+".quota_max_tokens", t.QuotaMax, 0, math.MaxInt64/2)
}
