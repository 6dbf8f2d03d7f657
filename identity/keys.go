package identity

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/apikey"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

type keyView struct {
	ID        uuid.UUID  `json:"id"`
	Name      *string    `json:"name"`
	CreatedAt time.Time  `json:"createdAt"`
	ExpiresAt *time.Time `json:"expiresAt"`
	OrgID     *uuid.UUID `json:"orgId"`      // organisation it acts for
	LastUsed  *time.Time `json:"lastUsedAt"` // exact to a minute or two
}

type newKeyView struct {
	ID        uuid.UUID  `json:"id"`
	UserID    uuid.UUID  `json:"userId"`
	Name      *string    `json:"name"`
	CreatedAt time.Time  `json:"createdAt"`
	ExpiresAt *time.Time `json:"expiresAt"`
	OrgID     *uuid.UUID `json:"orgId"`
	APIKey    string     `json:"apiKey"` // shown this once
}

// createKey is A3: POST /api/v1/auth/api-keys.
func (s *Service) createKey(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	answer, err := s.tryCreateKey(w, r, p)
	s.metrics.keyCreate.count(err)
	if err != nil {
		return err
	}
	return writeSecret(w, http.StatusCreated, answer)
}

func (s *Service) tryCreateKey(w http.ResponseWriter, r *http.Request, p principal.Principal) (newKeyView, error) {
	var body struct {
		UserID    *string `json:"userId"`
		Name      *string `json:"name"`
		ExpiresAt *string `json:"expiresAt"`
		OrgID     *string `json:"orgId"`
	}
	if err := httpapi.ReadJSON(w, r, &body); err != nil {
		return newKeyView{}, err
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	user, err := owner(p, body.UserID)
	if err != nil {
		return newKeyView{}, err
	}
	name, err := keyName(body.Name)
	if err != nil {
		return newKeyView{}, err
	}
	expires, err := expiry(body.ExpiresAt, now)
	if err != nil {
		return newKeyView{}, err
	}
	org, err := optionalID("orgId", body.OrgID)
	if err != nil {
		return newKeyView{}, err
	}
	if org == nil && s.cfg.Auth.RequireOrg {
		return newKeyView{}, invalid("orgId", "orgId is required: keys act for an organisation here")
	}
	secret := apikey.New(user)
	k := identitydb.AddKeyParams{ID: uuid.New(), UserID: user, KeyValue: apikey.Hash(secret), Name: name, CreatedAt: now, ExpiresAt: expires,
		OrgID: org}
	switch err := s.store.createKey(r.Context(), k); {
	case errors.Is(err, errNotFound):
		return newKeyView{}, invalid("userId", "user not found")
	case errors.Is(err, errNotMember):
		return newKeyView{}, httpapi.Fail(http.StatusForbidden, "orgId: the key's owner is not a member of this organisation")
	case errors.Is(err, errTooManyKeys):
		return newKeyView{}, httpapi.Fail(http.StatusConflict, "a user may have at most %d API keys: revoke one first", maxKeys)
	case err != nil:
		return newKeyView{}, err
	}
	return newKeyView{ID: k.ID, UserID: k.UserID, Name: k.Name, CreatedAt: k.CreatedAt, ExpiresAt: k.ExpiresAt, OrgID: k.OrgID,
		APIKey: secret}, nil
}

// listKeys is A4: GET /api/v1/auth/api-keys?userId=.
func (s *Service) listKeys(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	given, err := queryValue(r, "userId")
	if err != nil {
		return err
	}
	user, err := owner(p, given)
	if err != nil {
		return err
	}
	keys, err := s.store.listKeys(r.Context(), user)
	if err != nil {
		return err
	}
	views := make([]keyView, len(keys))
	for i, k := range keys {
		views[i] = keyView{ID: k.ID, Name: k.Name, CreatedAt: k.CreatedAt.UTC(), ExpiresAt: utc(k.ExpiresAt), OrgID: k.OrgID,
			LastUsed: utc(k.LastUsedAt)}
	}
	httpapi.WriteJSON(w, http.StatusOK, views)
	return nil
}

// revokeKey is A5: DELETE /api/v1/auth/api-keys?userId=&apiKeyId=.
func (s *Service) revokeKey(w http.ResponseWriter, r *http.Request, p principal.Principal) error {
	given, err := queryValue(r, "userId")
	if err != nil {
		return err
	}
	user, err := owner(p, given)
	if err != nil {
		return err
	}
	named, err := queryValue(r, "apiKeyId")
	if err != nil {
		return err
	}
	if named == nil || *named == "" {
		return invalid("apiKeyId", "apiKeyId is required")
	}
	id, err := parseID(*named)
	if err != nil {
		return invalid("apiKeyId", "invalid apiKeyId")
	}
	err = s.store.deleteKey(r.Context(), user, id)
	if errors.Is(err, errNotFound) {
		return httpapi.Fail(http.StatusNotFound, "api key not found")
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// validity is what extauthz learns of a key: A6 and what it needs beyond.
type validity struct {
	UserID     uuid.UUID  `json:"userId"`
	KeyID      uuid.UUID  `json:"keyId"`
	Name       *string    `json:"name"`
	ExpiresAt  *time.Time `json:"expiresAt"`
	Roles      []string   `json:"roles"`
	OrgID      *uuid.UUID `json:"orgId,omitzero"` // organisation the key acts for
	Team       string     `json:"team,omitzero"`  // its owner's there
	Generation int64      `json:"generation"`     // its owner's
}

// validateKey is A6: GET /api/v1/auth/api-keys/validate, for extauthz alone.
func (s *Service) validateKey(w http.ResponseWriter, r *http.Request) error {
	values := r.Header.Values("X-Api-Key")
	if len(values) == 0 || values[0] == "" {
		s.metrics.validate("failure", "missing")
		return httpapi.Fail(http.StatusUnauthorized, "api key is required")
	}
	claimed, err := apikey.Parse(values[0])
	if err != nil || len(values) > 1 {
		s.metrics.validate("failure", "invalid")
		return httpapi.Fail(http.StatusUnauthorized, "invalid api key")
	}
	k, err := s.store.keyByHash(r.Context(), apikey.Hash(values[0]))
	switch {
	case errors.Is(err, errNotFound) || err == nil && k.UserID != claimed:
		s.metrics.validate("failure", "invalid")
		return httpapi.Fail(http.StatusUnauthorized, "invalid api key")
	case err != nil:
		s.metrics.validate("failure", "unavailable")
		return fmt.Errorf("validate key: %w", err)
	case k.Disabled || k.OrgID != nil && !k.Member || k.OrgID == nil && s.cfg.Auth.RequireOrg:
		s.metrics.validate("failure", "revoked")
		return httpapi.Fail(http.StatusUnauthorized, "invalid api key")
	case k.ExpiresAt != nil && !time.Now().Before(*k.ExpiresAt):
		s.metrics.validate("failure", "expired")
		return httpapi.Fail(http.StatusUnauthorized, apikey.Expired)
	}
	if err := s.store.touchKey(r.Context(), k); err != nil {
		s.said.Warn(r.Context(), "last use of a key not noted", err, slog.Any("key", k.ID)) // the key is good all the same
	}
	s.metrics.validate("success", "none")
	return writeSecret(w, http.StatusOK, validity{UserID: k.UserID, KeyID: k.ID, Name: k.Name, ExpiresAt: utc(k.ExpiresAt),
		Roles: k.Roles, OrgID: k.OrgID, Team: k.Team, Generation: k.Generation})
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}
