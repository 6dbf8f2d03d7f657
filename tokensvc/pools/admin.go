package pools

import (
	"context"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

const (
	// headerKey may stand for the reference of a body.
	headerKey = "Idempotency-Key"
	// longest texts of an order, in bytes.
	longestReason, longestReference = 500, 100
)

// order is what an ADMIN sends. Pointers tell what is missing from what is zero.
type order struct {
	UserID    *string    `json:"userId"`
	OrgID     *string    `json:"orgId"`
	Provider  *string    `json:"provider"`
	Tokens    *int64     `json:"tokens"`
	Reason    *string    `json:"reason"`
	Reference *string    `json:"reference"` // makes it happen once; Idempotency-Key says the same
	ExpiresAt *time.Time `json:"expiresAt"`
	Refill    *string    `json:"refill"` // window or never; the pool must refill so, or be made now
}

// checked is an order that makes sense.
type checked struct {
	target
	tokens            int64
	reference, reason string
	expires           *time.Time
	refill            string
	actor             uuid.UUID
}

// changed is the answer: the pool as it is afterwards.
type changed struct {
	quotaAnswer
	Reference string `json:"reference"`
}

// grant gives tokens.
func (a *API) grant(w http.ResponseWriter, r *http.Request) error {
	o, err := a.read(w, r, "grant", nil)
	if err != nil {
		return err
	}
	return a.credit(w, r, http.StatusOK, o, ledger.KindAdjustment)
}

// refund gives spent tokens back; in a pool that refills, until the window ends.
func (a *API) refund(w http.ResponseWriter, r *http.Request) error {
	o, err := a.read(w, r, "refund", nil)
	if err != nil {
		return err
	}
	return a.credit(w, r, http.StatusOK, o, ledger.KindRefund)
}

// grantOrg is the predecessor's way to give an organisation its quota: without a reason.
func (a *API) grantOrg(w http.ResponseWriter, r *http.Request) error {
	o, err := a.read(w, r, "grant", func(o *order) {
		o.UserID = nil
		if o.OrgID == nil {
			o.OrgID = new(string)
		}
		if o.Reason == nil {
			reason := "quota of the organisation"
			o.Reason = &reason
		}
	})
	if err != nil {
		return err
	}
	return a.credit(w, r, http.StatusCreated, o, ledger.KindAdjustment)
}

// adjust gives tokens or, with a negative number, takes unspent ones.
func (a *API) adjust(w http.ResponseWriter, r *http.Request) error {
	o, err := a.read(w, r, "adjust", nil)
	if err != nil {
		return err
	}
	if o.tokens > 0 {
		return a.credit(w, r, http.StatusOK, o, ledger.KindAdjustment)
	}
	return a.write(w, r, http.StatusOK, o, func(ctx context.Context, tx pgx.Tx) error {
		return ledger.Withdraw(ctx, tx, ledger.Withdrawal{Account: o.key().Account, Provider: o.provider, Tokens: -o.tokens,
			Reference: o.reference,
			Reason:    o.reason, Actor: o.actor})
	})
}

func (a *API) credit(w http.ResponseWriter, r *http.Request, status int, o checked, kind string) error {
	return a.write(w, r, status, o, func(ctx context.Context, tx pgx.Tx) error {
		return ledger.Credit(ctx, tx, ledger.Purchase{Account: o.key().Account, UserID: o.actor, Provider: o.provider, Tokens: o.tokens,
			Kind:      kind,
			Reference: o.reference, Reason: o.reason, ExpiresAt: o.expires, Policy: a.cfg.Policy(), Refill: o.refill})
	})
}

// write does what f does and answers with the pool.
func (a *API) write(w http.ResponseWriter, r *http.Request, status int, o checked, f func(ctx context.Context, tx pgx.Tx) error) error {
	if !a.cfg.Ready() {
		return a.fail(r, ErrNotReady)
	}
	ctx, cancel := a.bounded(r)
	defer cancel()
	var pool ledger.Pool
	err := pgx.BeginFunc(ctx, a.cfg.DB, func(tx pgx.Tx) error {
		err := f(ctx, tx)
		if err == nil {
			pool, err = ledger.Find(ctx, tx, o.key())
		}
		return err
	})
	if err != nil {
		return a.fail(r, err)
	}
	httpapi.WriteJSON(w, status, changed{quotaAnswer: answerOf(pool), Reference: o.reference})
	return nil
}

// read takes an order from the body. complete may fill in what it lacks.
func (a *API) read(w http.ResponseWriter, r *http.Request, action string, complete func(*order)) (checked, error) {
	var body order
	if err := httpapi.ReadJSON(w, r, &body); err != nil {
		return checked{}, err
	}
	if complete != nil {
		complete(&body)
	}
	who, _ := principal.From(r.Context())
	actor, err := uuid.Parse(who.UserID)
	if err != nil {
		return checked{}, bad("the caller is no user")
	}
	o, err := body.check(action, r.Header.Get(headerKey), time.Now())
	if err != nil {
		return checked{}, err
	}
	if !a.known(o.provider) {
		return checked{}, bad("unknown provider")
	}
	o.actor = actor
	return o, nil
}

// check finds what is wrong with an order, in the order of its fields.
func (b order) check(action, key string, now time.Time) (checked, error) {
	o := checked{reason: strings.TrimSpace(text(b.Reason)), expires: b.ExpiresAt, refill: strings.TrimSpace(text(b.Refill))}
	var err error
	var id uuid.UUID
	switch user, org := strings.TrimSpace(text(b.UserID)), strings.TrimSpace(text(b.OrgID)); {
	case b.UserID != nil && b.OrgID != nil && user != "" && org != "":
		return o, bad("userId and orgId exclude each other")
	case org != "":
		o.target, id, err = parseTarget(org, text(b.Provider), "invalid orgId")
		o.org = id
	case user != "":
		o.target, id, err = parseTarget(user, text(b.Provider), "invalid userId")
		o.user = id
	case b.OrgID != nil && b.UserID == nil:
		return o, bad("orgId is required")
	default:
		return o, bad("userId or orgId is required")
	}
	if err != nil {
		return o, err
	}
	switch {
	case b.Tokens == nil || *b.Tokens == 0 || action != "adjust" && *b.Tokens < 0:
		return o, bad("%s", map[bool]string{false: "tokens must be positive", true: "tokens must not be zero"}[action == "adjust"])
	case *b.Tokens < -(1 << 62):
		return o, bad("tokens exceed what a pool can hold")
	case o.reason == "":
		return o, bad("reason is required")
	case len(o.reason) > longestReason || !validText(o.reason):
		return o, bad("reason must be at most %d bytes without control characters", longestReason)
	case o.expires != nil && (*b.Tokens < 0 || !o.expires.After(now) || o.expires.Year() > 9999):
		return o, bad("expiresAt must be in the future, and of tokens that are given")
	case o.refill != "" && (*b.Tokens < 0 || o.refill != ledger.RefillWindow && o.refill != ledger.RefillNever):
		return o, bad("refill must be window or never, and of tokens that are given")
	}
	o.tokens = *b.Tokens
	o.reference, err = reference(action, text(b.Reference), key)
	return o, err
}

// reference is the caller's, under the action's name, or a new one.
func reference(action, inBody, inHeader string) (string, error) {
	inBody, inHeader = strings.TrimSpace(inBody), strings.TrimSpace(inHeader)
	given := inBody
	switch {
	case inBody != "" && inHeader != "" && inBody != inHeader:
		return "", bad("reference and Idempotency-Key differ")
	case inBody == "":
		given = inHeader
	}
	switch {
	case len(given) > longestReference || !validText(given):
		return "", bad("reference must be at most %d bytes without control characters", longestReference)
	case given == "":
		given = uuid.NewString()
	}
	return action + ":" + given, nil
}

// validText is what Postgres and a log line can hold.
func validText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func text(p *string) string {
	if p == nil {
		return ""
	}
	return *p
}
