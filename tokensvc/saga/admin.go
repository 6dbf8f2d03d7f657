package saga

import (
	"encoding/base64"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// Report is a purchase as an administrator sees it.
type Report struct {
	snapshot
	Account     string     `json:"account"`
	Price       int64      `json:"pricePerMillion"` // minor units
	PaymentID   string     `json:"paymentId,omitzero"`
	Backward    bool       `json:"backward"`  // it is being undone
	Recovered   bool       `json:"recovered"` // the recovery job drove it on
	Attempts    int32      `json:"attempts"`  // failed tries of the present step
	LastError   string     `json:"lastError,omitzero"`
	ParkedAt    *time.Time `json:"parkedAt"`
	ParkReason  string     `json:"parkReason,omitzero"`
	NextAt      *time.Time `json:"nextAt"` // when a worker looks at it
	LeaseOwner  string     `json:"leaseOwner,omitzero"`
	LeaseUntil  *time.Time `json:"leaseUntil"`
	NextAction  Action     `json:"nextAction,omitzero"`
	AgeSeconds  float64    `json:"ageSeconds"`
	Steps       []Step     `json:"steps,omitempty"` // of one purchase only
	Correlation string     `json:"correlationId,omitzero"`
}

// Step is one that was taken.
type Step struct {
	Status   Status    `json:"status"` // after it
	Action   string    `json:"action"`
	Detail   string    `json:"detail,omitzero"`
	Attempts int32     `json:"attempts"`
	At       time.Time `json:"at"`
}

// Page is a part of the list, newest first.
type Page struct {
	Items []Report `json:"items"`
	Next  string   `json:"next,omitzero"` // ?cursor= of the next page; empty: no more
}

func report(row Saga) Report {
	return Report{snapshot: snapshotOf(row), Account: account(row), Price: row.Price, PaymentID: row.PaymentID, Backward: row.Backward,
		Recovered: row.Recovered,
		Attempts:  row.Attempts, LastError: row.LastError, ParkedAt: row.ParkedAt, ParkReason: row.ParkReason, NextAt: row.NextAt,
		LeaseOwner: row.LeaseOwner,
		LeaseUntil: row.LeaseUntil, NextAction: position(row).Next(), AgeSeconds: time.Since(row.CreatedAt).Seconds(),
		Correlation: row.CorrelationID}
}

func isAdmin(r *http.Request) error {
	if who, _ := principal.From(r.Context()); !who.Is(principal.RoleAdmin) {
		return httpapi.Fail(http.StatusForbidden, "role ADMIN is required")
	}
	return nil
}

// List answers GET /api/v1/admin/sagas?status=&parked=&open=&limit=&cursor=.
func (s *Service) List(w http.ResponseWriter, r *http.Request) error {
	if err := isAdmin(r); err != nil {
		return err
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return bad("malformed query string")
	}
	p, err := listParams(query)
	if err != nil {
		return err
	}
	rows, err := tokensdb.New(s.cfg.Pool).ListSagas(r.Context(), p)
	if err != nil {
		return s.storeError(r, err)
	}
	page := Page{Items: make([]Report, 0, len(rows))}
	if len(rows) == int(p.Most) {
		rows = rows[:len(rows)-1]
		page.Next = cursor(rows[len(rows)-1])
	}
	for _, row := range rows {
		page.Items = append(page.Items, report(row))
	}
	httpapi.WriteJSON(w, http.StatusOK, page)
	return nil
}

// listParams asks for one row more than the page has, to know whether there is a next one.
func listParams(query url.Values) (tokensdb.ListSagasParams, error) {
	p := tokensdb.ListSagasParams{Status: strings.ToUpper(strings.TrimSpace(query.Get("status"))), Before: time.Unix(math.MaxInt32,
		0).AddDate(1000, 0, 0), BeforeID: uuid.Max}
	if p.Status != "" && !slices.Contains([]Status{Started, PaymentReserved, TokensAllocated, Completed, Failed}, Status(p.Status)) {
		return p, bad("unknown status")
	}
	limit, err := strconv.ParseInt(orElse(query.Get("limit"), "50"), 10, 32)
	if err != nil || limit < 1 || limit > 500 {
		return p, bad("limit must be 1 to 500")
	}
	p.Most = int32(limit) + 1
	for name, flag := range map[string]*bool{"parked": &p.Parked, "open": &p.Open} {
		if *flag, err = strconv.ParseBool(orElse(query.Get(name), "false")); err != nil {
			return p, bad("%s must be true or false", name)
		}
	}
	if text := query.Get("cursor"); text != "" {
		if p.Before, p.BeforeID, err = readCursor(text); err != nil {
			return p, bad("invalid cursor")
		}
	}
	return p, nil
}

func orElse(text, missing string) string {
	if text == "" {
		return missing
	}
	return text
}

// cursor names the last row of a page.
func cursor(row Saga) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", row.CreatedAt.UnixMicro(), row.ID))
}

func readCursor(text string) (time.Time, uuid.UUID, error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return time.Time{}, uuid.Nil, err
	}
	micros, name, _ := strings.Cut(string(raw), " ")
	n, err := strconv.ParseInt(micros, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt32*int64(1_000_000) {
		return time.Time{}, uuid.Nil, fmt.Errorf("time %q is out of range", micros)
	}
	id, err := canonical(name)
	return time.UnixMicro(n).UTC(), id, err
}

// Show answers GET /api/v1/admin/sagas/{sagaId}: everything, with the steps.
func (s *Service) Show(w http.ResponseWriter, r *http.Request) error {
	if err := isAdmin(r); err != nil {
		return err
	}
	row, err := s.find(r)
	if err != nil {
		return err
	}
	full := report(row)
	steps, err := tokensdb.New(s.cfg.Pool).ListSagaSteps(r.Context(), row.ID)
	if err != nil {
		return s.storeError(r, err)
	}
	for _, step := range steps {
		full.Steps = append(full.Steps, Step{Status: Status(step.Status), Action: step.Action, Detail: step.Detail, Attempts: step.Attempts,
			At: step.At.UTC()})
	}
	httpapi.WriteJSON(w, http.StatusOK, full)
	return nil
}

// Retry answers POST /api/v1/admin/sagas/{sagaId}/retry: go on now, parked or not.
func (s *Service) Retry(w http.ResponseWriter, r *http.Request) error { return s.resume(w, r, false) }

// Cancel answers POST /api/v1/admin/sagas/{sagaId}/cancel: undo it. One whose payment turns
// out to be captured is completed nevertheless.
func (s *Service) Cancel(w http.ResponseWriter, r *http.Request) error { return s.resume(w, r, true) }

func (s *Service) resume(w http.ResponseWriter, r *http.Request, back bool) error {
	if err := isAdmin(r); err != nil {
		return err
	}
	row, err := s.find(r)
	if err != nil {
		return err
	}
	who, _ := principal.From(r.Context())
	db := tokensdb.New(s.cfg.Pool)
	action, failure := "retry", ""
	if back {
		action, failure = "cancel", "cancelled by an administrator"
	}
	changed, err := db.ResumeSaga(r.Context(), tokensdb.ResumeSagaParams{ID: row.ID, Back: back, Failure: failure, Action: action,
		Detail: "by " + who.UserID})
	if err != nil {
		return s.storeError(r, err)
	}
	if changed == 0 {
		return httpapi.Fail(http.StatusConflict, "the purchase is finished")
	}
	s.awake()
	if row, err = s.load(r, row.ID); err != nil {
		return err
	}
	httpapi.WriteJSON(w, http.StatusOK, report(row))
	return nil
}
