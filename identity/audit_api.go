package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/identity/audit"
	"github.com/leaky-tokens/leaky-tokens/identity/identitydb"
	"github.com/leaky-tokens/leaky-tokens/identity/keyring"
	"github.com/leaky-tokens/leaky-tokens/identity/revocations"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// auditView is one entry of the trail.
type auditView struct {
	ID        int64           `json:"id"`
	At        time.Time       `json:"at"`
	Actor     string          `json:"actor"`
	Client    string          `json:"client,omitempty"`
	IP        string          `json:"ip,omitempty"`
	UserAgent string          `json:"userAgent,omitempty"`
	Action    string          `json:"action"`
	Target    string          `json:"target,omitempty"`
	Outcome   string          `json:"outcome"`
	Detail    json.RawMessage `json:"detail"`
}

// listAudit is GET /api/v1/admin/audit?actor=&action=&target=&since=&until=&before=&limit=:
// the newest entries first. before is the id of the last entry of the page before; the
// Link header leads on.
func (s *Service) listAudit(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	query, err := texts(r, "actor", "action", "target", "since", "until", "before")
	if err != nil {
		return err
	}
	limit, err := pageLimit(r)
	if err != nil {
		return err
	}
	which := identitydb.ListAuditParams{Actor: query["actor"], Action: query["action"], Target: query["target"], Most: int32(limit)}
	if text := query["before"]; text != "" {
		if which.Before, err = strconv.ParseInt(text, 10, 64); err != nil || which.Before < 1 {
			return invalid("before", "before must be the id of an entry")
		}
	}
	if which.Since, err = moment("since", query["since"]); err != nil {
		return err
	}
	if which.Until, err = moment("until", query["until"]); err != nil {
		return err
	}
	rows, err := s.store.listAudit(r.Context(), which)
	if err != nil {
		return err
	}
	views := make([]auditView, len(rows))
	for i, e := range rows {
		views[i] = auditView{ID: e.ID, At: e.At.UTC(), Actor: e.Actor, Client: e.Client, IP: e.Ip, UserAgent: e.UserAgent,
			Action: e.Action, Target: e.Target, Outcome: e.Outcome, Detail: e.Detail}
	}
	if len(rows) == limit {
		next := r.URL.Query()
		next.Set("before", strconv.FormatInt(rows[limit-1].ID, 10))
		next.Set("limit", strconv.Itoa(limit))
		nextPage(w, r, next)
	}
	httpapi.WriteJSON(w, http.StatusOK, views)
	return nil
}

// moment reads an RFC 3339 time, nil for none. Years that Postgres does not take are refused.
func moment(field, text string) (*time.Time, error) {
	if text == "" {
		return nil, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || at.Year() < 1 {
		return nil, invalid(field, field+" must be an RFC 3339 date-time")
	}
	return &at, nil
}

func (s store) listAudit(ctx context.Context, which identitydb.ListAuditParams) ([]identitydb.AuditLog, error) {
	ctx, cancel, q := s.read(ctx)
	defer cancel()
	rows, err := q.ListAudit(ctx, which)
	if err != nil {
		return nil, fmt.Errorf("list audit entries: %w", err)
	}
	return rows, nil
}

// listSigningKeys is GET /api/v1/admin/keys: the published keys, the newest first.
func (s *Service) listSigningKeys(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	infos, err := s.keys.List(r.Context())
	if err != nil {
		return err
	}
	httpapi.WriteJSON(w, http.StatusOK, infos)
	return nil
}

// rotateSigningKeys is POST /api/v1/admin/keys/rotate: 201 with the published keys. The new
// key signs after auth.rotate_ahead; the others go once what they signed has expired.
func (s *Service) rotateSigningKeys(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	_, err := s.keys.Rotate(r.Context(), func(tx pgx.Tx, kid string) error {
		return audit.Record(r.Context(), tx, audit.Entry{Action: "signing_key.rotate", Target: kid})
	})
	if errors.Is(err, keyring.ErrTooSoon) {
		return httpapi.Fail(http.StatusConflict, "%s", keyring.ErrTooSoon.Error())
	}
	if err != nil {
		return err
	}
	infos, err := s.keys.List(r.Context())
	if err != nil {
		return err
	}
	httpapi.WriteJSON(w, http.StatusCreated, infos)
	return nil
}

// withdrawSigningKey is POST /api/v1/admin/keys/{id}/withdraw, for a key that has leaked: 200 with the keys
// that are published now. Every token that it signed ends, on every extauthz and within a second.
func (s *Service) withdrawSigningKey(w http.ResponseWriter, r *http.Request, _ principal.Principal) error {
	kid := r.PathValue("id")
	ended := revocation.Revocation{Kind: revocation.Signer, ID: kid, Until: time.Now().Add(withdrawnFor).UTC()}
	err := s.keys.Withdraw(r.Context(), kid, func(tx pgx.Tx) error {
		if err := revocations.Record(r.Context(), tx, ended); err != nil {
			return err
		}
		return audit.Record(r.Context(), tx, audit.Entry{Action: "signing_key.withdraw", Target: kid})
	})
	if errors.Is(err, keyring.ErrUnknownKey) {
		return httpapi.Fail(http.StatusNotFound, "no such key is published")
	}
	if err != nil {
		return err
	}
	s.announcer.Announce(ended)
	return s.listSigningKeys(w, r, principal.Principal{})
}

// withdrawnFor is how long a withdrawn key is remembered: longer than anybody keeps a key set.
const withdrawnFor = 24 * time.Hour

// listRevocations is GET /internal/revocations, for extauthz alone.
func (s *Service) listRevocations(w http.ResponseWriter, r *http.Request) error {
	list, err := revocations.List(r.Context(), s.store.pool)
	if err != nil {
		return err
	}
	return writeSecret(w, http.StatusOK, list)
}
