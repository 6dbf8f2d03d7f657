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

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
)

// pageSize is how many users a listing gives unless asked for fewer.
const pageSize = 100

type userView struct {
	ID         uuid.UUID  `json:"id"`
	Username   string     `json:"username"`
	Email      string     `json:"email"`
	Roles      []string   `json:"roles"`
	Tier       string     `json:"tier"`
	CreatedAt  time.Time  `json:"createdAt"`
	DisabledAt *time.Time `json:"disabledAt,omitempty"`
}

// meView is what a user sees of themselves.
type meView struct {
	userView
	Organisations []orgView `json:"organisations"`
	standing
}

func (s *Service) view(u user) userView {
	return userView{ID: u.ID, Username: u.Username, Email: u.Email, Roles: u.Roles, Tier: s.tier(u.Roles), CreatedAt: u.CreatedAt.UTC(),
		DisabledAt: utc(u.DisabledAt)}
}

func (s *Service) tier(roles []string) string { return principal.TierOf(roles, s.cfg.Tiers) }

// me is GET /api/v1/me: who the caller is, from the database and not from the token, and
// how they stand with their limits.
func (s *Service) me(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	u, err := s.self(r, p)
	if err != nil {
		return err
	}
	orgs, err := s.orgViews(r.Context(), u.ID)
	if err != nil {
		return err
	}
	view := s.view(u)
	httpapi.WriteJSON(w, http.StatusOK, meView{userView: view, Organisations: orgs, standing: s.stand(r.Context(), p, view.Tier)})
	return nil
}

// pageLimit is the query's limit, 1 to 1000.
func pageLimit(r *http.Request) (int, error) {
	text, err := queryValue(r, "limit")
	if err != nil || text == nil {
		return pageSize, err
	}
	n, err := strconv.Atoi(*text)
	if err != nil || n < 1 || n > 1000 {
		return 0, invalid("limit", "limit must be 1 to 1000")
	}
	return n, nil
}

// nextPage tells where the listing goes on (RFC 8288).
func nextPage(w http.ResponseWriter, r *http.Request, query url.Values) {
	w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.URL.Path, query.Encode()))
}

// texts reads query parameters that are single, short and printable; absent ones are empty.
func texts(r *http.Request, names ...string) (map[string]string, error) {
	values := map[string]string{}
	for _, name := range names {
		value, err := queryValue(r, name)
		if err != nil {
			return nil, err
		}
		if value == nil {
			continue
		}
		if len(*value) > 200 || !printable(*value) {
			return nil, invalid(name, name+" must be at most 200 bytes without control characters")
		}
		values[name] = *value
	}
	return values, nil
}

// listUsers is GET /api/v1/admin/users?q=&role=&disabled=&after=&limit=: an array by name. q
// is a part of the name or the e-mail.
func (s *Service) listUsers(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	query, err := texts(r, "q", "role", "disabled", "after")
	if err != nil {
		return err
	}
	limit, err := pageLimit(r)
	if err != nil {
		return err
	}
	which := identitydb.ListUsersParams{After: query["after"], Part: query["q"], Role: query["role"], Most: int32(limit)}
	if which.After != "" && !usernameShape.MatchString(which.After) {
		return invalid("after", "after must be a username")
	}
	if text := query["disabled"]; text != "" {
		if text != "true" && text != "false" {
			return invalid("disabled", "disabled must be true or false")
		}
		disabled := text == "true"
		which.Disabled = &disabled
	}
	users, err := s.store.listUsers(r.Context(), which)
	if err != nil {
		return err
	}
	views := make([]userView, len(users))
	for i, u := range users {
		views[i] = s.view(u)
	}
	if len(users) == limit {
		next := r.URL.Query()
		next.Set("after", users[limit-1].Username)
		next.Set("limit", strconv.Itoa(limit))
		nextPage(w, r, next)
	}
	httpapi.WriteJSON(w, http.StatusOK, views)
	return nil
}

// setRoles is PUT /api/v1/admin/users/{id}/roles {roles}: replaces all roles.
func (s *Service) setRoles(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	id, err := pathID(r, "id", "user")
	if err != nil {
		return err
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
	err = s.store.setRoles(r.Context(), id, roles)
	if errors.Is(err, errUnknownRole) {
		return invalid("roles", "unknown role")
	}
	return s.answerUser(w, r, id, err)
}

// setDisabled is POST /api/v1/admin/users/{id}/disable and /enable. A disabled user cannot
// log in, and nothing they were issued works; their API keys work again once they are enabled.
func (s *Service) setDisabled(disabled bool) callerFunc {
	return func(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
		id, err := pathID(r, "id", "user")
		if err != nil {
			return err
		}
		return s.answerUser(w, r, id, s.store.setDisabled(r.Context(), id, disabled))
	}
}

// answerUser shows a user after a change, or why it was refused.
func (s *Service) answerUser(w http.ResponseWriter, r *http.Request, id uuid.UUID, err error) error {
	switch {
	case errors.Is(err, errNotFound):
		return httpapi.Fail(http.StatusNotFound, "user not found")
	case errors.Is(err, errLastAdmin):
		return httpapi.Fail(http.StatusConflict, "%s", errLastAdmin.Error())
	case err != nil:
		return err
	}
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
	return s.store.change(ctx, func(ctx context.Context, c *change) error {
		if err := c.LockIdentity(ctx); err != nil {
			return fmt.Errorf("lock identity: %w", err)
		}
		found, err := c.AnyAdmin(ctx)
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
		u := user{ID: uuid.New(), Username: first.Username, Email: first.Username + "@localhost", PasswordHash: hash,
			Roles: []string{principal.RoleAdmin, principal.RoleUser}, CreatedAt: time.Now().UTC().Truncate(time.Microsecond)}
		if err := insertUser(ctx, c, u); err != nil {
			return fmt.Errorf("first administrator %q: %w", first.Username, err)
		}
		return audit.Record(ctx, c, audit.Entry{Actor: audit.System, Action: "user.register", Target: u.ID.String(),
			Detail: map[string]string{"username": u.Username}})
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
	if bad := append(checkUsername(first.Username), checkPassword("password", first.Password, first.Username)...); len(bad) > 0 {
		return first, fmt.Errorf("%w: %s: %s", errBadAdminFile, path, bad[0].Message)
	}
	return first, nil
}
