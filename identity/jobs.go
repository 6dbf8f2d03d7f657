package identity

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/natsconn"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

const (
	reloadEvery = 30 * time.Second // signing keys
	purgeEvery  = 10 * time.Minute // what has expired
)

// link announces revocations and answers questions about members until ctx ends.
func (s *Service) link(ctx context.Context) error {
	if s.cfg.NATS == "" {
		s.log.Warn("no NATS address: revocations take effect when caches end")
		<-ctx.Done()
		return nil
	}
	conn, err := natsconn.Connect(natsconn.Config{URL: s.cfg.NATS, Name: topology.Identity, Log: s.log, Unbuffered: true})
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := membership.Serve(ctx, conn, s.lookMembership); err != nil {
		return err
	}
	// A key that another replica withdrew signs no more here either.
	reload := make(chan struct{}, 1)
	if _, err := conn.Subscribe(revocation.Subject, func(m *nats.Msg) {
		if r, err := revocation.Decode(m.Data); err == nil && r.Kind == revocation.Signer {
			select {
			case reload <- struct{}{}:
			default: // one reload waits, and will see this too
			}
		}
	}); err != nil {
		return fmt.Errorf("follow revocations: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.announcer.Run(ctx, conn) })
	group.Go(func() error { return s.reloadKeys(ctx, reload) })
	return group.Wait()
}

// reloadKeys reads the keys each time that it is told to, until ctx ends.
func (s *Service) reloadKeys(ctx context.Context, told <-chan struct{}) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-told:
			if err := s.keys.Load(ctx); err != nil && ctx.Err() == nil {
				s.said.Warn(ctx, "signing keys not reloaded, the next turn tries again", err)
			}
		}
	}
}

// jobs keep signing keys fresh and delete what has expired, until ctx ends.
func (s *Service) jobs(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.each(ctx, "refresh signing keys", reloadEvery, s.refreshKeys) })
	group.Go(func() error { return s.each(ctx, "purge", purgeEvery, s.purge) })
	group.Go(func() error {
		return s.each(ctx, "ask who may still come in", askRound, func(ctx context.Context) error { return s.askUpstreams(ctx, time.Now()) })
	})
	return group.Wait()
}

// each runs f now and then again and again; a failure is logged, and the next turn tries again.
func (s *Service) each(ctx context.Context, name string, pause time.Duration, f func(context.Context) error) error {
	undone := "job failed, its next turn tries again: " + name
	every := time.NewTicker(pause)
	defer every.Stop()
	for {
		switch err := f(ctx); {
		case err == nil:
			s.said.Over(ctx, undone, "job goes on: "+name)
		case ctx.Err() == nil:
			s.said.Warn(ctx, undone, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
	}
}

// refreshKeys picks up keys that another replica made, and makes the next one when it is time.
func (s *Service) refreshKeys(ctx context.Context) error {
	if every := s.cfg.Auth.RotateEvery; every > 0 {
		kid, err := s.keys.RotateAfter(ctx, every, func(tx pgx.Tx, kid string) error {
			return audit.Record(ctx, tx, audit.Entry{Actor: audit.System, Action: "signing_key.rotate", Target: kid})
		})
		if err != nil {
			return err
		}
		if kid != "" {
			s.log.Info("signing keys rotated", slog.String("kid", kid))
		}
	}
	return s.keys.Load(ctx)
}

// purge deletes what has expired, a bounded part at a time.
func (s *Service) purge(ctx context.Context) error {
	if err := s.keys.Purge(ctx); err != nil {
		return err
	}
	if err := s.grants.Purge(ctx); err != nil {
		return err
	}
	ctx, cancel, q := s.store.read(ctx)
	defer cancel()
	for what, f := range map[string]func(*identitydb.Queries, context.Context) (int64, error){
		"API keys": (*identitydb.Queries).PurgeKeys, "revocations": (*identitydb.Queries).PurgeRevocations,
		"invitations": (*identitydb.Queries).PurgeInvitations, "organisations' invitations": (*identitydb.Queries).PurgeOrgInvitations,
	} {
		if n, err := f(q, ctx); err != nil {
			return fmt.Errorf("purge %s: %w", what, err)
		} else if n > 0 {
			s.log.Info("purged", slog.String("what", what), slog.Int64("rows", n))
		}
	}
	return nil
}
