package identity

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
)

// pageSize is how many users a listing gives unless asked for fewer.
const pageSize = 100

type userView struct {
	ID        uuid.UUID `json:"id"`
	Username  string    `json:"username"`
	Email     string    `json:"email"`
	Roles     []string  `json:"roles"`
	Tier      string    `json:"tier"`
	CreatedAt time.Time `json:"createdAt"`
}

func (s *Service) view(u user) userView {
	return userView{ID: u.id, Username: u.username, Email: u.email, Roles: u.roles, Tier: s.tier(u.roles), CreatedAt: u.created.UTC()}
}

func (s *Service) tier(roles []string) string { return principal.TierOf(roles, s.cfg.Tiers) }

// me is GET /api/v1/me: who the caller is, from the database and not from the token.
func (s *Service) me(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	id, err := parseID(p.UserID)
	if err != nil {
		return err
	}
	u, err := s.store.userByID(r.Context(), id)
	if errors.Is(err, errNotFound) {
		return httpapi.Fail(http.StatusUnauthorized, "the account is gone")
	}
	if err != nil {
		return err
	}
	httpapi.WriteJSON(w, http.StatusOK, s.view(u))
	return nil
}

// listUsers is GET /api/v1/admin/users?after=&limit=: an array by name. The Link
// header (RFC 8288) leads to the next page.
func (s *Service) listUsers(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	after, limit := r.URL.Query().Get("after"), pageSize
	if after != "" && !usernameShape.MatchString(after) {
		return invalid("after", "after must be a username")
	}
	if text := r.URL.Query().Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 1000 {
			return invalid("limit", "limit must be 1 to 1000")
		}
		limit = n
	}
	users, err := s.store.listUsers(r.Context(), after, limit)
	if err != nil {
		return err
	}
	views := make([]userView, len(users))
	for i, u := range users {
		views[i] = s.view(u)
	}
	if len(users) == limit {
		next := url.Values{"after": {users[limit-1].username}, "limit": {strconv.Itoa(limit)}}
		w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.URL.Path, next.Encode()))
	}
	httpapi.WriteJSON(w, http.StatusOK, views)
	return nil
}

// setRoles is PUT /api/v1/admin/users/{id}/roles {roles}: replaces all roles.
func (s *Service) setRoles(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	id, err := parseID(r.PathValue("id"))
	if err != nil {
		return invalid("id", "invalid user id")
	}
	var body struct {
		Roles []string `json:"roles"`
	}
	if err := httpapi.ReadJSON(w, r, &body); err != nil {
		return err
	}
	slices.Sort(body.Roles)
	roles := slices.Compact(body.Roles)
	if len(roles) == 0 || len(roles) > 32 || slices.ContainsFunc(roles, func(s string) bool { return !roleShape.MatchString(s) }) {
		return invalid("roles", "roles must name 1 to 32 known roles")
	}
	switch err := s.store.setRoles(r.Context(), id, roles); {
	case errors.Is(err, errNotFound):
		return httpapi.Fail(http.StatusNotFound, "user not found")
	case errors.Is(err, errUnknownRole):
		return invalid("roles", "unknown role")
	case errors.Is(err, errLastAdmin):
		return httpapi.Fail(http.StatusConflict, "%s", errLastAdmin.Error())
	case err != nil:
		return err
	}
	s.revoked.user(id.String())
	u, err := s.store.userByID(r.Context(), id)
	if err != nil {
		return err
	}
	httpapi.WriteJSON(w, http.StatusOK, s.view(u))
	return nil
}

var errBadAdminFile = errors.New("first administrator")

type adminFile struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// ensureAdmin makes the first administrator when there is none: the configured one,
// else one with a random password, which is written to path before the account exists.
func (s *Service) ensureAdmin(ctx context.Context, path string) error {
	return s.store.exclusively(ctx, func(tx pgx.Tx) error {
		found, err := anyAdmin(ctx, tx)
		if err != nil || found {
			return err
		}
		first, err := s.firstAdmin(path)
		if err != nil {
			return err
		}
		hash, err := s.passwords.hash(ctx, first.Password)
		if err != nil {
			return err
		}
		u := user{id: uuid.New(), username: first.Username, email: first.Username + "@localhost", hash: hash,
			roles: []string{principal.RoleAdmin, principal.RoleUser}, created: time.Now().UTC().Truncate(time.Microsecond)}
		if err := insertUser(ctx, tx, u); err != nil {
			return fmt.Errorf("first administrator %q: %w", first.Username, err)
		}
		return nil
	})
}

func (s *Service) firstAdmin(path string) (first adminFile, err error) {
	if s.cfg.AdminUsername != "" {
		return adminFile{Username: s.cfg.AdminUsername, Password: s.cfg.AdminPassword}, nil
	}
	text, err := secretfile.LoadOrCreate(path, func() ([]byte, error) {
		return json.Marshal(adminFile{Username: "admin", Password: rand.Text()})
	})
	if err != nil {
		return first, fmt.Errorf("%w: %w", errBadAdminFile, err)
	}
	if err := json.Unmarshal(text, &first); err != nil {
		return first, fmt.Errorf("%w: %s is not JSON", errBadAdminFile, path)
	}
	if bad := append(checkUsername(first.Username), checkPassword(first.Password)...); len(bad) > 0 {
		return first, fmt.Errorf("%w: %s: %s", errBadAdminFile, path, bad[0].Message)
	}
	return first, nil
}
