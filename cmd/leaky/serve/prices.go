package serve

import (
	"context"
	"log/slog"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/prices"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// prices is the list that leaky.yaml names.
func (s service) prices() (*prices.Table, error) {
	return prices.Load(s.files.Beside(s.cfg.Prices.File))
}

// livePrices is that list, followed until ctx ends, also where leaky.yaml names another one. Its file is
// looked at as often as every says, 0 for the usual second.
func (s service) livePrices(ctx context.Context, every time.Duration) (*prices.Live, error) {
	path := func() string { return s.files.Beside(s.live.now.Load().Prices.File) }
	list, err := prices.NewLive(path)
	if err != nil {
		return nil, err
	}
	go config.Watcher{Files: func() []string { return []string{path()} }, Every: every}.Run(ctx, func() {
		if err := list.Read(); err != nil {
			s.log.LogAttrs(ctx, slog.LevelError, "prices not taken, the last good ones stay", slog.Any("error", err))
		}
	})
	return list, nil
}

// priced freezes costs in the events of a publisher.
type priced struct {
	list *prices.Live
	to   ratelimit.Publisher
}

// Publish implements ratelimit.Publisher.
func (p priced) Publish(ctx context.Context, e usage.Event) error {
	p.list.Freeze(&e)
	return p.to.Publish(ctx, e)
}
