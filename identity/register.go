package identity

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// mayRegister applies auth.registration. Whether a code is good is looked at with the account.
func (s *Service) mayRegister(code string) error {
	switch {
	case s.cfg.Auth.Registration == config.RegistrationClosed:
		return httpapi.Fail(http.StatusForbidden, "registration is closed here")
	case s.cfg.Auth.Registration == config.RegistrationInvite && code == "":
		return &httpapi.Error{Status: http.StatusForbidden, Message: "registration needs an invitation: ask an administrator for a code",
			Fields: []httpapi.FieldError{{Field: "invitation", Message: "invitation is required"}}}
	}
	return nil
}

// register is A1: POST /api/v1/auth/register.
func (s *Service) register(w http.ResponseWriter, r *http.Request) error {
	answer, err := s.tryRegister(w, r)
	s.metrics.register.count(err)
	if err != nil {
		return err
	}
	return writeSecret(w, http.StatusCreated, answer)
}

func (s *Service) tryRegister(w http.ResponseWriter, r *http.Request) (session, error) {
	var body struct {
		Username *string `json:"username"`
		Email    *string `json:"email"`
		Password *string `json:"password"`
		Code     string  `json:"invitation"`
	}
	if err := httpapi.ReadJSON(w, r, &body); err != nil {
		return session{}, err
	}
	if err := s.mayRegister(body.Code); err != nil {
		return session{}, err
	}
	u, password, err := newUser(body.Username, body.Email, body.Password)
	if err != nil {
		return session{}, err
	}
	if wait := s.throttle.Register(r.Context()); wait > 0 {
		return session{}, tooMany("too many registrations", wait)
	}
	if err := s.store.taken(r.Context(), u.Username, u.Email); err != nil {
		return session{}, conflicts(err)
	}
	if u.PasswordHash, err = s.passwords.hash(r.Context(), password); err != nil {
		return session{}, err
	}
	g := grants.Grant{UserID: u.ID, ClientID: grants.FirstParty, AuthTime: time.Now()}
	var refresh string
	err = s.store.change(r.Context(), func(ctx context.Context, c *change) error {
		if err := insertUser(ctx, c, u); err != nil {
			return err
		}
		if err := useInvitation(ctx, c, body.Code, u); err != nil {
			return err
		}
		if g.Family, refresh, err = s.grants.BeginIn(ctx, c, g); err != nil {
			return err
		}
		return audit.Record(ctx, c, audit.Entry{Actor: u.ID.String(), Action: "user.register", Target: u.ID.String(),
			Detail: map[string]string{"username": u.Username}})
	})
	if err != nil {
		return session{}, conflicts(err)
	}
	return s.answerSession(r.Context(), u, g, refresh)
}

// newUser checks the fields of a registration: the missing ones first, then the rest.
func newUser(username, email, password *string) (user, string, error) {
	var missing []httpapi.FieldError
	for _, f := range []struct {
		name  string
		value *string
	}{{"username", username}, {"email", email}, {"password", password}} {
		if f.value == nil || strings.TrimSpace(*f.value) == "" {
			missing = append(missing, httpapi.FieldError{Field: f.name, Message: f.name + " is required"})
		}
	}
	if len(missing) > 0 {
		return user{}, "", &httpapi.Error{Status: http.StatusBadRequest, Message: "username, email, and password are required", Fields: missing}
	}
	u := user{ID: uuid.New(), Username: strings.TrimSpace(*username), Email: strings.TrimSpace(*email), Roles: []string{principal.RoleUser},
		CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}
	bad := append(checkNewName(u.Username), checkEmail(u.Email)...)
	if bad = append(bad, checkPassword("password", *password, u.Username)...); len(bad) > 0 {
		return user{}, "", invalidFields(bad)
	}
	return u, *password, nil
}

// conflicts shows which of a new user's names is taken.
func conflicts(err error) error {
	switch {
	case errors.Is(err, errNameTaken):
		return conflict("username", errNameTaken)
	case errors.Is(err, errEmailTaken):
		return conflict("email", errEmailTaken)
	case errors.Is(err, errBadInvitation):
		return &httpapi.Error{Status: http.StatusForbidden, Message: errBadInvitation.Error(),
			Fields: []httpapi.FieldError{{Field: "invitation", Message: errBadInvitation.Error()}}}
	case errors.Is(err, errTooMany):
		return orgRefusal(err)
	}
	return err
}

func conflict(field string, err error) *httpapi.Error {
	return &httpapi.Error{Status: http.StatusConflict, Message: err.Error(),
		Fields: []httpapi.FieldError{{Field: field, Message: err.Error()}}}
}
