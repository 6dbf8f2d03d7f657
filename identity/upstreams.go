package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/identity/upstream"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
)

// noMailbox is the domain of the addresses of those whose provider gives none, or one that an account
// here has. No mail goes there (RFC 2606).
const noMailbox = "@upstream.invalid"

// nameTries is how often another name is looked for, should each be taken.
const nameTries = 8

// welcome gives the account of who signed in by another provider, and makes it at the first time. It
// is theirs by issuer and subject alone: neither name nor e-mail makes two accounts one, as whoever may
// choose theirs at the provider could take an account here.
func (s *Service) welcome(ctx context.Context, who upstream.Person) (id uuid.UUID, err error) {
	at := slices.IndexFunc(s.cfg.Auth.Upstreams, func(u config.AuthUpstream) bool { return u.Name == who.Upstream })
	if at < 0 {
		return id, upstream.ErrUnknown
	}
	for try := range nameTries {
		err = s.store.change(ctx, func(ctx context.Context, c *change) error {
			row, err := s.store.upstreamUser(ctx, c, who, try)
			if err != nil {
				return err
			}
			id = row.UserID
			ctx = principal.With(ctx, principal.Principal{UserID: id.String()}) // what follows is their doing in the trail
			f := followed{user: id, org: row.OrgID, says: s.cfg.Auth.Upstreams[at], groups: who.Groups, refresh: s.asking.seal(id, who.Refresh)}
			if err := s.store.follow(ctx, c, f); err != nil {
				return err
			}
			if row.EndedAt != nil {
				if err := s.store.comeBack(ctx, c, id); err != nil {
					return err
				}
			}
			return audit.Record(ctx, c, audit.Entry{Actor: id.String(), Action: "session.signin", Target: id.String(),
				Detail: map[string]string{"upstream": who.Upstream}})
		})
		// Somebody took the name or the address, or signed in the same person, at the same time.
		if !errors.Is(err, errNameTaken) && !errors.Is(err, errEmailTaken) && !errors.Is(err, errSameTime) {
			return id, kept(who, err)
		}
	}
	return id, fmt.Errorf("make account of %s: %w", who.Upstream, err)
}

// errDisabled says that an ADMIN disabled an account.
var errDisabled = errors.New("the account is disabled")

// errSameTime says that somebody was made an account twice at the same time.
var errSameTime = errors.New("the account was made at the same time")

// upstreamUser finds the account of somebody, and the organisation that their provider put them into, or
// makes the account.
func (s store) upstreamUser(ctx context.Context, c *change, who upstream.Person, try int) (row identitydb.UpstreamUserRow, err error) {
	row, err = c.UpstreamUser(ctx, identitydb.UpstreamUserParams{Issuer: who.Issuer, Subject: who.Subject})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		row.UserID, err = addUpstreamUser(ctx, c, who, try)
		return row, err
	case err != nil:
		return row, fmt.Errorf("look for upstream user: %w", err)
	}
	u, err := found(c.UserByID(ctx, row.UserID))
	if err == nil && u.DisabledAt != nil && row.EndedAt == nil {
		err = errDisabled
	}
	return row, err
}

func addUpstreamUser(ctx context.Context, c *change, who upstream.Person, try int) (id uuid.UUID, err error) {
	u := user{ID: uuid.New(), Username: nameFor(who, try), Email: who.Email, Roles: []string{principal.RoleUser},
		CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}
	taken, err := c.Taken(ctx, identitydb.TakenParams{Username: u.Username, Email: u.Email})
	switch {
	case err != nil:
		return id, fmt.Errorf("look for user: %w", err)
	case taken.ByName:
		return id, errNameTaken
	case taken.ByEmail || len(checkEmail(u.Email)) > 0:
		u.Email = u.ID.String() + noMailbox
	}
	if err := insertUser(ctx, c, u); err != nil { // no password matches the empty hash
		return id, err
	}
	n, err := c.AddUpstreamUser(ctx, identitydb.AddUpstreamUserParams{Issuer: who.Issuer, Subject: who.Subject, UserID: u.ID})
	if err != nil {
		return id, fmt.Errorf("insert upstream user: %w", err)
	}
	if n == 0 {
		return id, errSameTime
	}
	return u.ID, audit.Record(ctx, c, audit.Entry{Actor: u.ID.String(), Action: "user.register", Target: u.ID.String(),
		Detail: map[string]string{"username": u.Username, "upstream": who.Upstream}})
}

const maxUsername = 50

// nameFor is a name that an account here may have, after the one at the provider: what no name may have
// becomes a hyphen, and of an address the part before the sign counts. Where that is reserved, or taken
// at an earlier try, something of the subject's hash stands behind it, and in the end something at random.
func nameFor(who upstream.Person, try int) string {
	name := who.Username
	if name == "" {
		name = who.Email
	}
	name, _, _ = strings.Cut(name, "@")
	name = strings.Trim(strings.Map(func(c rune) rune {
		if usernameShape.MatchString(string(c)) {
			return c
		}
		return '-'
	}, name), "-")
	suffix := ""
	switch {
	case try > 1:
		suffix = strings.ToLower(rand.Text()[:6])
	case try == 1 || name == "" || reserved(name):
		sum := sha256.Sum256([]byte(who.Issuer + "\x00" + who.Subject))
		suffix = hex.EncodeToString(sum[:3])
	}
	if name == "" || reserved(name) && strings.Contains(name, ".") { // client.x-suffix would still be reserved
		name = "user"
	}
	if suffix != "" {
		name = name[:min(len(name), maxUsername-len(suffix)-1)] + "-" + suffix
	}
	return name[:min(len(name), maxUsername)]
}
