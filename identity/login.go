package identity

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// session is the answer to a registration, a login and a refresh (contract A1, A2, §21).
type session struct {
	UserID       uuid.UUID `json:"userId"`
	Username     string    `json:"username"`
	Token        string    `json:"token"`
	RefreshToken string    `json:"refreshToken"`
	Roles        []string  `json:"roles"`
	ExpiresIn    int64     `json:"expiresIn"` // of token, in seconds
}

// answerSession makes the access token of a family that has begun.
func (s *Service) answerSession(ctx context.Context, u user, g grants.Grant, refresh string) (session, error) {
	return answerBy(ctx, s.tokens, u, g, refresh)
}

func answerBy(ctx context.Context, tokens *grants.Tokens, u user, g grants.Grant, refresh string) (session, error) {
	token, expiresIn, err := tokens.Issue(ctx, g, g.Family)
	if errors.Is(err, grants.ErrGone) {
		return session{}, httpapi.Fail(http.StatusUnauthorized, "the account is gone or disabled")
	}
	if err != nil {
		return session{}, err
	}
	return session{UserID: u.ID, Username: u.Username, Token: token, RefreshToken: refresh, Roles: u.Roles, ExpiresIn: expiresIn}, nil
}

// tooMany is a 429 that says when to come back.
func tooMany(what string, wait time.Duration) *httpapi.Error {
	seconds := strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10)
	err := httpapi.Fail(http.StatusTooManyRequests, "%s, try again in %s s", what, seconds)
	err.Header = http.Header{"Retry-After": {seconds}}
	return err
}

// login is A2: POST /api/v1/auth/login. A wrong name and a wrong password get the
// same answer after the same work.
func (s *Service) login(w http.ResponseWriter, r *http.Request) error {
	answer, err := s.tryLogin(w, r)
	s.metrics.login.count(err)
	if err != nil {
		return err
	}
	return writeSecret(w, http.StatusOK, answer)
}

func (s *Service) tryLogin(w http.ResponseWriter, r *http.Request) (session, error) {
	var body struct {
		Username string `json:"username"`
		Password string `json:"password"`
		OrgID    string `json:"orgId"` // organisation to act for; empty: none
	}
	if err := httpapi.ReadJSON(w, r, &body); err != nil {
		return session{}, err
	}
	name := strings.TrimSpace(body.Username)
	if name == "" || body.Password == "" {
		return session{}, httpapi.Fail(http.StatusUnauthorized, "username and password are required")
	}
	org, err := optionalID("orgId", &body.OrgID)
	if err != nil {
		return session{}, err
	}
	ctx := r.Context()
	u, err := s.authenticate(ctx, name, body.Password)
	if err != nil {
		return session{}, err
	}
	g := grants.Grant{UserID: u.ID, ClientID: grants.FirstParty, AuthTime: time.Now()}
	if org != nil {
		if _, err := s.store.member(ctx, *org, u.ID); errors.Is(err, errNotFound) {
			return session{}, errForeign()
		} else if err != nil {
			return session{}, err
		}
		g.OrgID = *org
	}
	var refresh string
	err = s.store.change(ctx, func(ctx context.Context, c *change) error {
		if g.Family, refresh, err = s.grants.BeginIn(ctx, c, g); err != nil {
			return err
		}
		return audit.Record(ctx, c, audit.Entry{Actor: u.ID.String(), Action: "session.login", Target: g.Family.String()})
	})
	if err != nil {
		return session{}, err
	}
	return s.answerSession(ctx, u, g, refresh)
}

// SignIn checks a name and a password for the pages of OAuth2, as a login does, and gives
// the user's id. It is in the audit trail either way.
func (s *Service) SignIn(ctx context.Context, username, password string) (uuid.UUID, error) {
	u, err := s.authenticate(ctx, strings.TrimSpace(username), password)
	if err != nil {
		return uuid.UUID{}, err
	}
	return u.ID, audit.Record(ctx, s.store.pool, audit.Entry{Actor: u.ID.String(), Action: "session.signin", Target: u.ID.String()})
}

// authenticate checks a name and a password: throttled, and with the same answer after the same work
// for an unknown name, a wrong password and a disabled account. Guesses are counted by account, of
// which there is one however its name is written; a name without an account is one of its own.
// Errors are *httpapi.Error: 401, 429 with Retry-After or 503 when too many passwords are being
// checked; others are faults.
func (s *Service) authenticate(ctx context.Context, name, password string) (user, error) {
	u, err := s.userNamed(ctx, name)
	if err != nil {
		return user{}, err
	}
	account := "name:" + name
	if u.ID != uuid.Nil {
		account = "user:" + u.ID.String()
	}
	attempt, wait := s.throttle.Enter(ctx, account)
	if wait > 0 {
		return user{}, tooMany("too many attempts", wait)
	}
	ok, err := s.checkPassword(ctx, u, password)
	if err != nil {
		attempt.Abandon(ctx)
		return user{}, err
	}
	if !ok {
		attempt.Fail(ctx)
		// An unknown name gets an entry as well, or the time would tell; not the name itself, as
		// people type passwords into the wrong field.
		entry := audit.Entry{Actor: audit.Anonymous, Action: "session.login", Outcome: audit.Failure}
		if u.ID != uuid.Nil {
			entry.Actor, entry.Target = u.ID.String(), u.ID.String()
		}
		if err := audit.Record(ctx, s.store.pool, entry); err != nil {
			return user{}, err
		}
		return user{}, httpapi.Fail(http.StatusUnauthorized, "invalid credentials")
	}
	attempt.Succeed(ctx)
	return u, nil
}

// userNamed gives the zero user for a name that nobody has or can have.
func (s *Service) userNamed(ctx context.Context, name string) (user, error) {
	if !usernameShape.MatchString(name) {
		return user{}, nil
	}
	u, err := s.store.userByName(ctx, name)
	if errors.Is(err, errNotFound) {
		return user{}, nil
	}
	return u, err
}

// checkPassword takes as long for the zero user as for one who is there.
func (s *Service) checkPassword(ctx context.Context, u user, password string) (ok bool, err error) {
	ok, err = s.passwords.verify(ctx, u.PasswordHash, password)
	if err != nil || !ok || u.DisabledAt != nil {
		return false, err
	}
	if s.passwords.outdated(u.PasswordHash) {
		fresh, err := s.passwords.hash(ctx, password)
		if err == nil {
			err = s.store.upgradeHash(ctx, u.ID, u.PasswordHash, fresh)
		}
		if err != nil {
			s.said.Warn(ctx, "password hash not upgraded, the next login tries again", err)
		}
	}
	return true, nil
}

// writeSecret answers with a body that no cache may keep.
func writeSecret(w http.ResponseWriter, status int, body any) error {
	w.Header().Set("Cache-Control", "no-store")
	httpapi.WriteJSON(w, status, body)
	return nil
}
