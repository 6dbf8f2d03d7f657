package saga

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// Read answers how a purchase stands, to its owner, a member of its organisation or an
// administrator. To others it does not exist.
func (s *Service) Read(w http.ResponseWriter, r *http.Request) error {
	who, _ := principal.From(r.Context())
	row, err := s.find(r)
	if err != nil {
		return err
	}
	visible := who.Is(principal.RoleAdmin) || row.UserID.String() == who.UserID
	if !visible && row.OrgID != nil {
		org := row.OrgID.String()
		if visible = org == who.OrgID; !visible && who.OrgID == "" {
			if visible, err = s.member(r.Context(), org, who.UserID); err != nil {
				return err
			}
		}
	}
	if !visible {
		return notFound()
	}
	httpapi.WriteJSON(w, http.StatusOK, snapshotOf(row))
	return nil
}

// find reads the purchase that the path names.
func (s *Service) find(r *http.Request) (Saga, error) {
	id, err := canonical(r.PathValue("sagaId"))
	if err != nil {
		return Saga{}, bad("invalid sagaId")
	}
	return s.load(r, id)
}

func (s *Service) load(r *http.Request, id uuid.UUID) (Saga, error) {
	row, err := tokensdb.New(s.cfg.Pool).FindSaga(r.Context(), id)
	if errors.Is(err, pgx.ErrNoRows) {
		return row, notFound()
	}
	if err != nil {
		return row, s.storeError(r, err)
	}
	return row, nil
}

func notFound() *httpapi.Error { return httpapi.Fail(http.StatusNotFound, "purchase not found") }

// storeError is 503 while Postgres is away, else the error as it is.
func (s *Service) storeError(r *http.Request, err error) error {
	if _, known := errors.AsType[*httpapi.Error](err); known || r.Context().Err() != nil {
		return err
	}
	// Classes 53 (no resources) and 57 (shutting down) pass; other answers of Postgres are our
	// own mistakes. What is no answer at all is a Postgres that is away.
	answer, answered := errors.AsType[*pgconn.PgError](err)
	if answered && !strings.HasPrefix(answer.Code, "53") && !strings.HasPrefix(answer.Code, "57") {
		return err
	}
	s.said.Warn(r.Context(), "purchases cannot be read or written", err, slog.String("path", r.URL.Path))
	return httpapi.Unavailable("the token store is not available")
}
