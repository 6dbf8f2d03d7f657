// Package watch is beside the request path: it looks every half minute at the pools and spend limits
// of whoever called lately, and once an hour at who used unusually much or little, and publishes a
// notice of each threshold that is reached and of each anomaly, once.
package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/analytics"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/notice"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// Store is what the watch reads of the books.
type Store interface {
	Group(ctx context.Context, f analytics.Filter, by []string, most int, byKey bool) (analytics.Grouped, error)
	Unusual(ctx context.Context, r analytics.Robust, hour time.Time) ([]notice.Anomaly, error)
}

// Config is what New needs.
type Config struct {
	Store     Store
	Limiter   limitpb.LimiterClient
	JetStream jetstream.JetStream
	Rules     []*limits.Rule // of our own domain
	Metrics   prometheus.Registerer
	Log       *slog.Logger
}

const (
	every = 30 * time.Second
	// lately is how long after a call its limits are looked at; longer than every and than a call
	// takes into the books.
	lately = 2 * time.Minute
	// mostCallers bounds one look, largest first.
	mostCallers = 2000
	askWait     = 10 * time.Second
	// hourWait is how long after its end an hour is judged: what comes later is not.
	hourWait = 5 * time.Minute
	// leastPeriod is of a limit that is a budget and no speed.
	leastPeriod = 24 * time.Hour
)

// Percents are the thresholds.
func Percents() []int { return []int{100, 80, 50} }

// Watch publishes notices.
type Watch struct {
	cfg    Config
	spend  map[string]*limits.Rule // by name
	told   *prometheus.CounterVec
	judged time.Time // the last hour that was
}

// New makes a watch; Run starts it.
func New(cfg Config) (*Watch, error) {
	if cfg.Store == nil || cfg.Limiter == nil || cfg.JetStream == nil || cfg.Metrics == nil || cfg.Log == nil {
		return nil, errors.New("make watch: Store, Limiter, JetStream, Metrics and Log are needed")
	}
	w := &Watch{cfg: cfg, spend: map[string]*limits.Rule{}, told: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_notices_total",
		Help: "Notices published, each once, by kind."}, []string{"kind"})}
	for _, kind := range []string{notice.KindThreshold, notice.KindAnomaly} {
		w.told.WithLabelValues(kind)
	}
	for _, r := range cfg.Rules {
		if r.Unit == limits.Tokens && r.Period >= leastPeriod && !r.Shadow && !r.Unlimited {
			w.spend[r.Name] = r
		}
	}
	cfg.Metrics.MustRegister(w.told)
	return w, nil
}

// Run looks until ctx ends. A look that fails is told in the log; the next sees the same.
func (w *Watch) Run(ctx context.Context) error {
	const unseen = "watch failed, the next look sees the same"
	said := retry.NewTroubles(w.cfg.Log)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			switch err := w.Look(ctx, now); {
			case err == nil:
				said.Over(ctx, unseen, "watch goes on")
			case ctx.Err() == nil:
				said.Warn(ctx, unseen, err)
			}
		}
	}
}

// Look publishes what there is to tell at a moment.
func (w *Watch) Look(ctx context.Context, now time.Time) error {
	if _, err := notice.EnsureStream(ctx, w.cfg.JetStream); err != nil {
		return err
	}
	return errors.Join(w.thresholds(ctx, now), w.anomalies(ctx, now))
}

// caller is whose limits are looked at.
type caller struct{ user, org, key, tier, team string }

// thresholds looks at everybody who called lately.
func (w *Watch) thresholds(ctx context.Context, now time.Time) error {
	found, err := w.cfg.Store.Group(ctx, analytics.Filter{From: now.Add(-lately)},
		[]string{"user_id", "org_id", "key_id", "tier", "team", "provider"}, mostCallers, false)
	if err != nil {
		return fmt.Errorf("find who called lately: %w", err)
	}
	providers := map[caller][]string{}
	for _, g := range found.Groups {
		c := caller{g.Key[0], g.Key[1], g.Key[2], g.Key[3], g.Key[4]}
		providers[c] = append(providers[c], g.Key[5])
	}
	seen := map[string]bool{} // limits that several callers share are told of once
	var errs []error
	for c, names := range providers {
		if err := w.of(ctx, now, c, names, seen); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs[:min(len(errs), 3)]...)
}

// of looks at one caller.
func (w *Watch) of(ctx context.Context, now time.Time, c caller, providers []string, seen map[string]bool) error {
	asking, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	slices.Sort(providers)
	state, err := w.cfg.Limiter.GetAccountState(asking, &limitpb.GetAccountStateRequest{Providers: providers,
		Facts: &limitpb.Facts{User: c.user, Org: c.org, Key: c.key, Tier: c.tier, Team: c.team}})
	if err != nil {
		return fmt.Errorf("ask for the limits of %s: %w", c.user, err)
	}
	account := "user:" + c.user
	if c.org != "" {
		account = "org:" + c.org
	}
	var errs []error
	for _, b := range state.GetBuckets() {
		if t, what, ok := w.limit(account, b, now); ok && !seen[what] {
			seen[what] = true
			errs = append(errs, w.tell(ctx, now, t, what))
		}
	}
	for i, b := range state.GetBalances() {
		if t, ok := pool(account, providers[i], b, now); ok && !seen[account+" "+providers[i]] {
			seen[account+" "+providers[i]] = true
			errs = append(errs, w.tell(ctx, now, t, providers[i]))
		}
	}
	return errors.Join(errs...)
}

// limit is the threshold that a spend limit has reached, and what tells its bucket from others of the
// rule. Held tokens are not spent yet.
func (w *Watch) limit(account string, b *limitpb.Bucket, now time.Time) (t notice.Threshold, bucket string, ok bool) {
	rule := w.spend[b.GetRule()]
	if rule == nil || b.GetShadow() || b.GetCapacity() < 1 {
		return t, "", false
	}
	t = notice.Threshold{Account: account, Rule: rule.Name, Used: int64(b.GetLevel() - b.GetHeld()), Capacity: int64(b.GetCapacity())}
	begin, end := rule.Window(now)
	t.Window = begin.UTC().Format(time.RFC3339)
	if rule.Algorithm == limits.FixedWindow {
		t.ResetTime = end.UTC().Format(time.RFC3339)
	}
	var names strings.Builder
	for _, e := range b.GetFound().GetEntries() {
		fmt.Fprintf(&names, "%q=%q ", e.GetKey(), e.GetValue())
	}
	t.Percent, ok = reached(t.Used, t.Capacity)
	return t, names.String() + rule.Name, ok
}

// pool is the threshold that a pool has reached. What was bought has no window: with each credit
// another one begins.
func pool(account, provider string, b *limitpb.Balance, now time.Time) (t notice.Threshold, ok bool) {
	if !b.GetPresent() || b.GetUnknown() || b.GetCredits() < 1 {
		return t, false
	}
	t = notice.Threshold{Account: account, Provider: provider, Used: b.GetSpent(), Capacity: b.GetCredits(),
		Window: fmt.Sprintf("credits of %d", b.GetCredits())}
	if b.GetResetUs() > 0 {
		t.ResetTime = now.Add(time.Duration(b.GetResetUs()) * time.Microsecond).Round(time.Minute).UTC().Format(time.RFC3339)
		t.Window += " until " + t.ResetTime
	}
	t.Percent, ok = reached(t.Used, t.Capacity)
	return t, ok
}

// reached is the highest threshold that is.
func reached(used, capacity int64) (percent int, ok bool) {
	for _, percent := range Percents() {
		if float64(used) >= float64(capacity)*float64(percent)/100 {
			return percent, true
		}
	}
	return 0, false
}

func (w *Watch) tell(ctx context.Context, now time.Time, t notice.Threshold, what string) error {
	return w.publish(ctx, notice.New(notice.KindThreshold, now, t, t.Account, what, t.Window, fmt.Sprint(t.Percent)))
}

// anomalies judges the last hour that is over, once.
func (w *Watch) anomalies(ctx context.Context, now time.Time) error {
	hour := now.UTC().Add(-hourWait).Truncate(time.Hour).Add(-time.Hour)
	if !hour.After(w.judged) {
		return nil
	}
	found, err := w.cfg.Store.Unusual(ctx, analytics.DefaultRobust(), hour)
	if err != nil {
		return fmt.Errorf("judge the hour of %s: %w", hour.Format(time.RFC3339), err)
	}
	for _, a := range found {
		if err := w.publish(ctx, notice.New(notice.KindAnomaly, now, a, a.Dimension, a.Name, a.Hour.Format(time.RFC3339))); err != nil {
			return err
		}
	}
	w.judged = hour
	return nil
}

func (w *Watch) publish(ctx context.Context, n notice.Notice) error {
	told, err := notice.Publish(ctx, w.cfg.JetStream, n)
	if told {
		w.told.WithLabelValues(n.Type).Inc()
	}
	return err
}
