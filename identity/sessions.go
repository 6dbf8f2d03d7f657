package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// readRefresh reads {refreshToken}.
func readRefresh(w http.ResponseWriter, r *http.Request) (string, error) {
	var body struct {
		RefreshToken *string `json:"refreshToken"`
	}
	if err := httpapi.ReadJSON(w, r, &body); err != nil {
		return "", err
	}
	if body.RefreshToken == nil || *body.RefreshToken == "" {
		return "", invalid("refreshToken", "refreshToken is required")
	}
	return *body.RefreshToken, nil
}

// refresh is POST /api/v1/auth/refresh {refreshToken}: the next refresh token and an
// access token. A repeat within auth.refresh_grace gets the same two; after it a token that was used
// before ends all that came of its login (401).
func (s *Service) refresh(w http.ResponseWriter, r *http.Request) error {
	answer, err := s.tryRefresh(w, r)
	s.metrics.refresh.count(err)
	if err != nil {
		return err
	}
	return writeSecret(w, http.StatusOK, json.RawMessage(answer))
}

func (s *Service) tryRefresh(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	token, err := readRefresh(w, r)
	if err != nil {
		return nil, err
	}
	answer, err := s.grants.Rotate(r.Context(), token, grants.FirstParty, s.nextSession)
	switch {
	case errors.Is(err, grants.ErrReused):
		return nil, httpapi.Fail(http.StatusUnauthorized, "the refresh token was used before: the login has ended, log in again")
	case errors.Is(err, grants.ErrUnknown) || errors.Is(err, grants.ErrExpired):
		return nil, httpapi.Fail(http.StatusUnauthorized, "invalid refresh token")
	}
	return answer, err
}

// nextSession is what a refresh answers.
func (s *Service) nextSession(ctx context.Context, tx pgx.Tx, g grants.Grant, next string) ([]byte, error) {
	u, err := found(identitydb.New(tx).UserByID(ctx, g.UserID))
	if errors.Is(err, errNotFound) {
		return nil, httpapi.Fail(http.StatusUnauthorized, "the account is gone or disabled")
	}
	if err != nil {
		return nil, err
	}
	answer, err := answerBy(ctx, s.tokens.In(tx), u, g, next)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("encode session: %w", err)
	}
	return text, nil
}

// logout is POST /api/v1/auth/logout {refreshToken}: ends the login, its access tokens
// included. A token that is none any more is a 204 as well: what was wanted is so.
func (s *Service) logout(w http.ResponseWriter, r *http.Request) error {
	token, err := readRefresh(w, r)
	if err != nil {
		return err
	}
	if err := s.grants.RevokeByToken(r.Context(), token, grants.FirstParty); err != nil && !errors.Is(err, grants.ErrUnknown) {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// changePassword is POST /api/v1/auth/password {current, new}. It ends every login, the
// present one too: a password is changed when somebody else may know it, and the 204 has
// no room for new tokens. API keys stay; their owner sees and revokes them one by one.
func (s *Service) changePassword(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	var body struct {
		Current *string `json:"current"`
		New     *string `json:"new"`
	}
	if err := httpapi.ReadJSON(w, r, &body); err != nil {
		return err
	}
	var missing []httpapi.FieldError
	if body.Current == nil || *body.Current == "" {
		missing = append(missing, httpapi.FieldError{Field: "current", Message: "current is required"})
	}
	if body.New == nil || *body.New == "" {
		missing = append(missing, httpapi.FieldError{Field: "new", Message: "new is required"})
	}
	if len(missing) > 0 {
		return invalidFields(missing)
	}
	u, err := s.self(r, p)
	if err != nil {
		return err
	}
	if bad := checkPassword("new", *body.New, u.Username); len(bad) > 0 {
		return invalidFields(bad)
	}
	// A stolen access token must not be a way to guess the password: counted as logins are.
	if _, err := s.authenticate(r.Context(), u.Username, *body.Current); err != nil {
		if shown, ok := errors.AsType[*httpapi.Error](err); ok && shown.Status == http.StatusUnauthorized {
			return invalid("current", "the current password is wrong")
		}
		return err
	}
	// The hash may have been upgraded just now.
	if u, err = s.self(r, p); err != nil {
		return err
	}
	fresh, err := s.passwords.hash(r.Context(), *body.New)
	if err != nil {
		return err
	}
	err = s.store.setPassword(r.Context(), u.ID, u.PasswordHash, fresh)
	if errors.Is(err, errNotFound) {
		return httpapi.Fail(http.StatusConflict, "the password was changed at the same time, log in again")
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// self is the caller as the database knows them.
func (s *Service) self(r *http.Request, p principal.Principal) (user, error) {
	id, err := parseID(p.UserID)
	if err != nil {
		return user{}, err
	}
	u, err := s.store.userByID(r.Context(), id)
	if errors.Is(err, errNotFound) {
		return user{}, httpapi.Fail(http.StatusUnauthorized, "the account is gone")
	}
	return u, err
}
