package identity

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/identity/keyring"
	"github.com/leaky-tokens/leaky-tokens/identity/upstream"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

// Access ends when the provider says so. Each account of one whose provider gave a refresh token is asked
// about by it; a refusal ends the account, and so does that nobody said yes for access_ttl:
//
//	       login                asked: yes
//	─────────────▶ confirmed ──────────────▶ confirmed
//	     ▲             │ asked: no, or no yes for access_ttl
//	     │ login       ▼
//	     └────────── ended: disabled, families and access tokens revoked, keys refused
const (
	askRound = time.Minute
	askEvery = 15 * time.Minute // about one account
	askBatch = 100
	askAtOne = 4 // requests at once
)

// asking seals the refresh tokens of providers at rest.
type asking struct{ aead cipher.AEAD }

func newAsking(sealer *keyring.Sealer) (a asking, err error) {
	key, err := sealer.Derive("leaky-tokens upstream refresh tokens v1")
	if err != nil {
		return a, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return a, fmt.Errorf("make cipher: %w", err)
	}
	if a.aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		return a, fmt.Errorf("make cipher: %w", err)
	}
	return a, nil
}

// seal encrypts for one account; nil for no token.
func (a asking) seal(user uuid.UUID, refresh string) []byte {
	if refresh == "" {
		return nil
	}
	return a.aead.Seal(nil, nil, []byte(refresh), user[:])
}

func (a asking) open(user uuid.UUID, sealed []byte) (string, error) {
	plain, err := a.aead.Open(nil, nil, sealed, user[:])
	if err != nil {
		return "", fmt.Errorf("open refresh token of an upstream provider: %w", keyring.ErrForeignSecret)
	}
	return string(plain), nil
}

// askUpstreams asks providers about all accounts that it is time for, and ends those that are let in no
// more. Replicas share the work.
func (s *Service) askUpstreams(ctx context.Context, now time.Time) error {
	issuers := []string{} // not NULL: of none, everybody's provider is gone
	for _, u := range s.cfg.Auth.Upstreams {
		issuers = append(issuers, u.Issuer)
	}
	for {
		rows, err := s.takeUpstreamUsers(ctx, issuers, now)
		if err != nil {
			return err
		}
		if err := s.askAbout(ctx, rows); err != nil {
			return err
		}
		if len(rows) < askBatch {
			break
		}
	}
	for _, u := range s.cfg.Auth.Upstreams {
		if err := s.endLapsed(ctx, u.Issuer, issuers, now.Add(-u.AccessTTL)); err != nil {
			return err
		}
	}
	return s.endLapsed(ctx, "", issuers, now.Add(-config.UpstreamAccessTTL))
}

func (s *Service) takeUpstreamUsers(ctx context.Context, issuers []string, now time.Time) ([]identitydb.TakeUpstreamUsersRow, error) {
	ctx, cancel, q := s.store.read(ctx)
	defer cancel()
	rows, err := q.TakeUpstreamUsers(ctx, identitydb.TakeUpstreamUsersParams{AskedAt: now, Issuers: issuers, Before: now.Add(-askEvery),
		Most: askBatch})
	if err != nil {
		return nil, fmt.Errorf("take upstream users: %w", err)
	}
	return rows, nil
}

// askAbout asks about some accounts. A provider that does not answer is left alone for the rest of them:
// their turn comes again.
func (s *Service) askAbout(ctx context.Context, rows []identitydb.TakeUpstreamUsersRow) error {
	var away sync.Map // issuers
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(askAtOne)
	for _, row := range rows {
		group.Go(func() error {
			if _, silent := away.Load(row.Issuer); silent {
				return nil
			}
			err := s.ask(ctx, row)
			if told, ok := errors.AsType[*upstream.Refused](err); ok {
				if _, twice := away.LoadOrStore(row.Issuer, true); !twice {
					s.log.WarnContext(ctx, "a provider does not say who may still come in, asking again later", slog.String("why", told.Detail))
				}
				return nil
			}
			return err
		})
	}
	return group.Wait()
}

// ask asks about one account; *upstream.Refused when nobody answers.
func (s *Service) ask(ctx context.Context, row identitydb.TakeUpstreamUsersRow) error {
	refresh, err := s.asking.open(row.UserID, row.RefreshToken)
	if err != nil {
		return err
	}
	next, err := s.upstreams.Ask(ctx, row.Issuer, refresh)
	if errors.Is(err, upstream.ErrEnded) {
		return s.store.endUpstreamUser(ctx, row.UserID, identitydb.EndUpstreamUserParams{UserID: row.UserID, Asked: row.RefreshToken})
	}
	if err != nil {
		return err
	}
	ctx, cancel, q := s.store.read(context.WithoutCancel(ctx)) // the token that was asked with may be used up
	defer cancel()
	if err := q.ReconfirmUpstreamUser(ctx, identitydb.ReconfirmUpstreamUserParams{UserID: row.UserID, Asked: row.RefreshToken,
		Next: s.asking.seal(row.UserID, next)}); err != nil {
		return fmt.Errorf("confirm upstream user: %w", err)
	}
	return nil
}

// endLapsed ends the accounts of an issuer (empty: of those that are configured no more) that nobody has
// confirmed since.
func (s *Service) endLapsed(ctx context.Context, issuer string, known []string, since time.Time) error {
	for {
		bounded, cancel, q := s.store.read(ctx)
		ids, err := q.LapsedUpstreamUsers(bounded, identitydb.LapsedUpstreamUsersParams{Before: since, Issuer: issuer, Known: known,
			Most: askBatch})
		cancel()
		if err != nil {
			return fmt.Errorf("look for lapsed upstream users: %w", err)
		}
		for _, id := range ids {
			if err := s.store.endUpstreamUser(ctx, id, identitydb.EndUpstreamUserParams{UserID: id, Before: since}); err != nil {
				return err
			}
		}
		if len(ids) < askBatch {
			return nil
		}
	}
}

// errDecided says that there is nothing to end: somebody signed in meanwhile, or was disabled by an ADMIN.
var errDecided = errors.New("it was decided otherwise meanwhile")

// endUpstreamUser disables an account, with all that it was issued, unless its person has signed in
// meanwhile or it is disabled. The last ADMIN is signed out and not disabled.
func (s store) endUpstreamUser(ctx context.Context, id uuid.UUID, which identitydb.EndUpstreamUserParams) error {
	err := s.change(ctx, func(ctx context.Context, c *change) error {
		var generation int64
		err := pgx.BeginFunc(ctx, c.Tx, func(pgx.Tx) error {
			return guardAdmins(ctx, c, func() (err error) {
				if u, err := found(c.UserByID(ctx, id)); err != nil || u.DisabledAt != nil {
					return errors.Join(err, errDecided)
				}
				generation, err = found(c.SetDisabled(ctx, identitydb.SetDisabledParams{ID: id, Disabled: true}))
				return err
			})
		})
		if errors.Is(err, errLastAdmin) {
			generation, err = found(c.NextGeneration(ctx, id))
		}
		if err != nil {
			return err
		}
		if err := s.endUser(ctx, c, id, generation, "ended by the provider"); err != nil {
			return err
		}
		n, err := c.EndUpstreamUser(ctx, which)
		if err != nil {
			return fmt.Errorf("end upstream user: %w", err)
		}
		if n == 0 {
			return errDecided
		}
		return audit.Record(ctx, c, audit.Entry{Actor: audit.System, Action: "user.disable", Target: id.String(),
			Detail: map[string]string{"why": "ended by the provider"}})
	})
	if errors.Is(err, errDecided) {
		return nil
	}
	return err
}

// comeBack enables an account that its provider ended and lets in again.
func (s store) comeBack(ctx context.Context, c *change, id uuid.UUID) error {
	if _, err := c.SetDisabled(ctx, identitydb.SetDisabledParams{ID: id, Disabled: false}); err != nil {
		return fmt.Errorf("enable user: %w", err)
	}
	return audit.Record(ctx, c, audit.Entry{Action: "user.enable", Target: id.String()})
}
