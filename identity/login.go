package identity

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/principal"
)

// session is the answer to a registration and to a login (contract A1, A2).
type session struct {
	UserID    uuid.UUID `json:"userId"`
	Username  string    `json:"username"`
	Token     string    `json:"token"`
	Roles     []string  `json:"roles"`
	ExpiresIn int64     `json:"expiresIn"` // seconds
}

func (s *Service) session(u user, now time.Time) (session, error) {
	token, err := s.keys.issue(u, now)
	if err != nil {
		return session{}, err
	}
	return session{UserID: u.id, Username: u.username, Token: token, Roles: u.roles, ExpiresIn: int64(s.cfg.Auth.TokenTTL / time.Second)}, nil
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
	}
	if err := httpapi.ReadJSON(w, r, &body); err != nil {
		return session{}, err
	}
	u, password, err := newUser(body.Username, body.Email, body.Password)
	if err != nil {
		return session{}, err
	}
	if err := s.addUser(r, &u, password); err != nil {
		return session{}, err
	}
	return s.session(u, time.Now())
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
	u := user{id: uuid.New(), username: strings.TrimSpace(*username), email: strings.TrimSpace(*email), roles: []string{principal.RoleUser},
		created: time.Now().UTC().Truncate(time.Microsecond)}
	bad := append(checkUsername(u.username), checkEmail(u.email)...)
	if bad = append(bad, checkPassword(*password)...); len(bad) > 0 {
		return user{}, "", invalidFields(bad)
	}
	return u, *password, nil
}

func (s *Service) addUser(r *http.Request, u *user, password string) error {
	err := s.store.taken(r.Context(), u.username, u.email)
	if err == nil {
		if u.hash, err = s.passwords.hash(r.Context(), password); err != nil {
			return err
		}
		err = s.store.createUser(r.Context(), *u)
	}
	switch {
	case errors.Is(err, errNameTaken):
		return conflict("username", errNameTaken)
	case errors.Is(err, errEmailTaken):
		return conflict("email", errEmailTaken)
	}
	return err
}

func conflict(field string, err error) *httpapi.Error {
	return &httpapi.Error{Status: http.StatusConflict, Message: err.Error(), Fields: []httpapi.FieldError{{Field: field, Message: err.Error()}}}
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
	}
	if err := httpapi.ReadJSON(w, r, &body); err != nil {
		return session{}, err
	}
	name := strings.TrimSpace(body.Username)
	if name == "" || body.Password == "" {
		return session{}, httpapi.Fail(http.StatusUnauthorized, "username and password are required")
	}
	var u user
	var err error
	if usernameShape.MatchString(name) {
		if u, err = s.store.userByName(r.Context(), name); err != nil && !errors.Is(err, errNotFound) {
			return session{}, err
		}
	}
	ok, err := s.passwords.verify(r.Context(), u.hash, body.Password)
	if err != nil {
		return session{}, err
	}
	if !ok {
		return session{}, httpapi.Fail(http.StatusUnauthorized, "invalid credentials")
	}
	return s.session(u, time.Now())
}

// jwks is A7: GET /oauth2/jwks.
func (s *Service) jwks(w http.ResponseWriter, _ *http.Request) error {
	state := s.keys.state.Load()
	if state == nil {
		return errNoActiveKey
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=60")
	_, _ = w.Write(state.jwks)
	return nil
}

// writeSecret answers with a body that no cache may keep.
func writeSecret(w http.ResponseWriter, status int, body any) error {
	w.Header().Set("Cache-Control", "no-store")
	httpapi.WriteJSON(w, status, body)
	return nil
}
