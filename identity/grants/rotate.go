package grants

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
)

// Answer makes what the holder of a grant is sent, with the next refresh token in it, within the
// transaction that makes that token. An error undoes the rotation: the token can be used again.
type Answer func(ctx context.Context, tx pgx.Tx, g Grant, next string) ([]byte, error)

// rotation is one use of a refresh token.
type rotation struct {
	store    *Store
	refresh  string
	clientID string
	make     Answer

	answer  []byte
	verdict error // why there is none
	ended   []revocation.Revocation
}

// Rotate takes a refresh token and gives the answer that carries the next one. A repeat within the
// grace gets the very same answer, however many come at once: two tabs of a browser, or a client
// that lost it. After the grace a repeat is ErrReused, and the family ends: somebody has a token
// who should not, and nobody can tell who.
//
//	unused ──use──▶ used, answer kept ──grace over──▶ used
//	                  │ repeat: same answer             │ repeat: ErrReused, the family ends
func (s *Store) Rotate(ctx context.Context, refresh, clientID string, answer Answer) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	if !Looks(refresh) {
		return nil, ErrUnknown
	}
	known, err := identitydb.New(s.cfg.Pool).RefreshToken(ctx, hash(refresh))
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrUnknown
	}
	if err != nil {
		return nil, fmt.Errorf("find refresh token: %w", err)
	}
	if known.RevokedAt != nil && known.UsedAt != nil {
		return nil, ErrReused // all that can be done about it has been
	}
	if known.UsedAt != nil && known.RevokedAt == nil && known.ClientID == clientID {
		// Many repeats at once need not wait for each other.
		if answer, err := s.repeat(ctx, refresh); err != nil || answer != nil {
			return answer, err
		}
	}
	r := &rotation{store: s, refresh: refresh, clientID: clientID, make: answer}
	err = pgx.BeginFunc(ctx, s.cfg.Pool, func(tx pgx.Tx) error {
		row, err := identitydb.New(tx).LockFamily(ctx, known.FamilyID)
		if errors.Is(err, pgx.ErrNoRows) {
			r.verdict = ErrUnknown
			return nil
		}
		if err != nil {
			return fmt.Errorf("lock token family: %w", err)
		}
		return r.decide(ctx, tx, row)
	})
	if err != nil {
		return nil, err
	}
	s.cfg.Announcer.Announce(r.ended...)
	return r.answer, r.verdict
}

// repeat gives the answer of a token that was used just now, nil where there is none.
func (s *Store) repeat(ctx context.Context, refresh string) ([]byte, error) {
	token, err := identitydb.New(s.cfg.Pool).RefreshTokenState(ctx, identitydb.RefreshTokenStateParams{Hash: hash(refresh),
		Grace: s.cfg.Grace.Seconds()})
	if err != nil {
		return nil, fmt.Errorf("read refresh token: %w", err)
	}
	if !token.Recent || len(token.Answer) == 0 {
		return nil, nil
	}
	return openAnswer(refresh, token.Answer)
}

// decide runs under the lock of the family.
func (r *rotation) decide(ctx context.Context, tx pgx.Tx, row identitydb.TokenFamily) (err error) {
	q := identitydb.New(tx)
	token, err := q.RefreshTokenState(ctx, identitydb.RefreshTokenStateParams{Hash: hash(r.refresh), Grace: r.store.cfg.Grace.Seconds()})
	if err != nil {
		return fmt.Errorf("read refresh token: %w", err)
	}
	now := time.Now()
	switch {
	case row.ClientID != r.clientID:
		r.verdict = ErrUnknown
	case token.UsedAt != nil && row.RevokedAt == nil && token.Recent && len(token.Answer) > 0:
		r.answer, err = openAnswer(r.refresh, token.Answer)
	case token.UsedAt != nil:
		r.verdict = ErrReused
		r.ended, err = r.store.end(ctx, tx, row, "refresh token reused", audit.Failure)
	case row.RevokedAt != nil:
		r.verdict = ErrUnknown
	case !now.Before(token.ExpiresAt) || !now.Before(row.ExpiresAt):
		r.verdict = ErrExpired
	default:
		r.answer, err = r.replace(ctx, tx, row, now)
	}
	return err
}

// replace uses the token up and stores the next one, and the answer for whom a repeat may get it.
func (r *rotation) replace(ctx context.Context, tx pgx.Tx, row identitydb.TokenFamily, now time.Time) ([]byte, error) {
	q, next := identitydb.New(tx), newRefresh()
	answer, err := r.make(ctx, tx, grantOf(row), next)
	if err != nil {
		return nil, err
	}
	var kept []byte
	if r.store.cfg.Grace > 0 {
		if kept, err = sealAnswer(r.refresh, answer); err != nil {
			return nil, err
		}
	}
	if err := q.UseRefreshToken(ctx, identitydb.UseRefreshTokenParams{Hash: hash(r.refresh), Answer: kept}); err != nil {
		return nil, fmt.Errorf("use refresh token: %w", err)
	}
	if err := q.AddRefreshToken(ctx, identitydb.AddRefreshTokenParams{Hash: hash(next), FamilyID: row.ID,
		ExpiresAt: earlier(now.Add(r.store.cfg.Idle), row.ExpiresAt)}); err != nil {
		return nil, fmt.Errorf("store refresh token: %w", err)
	}
	return answer, nil
}

// answerCipher seals by a key that only the used token yields: the database has its hash alone, so
// what it keeps is of no use to who reads it.
func answerCipher(refresh string) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, []byte(refresh), nil, "leaky-tokens answer of a refresh token v1", 32)
	if err != nil {
		return nil, fmt.Errorf("derive key of answer: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("cipher of answer: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("cipher of answer: %w", err)
	}
	return aead, nil
}

func sealAnswer(refresh string, answer []byte) ([]byte, error) {
	aead, err := answerCipher(refresh)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, answer, nil), nil
}

func openAnswer(refresh string, sealed []byte) ([]byte, error) {
	aead, err := answerCipher(refresh)
	if err != nil {
		return nil, err
	}
	answer, err := aead.Open(nil, nil, sealed, nil)
	if err != nil {
		return nil, fmt.Errorf("open answer: %w", err)
	}
	return answer, nil
}
