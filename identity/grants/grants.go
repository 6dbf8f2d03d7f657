// Package grants is what a login or a consent gives: a family of tokens, that is one
// refresh token at a time, rotated at each use, and the access tokens made with it.
// A refresh token that is used again ends its family (RFC 9700, 4.14.2), but for a short while after
// its use, in which a repeat gets the same answer.
package grants

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/identity/revocations"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
)

// FirstParty is the client of logins by password.
const FirstParty = "leaky"

const (
	prefix    = "leaky_rt_"
	secretLen = 32 // bytes
	queryTime = 5 * time.Second
	// skew is how much longer than an access token its revocation is kept.
	skew = 2 * time.Minute
)

var (
	// ErrUnknown says that a refresh token is none of ours, of another client, or of a family that has ended.
	ErrUnknown = errors.New("unknown refresh token")
	// ErrReused says that a refresh token was used a second time; its family has been revoked.
	ErrReused = errors.New("refresh token was used before")
	// ErrExpired says that a refresh token is too old.
	ErrExpired = errors.New("refresh token has expired")
	// ErrGone says that the user is gone, disabled, or no member of the organisation any longer.
	ErrGone = errors.New("the user may not be issued tokens")
)

// Grant is what somebody was given.
type Grant struct {
	UserID   uuid.UUID
	ClientID string // FirstParty, or the OAuth2 client
	Scope    string // space-separated; empty: whatever their roles allow
	// Resources are where its tokens may be used beside here, space-separated URIs (RFC 8707); empty: here.
	Resources string
	OrgID     uuid.UUID
	AuthTime  time.Time // when the user proved who they are
	Family    uuid.UUID // set by Rotate
	// Key is the thumbprint of the key that its tokens are bound to (RFC 9449); empty: whoever has them
	// may use them. A refresh token of Bound stays bound to it.
	Key   string
	Bound bool
}

// kept is the key that its refresh tokens are bound to. Those of a client that proves who it is need none
// (RFC 9449 section 5).
func (g Grant) kept() string {
	if !g.Bound {
		return ""
	}
	return g.Key
}

// Announcer tells every extauthz of revocations.
type Announcer interface {
	Announce(all ...revocation.Revocation)
}

// Config is what New needs.
type Config struct {
	Pool      *pgxpool.Pool
	Announcer Announcer
	TokenTTL  time.Duration // of access tokens: how long a revocation must be remembered
	Idle      time.Duration // a refresh token that is not used ends after so long
	Longest   time.Duration // a family ends after so long, however often it is refreshed
	Grace     time.Duration // a repeat of a used token gets the same answer for so long; 0: it ends the family
}

// Store keeps grants in Postgres.
type Store struct{ cfg Config }

// New makes a store.
func New(cfg Config) *Store { return &Store{cfg: cfg} }

// Begin starts a family and gives its id, the sid of its access tokens, and its first
// refresh token, which is stored as a hash only.
func (s *Store) Begin(ctx context.Context, g Grant) (family uuid.UUID, refresh string, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	err = pgx.BeginFunc(ctx, s.cfg.Pool, func(tx pgx.Tx) error {
		family, refresh, err = s.BeginIn(ctx, tx, g)
		return err
	})
	return family, refresh, err
}

// BeginIn is Begin within the caller's transaction.
func (s *Store) BeginIn(ctx context.Context, tx identitydb.DBTX, g Grant) (uuid.UUID, string, error) {
	family, refresh := uuid.New(), newRefresh()
	now := time.Now()
	ends := now.Add(s.cfg.Longest)
	q := identitydb.New(tx)
	if err := q.AddFamily(ctx, identitydb.AddFamilyParams{ID: family, UserID: g.UserID, ClientID: g.ClientID, Scope: g.Scope,
		OrgID: optional(g.OrgID), AuthTime: g.AuthTime, ExpiresAt: ends,
		Resources: strings.Fields(g.Resources), Jkt: g.kept()}); err != nil {
		return uuid.UUID{}, "", fmt.Errorf("begin token family: %w", err)
	}
	if err := q.AddRefreshToken(ctx, identitydb.AddRefreshTokenParams{Hash: hash(refresh), FamilyID: family,
		ExpiresAt: earlier(now.Add(s.cfg.Idle), ends)}); err != nil {
		return uuid.UUID{}, "", fmt.Errorf("store refresh token: %w", err)
	}
	return family, refresh, nil
}

// end revokes a family within tx, unless it has ended; what it gives is to be announced
// after the commit.
func (s *Store) end(ctx context.Context, tx pgx.Tx, row identitydb.TokenFamily, reason, outcome string) ([]revocation.Revocation, error) {
	n, err := identitydb.New(tx).EndFamily(ctx, identitydb.EndFamilyParams{ID: row.ID, Reason: reason})
	if err != nil {
		return nil, fmt.Errorf("revoke token family: %w", err)
	}
	if n == 0 {
		return nil, nil
	}
	r := s.revocationOf(row.ID)
	if err := revocations.Record(ctx, tx, r); err != nil {
		return nil, err
	}
	return []revocation.Revocation{r}, audit.Record(ctx, tx, audit.Entry{Actor: row.UserID.String(), Client: row.ClientID,
		Action: "family.revoke",
		Target: row.ID.String(), Outcome: outcome, Detail: map[string]string{"reason": reason}})
}

func (s *Store) revocationOf(family uuid.UUID) revocation.Revocation {
	return revocation.Revocation{Kind: revocation.Family, ID: family.String(), Until: time.Now().Add(s.cfg.TokenTTL + skew).UTC()}
}

// RevokeFamily ends a family: its refresh token and, within a second, its access tokens.
// One that has ended or never was is no error.
func (s *Store) RevokeFamily(ctx context.Context, family uuid.UUID, reason string) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	var ended []revocation.Revocation
	err := pgx.BeginFunc(ctx, s.cfg.Pool, func(tx pgx.Tx) error {
		row, err := identitydb.New(tx).LockFamily(ctx, family)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("lock token family: %w", err)
		}
		ended, err = s.end(ctx, tx, row, reason, audit.Success)
		return err
	})
	if err == nil {
		s.cfg.Announcer.Announce(ended...)
	}
	return err
}

// RevokeByToken ends the family of a refresh token of the client. A used token counts as
// well; one that is unknown, or another client's, is ErrUnknown.
func (s *Store) RevokeByToken(ctx context.Context, refresh, clientID string) error {
	if !Looks(refresh) {
		return ErrUnknown
	}
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	var ended []revocation.Revocation
	err := pgx.BeginFunc(ctx, s.cfg.Pool, func(tx pgx.Tx) error {
		q := identitydb.New(tx)
		known, err := q.RefreshToken(ctx, hash(refresh))
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrUnknown
		}
		if err != nil {
			return fmt.Errorf("find refresh token: %w", err)
		}
		row, err := q.LockFamily(ctx, known.FamilyID)
		if err != nil {
			return fmt.Errorf("lock token family: %w", err)
		}
		if row.ClientID != clientID {
			return ErrUnknown
		}
		ended, err = s.end(ctx, tx, row, "logout", audit.Success)
		return err
	})
	if err == nil {
		s.cfg.Announcer.Announce(ended...)
	}
	return err
}

// EndOfUser ends all families of a user but one (the zero UUID: all) within tx. Announce
// what it gives after the commit.
func (s *Store) EndOfUser(ctx context.Context, tx identitydb.DBTX, user, kept uuid.UUID, reason string) ([]revocation.Revocation, error) {
	ids, err := identitydb.New(tx).EndFamiliesOfUser(ctx, identitydb.EndFamiliesOfUserParams{UserID: user, Kept: kept, Reason: reason})
	return s.recordAll(ctx, tx, ids, err)
}

// EndOfMember ends the families with which a user acts for an organisation, as EndOfUser does.
func (s *Store) EndOfMember(ctx context.Context, tx identitydb.DBTX, user, org uuid.UUID, reason string) ([]revocation.Revocation, error) {
	ids, err := identitydb.New(tx).EndFamiliesOfMember(ctx, identitydb.EndFamiliesOfMemberParams{UserID: user, OrgID: org, Reason: reason})
	return s.recordAll(ctx, tx, ids, err)
}

// EndGrant ends what a user granted to an OAuth2 client, as EndOfUser does.
func (s *Store) EndGrant(ctx context.Context, tx identitydb.DBTX, user uuid.UUID, clientID, reason string) ([]revocation.Revocation,
	error) {
	ids, err := identitydb.New(tx).EndGrantsOfUser(ctx, identitydb.EndGrantsOfUserParams{UserID: user, ClientID: clientID, Reason: reason})
	return s.recordAll(ctx, tx, ids, err)
}

// EndOfClient ends the families of an OAuth2 client, as EndOfUser does.
func (s *Store) EndOfClient(ctx context.Context, tx identitydb.DBTX, clientID, reason string) ([]revocation.Revocation, error) {
	ids, err := identitydb.New(tx).EndFamiliesOfClient(ctx, identitydb.EndFamiliesOfClientParams{ClientID: clientID, Reason: reason})
	return s.recordAll(ctx, tx, ids, err)
}

func (s *Store) recordAll(ctx context.Context, tx identitydb.DBTX, ids []uuid.UUID, err error) ([]revocation.Revocation, error) {
	if err != nil {
		return nil, fmt.Errorf("revoke token families: %w", err)
	}
	all := make([]revocation.Revocation, len(ids))
	for i, id := range ids {
		all[i] = s.revocationOf(id)
	}
	return all, revocations.Record(ctx, tx, all...)
}

// Purge deletes families that ended a week ago, and the answers that no repeat gets any longer.
func (s *Store) Purge(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	q := identitydb.New(s.cfg.Pool)
	if _, err := q.PurgeFamilies(ctx); err != nil {
		return fmt.Errorf("purge token families: %w", err)
	}
	if _, err := q.DropAnswers(ctx, s.cfg.Grace.Seconds()); err != nil {
		return fmt.Errorf("drop answers of used refresh tokens: %w", err)
	}
	return nil
}

func grantOf(row identitydb.TokenFamily) Grant {
	g := Grant{UserID: row.UserID, ClientID: row.ClientID, Scope: row.Scope, AuthTime: row.AuthTime, Family: row.ID,
		Resources: strings.Join(row.Resources, " "), Key: row.Jkt, Bound: row.Jkt != ""}
	if row.OrgID != nil {
		g.OrgID = *row.OrgID
	}
	return g
}

// Looks says whether a text is shaped like a refresh token.
func Looks(s string) bool {
	return len(s) == len(prefix)+base64.RawURLEncoding.EncodedLen(secretLen) && s[:len(prefix)] == prefix
}

func newRefresh() string {
	var secret [secretLen]byte
	rand.Read(secret[:]) // never fails: crypto/rand aborts the process instead
	return prefix + base64.RawURLEncoding.EncodeToString(secret[:])
}

// hash is what is stored: 256 random bits need no slow hash.
func hash(refresh string) []byte {
	sum := sha256.Sum256([]byte(refresh))
	return sum[:]
}

func optional(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
