package pools

import (
	"context"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

const (
	defaultLimit, mostLimit = 50, 200
	// verifyTimeout bounds the proof of the books, which reads all of them.
	verifyTimeout = time.Minute
)

// entryAnswer is one entry as a reader sees it.
type entryAnswer struct {
	ID        int64     `json:"id"`
	Kind      string    `json:"kind"`
	Tokens    int64     `json:"tokens"` // negative: spent, expired or taken
	Counter   string    `json:"counterAccount"`
	Reference string    `json:"reference"`
	Reason    string    `json:"reason,omitzero"`
	Actor     string    `json:"actor,omitzero"` // user who caused it
	At        time.Time `json:"at"`
	CreatedAt time.Time `json:"createdAt"`
}

type entriesAnswer struct {
	Account    string        `json:"account"`
	Provider   string        `json:"provider"`
	Items      []entryAnswer `json:"items"`                // newest first
	NextCursor string        `json:"nextCursor,omitempty"` // absent at the end
}

// entries pages through an account's entries, newest first. The cursor is the id of the
// last entry seen: entries that come meanwhile change no page.
func (a *API) entries(w http.ResponseWriter, r *http.Request) error {
	who, _ := principal.From(r.Context())
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return bad("malformed query string")
	}
	t, before, limit, err := parsePage(values, who)
	if err == nil {
		err = a.mayRead(r.Context(), who, t)
	}
	if err != nil {
		return a.fail(r, err)
	}
	if !a.cfg.Ready() {
		return a.fail(r, ErrNotReady)
	}
	ctx, cancel := a.bounded(r)
	defer cancel()
	found, err := ledger.Entries(ctx, a.cfg.DB, t.key(), before, limit+1)
	if err != nil {
		return a.fail(r, err)
	}
	answer := entriesAnswer{Account: t.key().Account, Provider: t.provider, Items: []entryAnswer{}}
	for i, e := range found {
		if i == limit {
			answer.NextCursor = strconv.FormatInt(answer.Items[limit-1].ID, 10)
			break
		}
		item := entryAnswer{ID: e.ID, Kind: e.Kind, Tokens: e.Amount, Counter: e.Counter, Reference: e.Reference, Reason: e.Reason,
			At: e.At.UTC(), CreatedAt: e.CreatedAt.UTC()}
		if e.Actor != nil {
			item.Actor = e.Actor.String()
		}
		answer.Items = append(answer.Items, item)
	}
	httpapi.WriteJSON(w, http.StatusOK, answer)
	return nil
}

// parsePage reads userId or orgId (default: the caller), provider, cursor and limit.
func parsePage(values url.Values, who principal.Principal) (t target, before int64, limit int, err error) {
	parse := ofUser
	if values.Has("orgId") {
		parse = ofOrg
		if values.Has("userId") {
			return t, 0, 0, bad("userId and orgId exclude each other")
		}
	}
	if t, err = parse(values, who); err != nil {
		return t, 0, 0, err
	}
	before, limit = math.MaxInt64, defaultLimit
	if text := strings.TrimSpace(values.Get("cursor")); text != "" {
		if before, err = strconv.ParseInt(text, 10, 64); err != nil || before < 1 {
			return t, 0, 0, bad("invalid cursor")
		}
	}
	if text := strings.TrimSpace(values.Get("limit")); text != "" {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return t, 0, 0, bad("invalid limit")
		}
		limit = int(max(1, min(n, mostLimit)))
	}
	return t, before, limit, nil
}

// verify proves the books and answers what differs.
func (a *API) verify(w http.ResponseWriter, r *http.Request) error {
	if !a.cfg.Ready() {
		return a.fail(r, ErrNotReady)
	}
	ctx, cancel := context.WithTimeout(r.Context(), verifyTimeout)
	defer cancel()
	differences, err := proof(ctx, a.cfg.DB)
	if err != nil {
		return a.fail(r, err)
	}
	if differences == nil {
		differences = []string{}
	}
	httpapi.WriteJSON(w, http.StatusOK, struct {
		Balanced    bool     `json:"balanced"`
		Differences []string `json:"differences"`
	}{len(differences) == 0, differences})
	return nil
}

// proof is ledger.Verify of one moment, while others write.
func proof(ctx context.Context, db *pgxpool.Pool) (differences []string, err error) {
	err = pgx.BeginTxFunc(ctx, db, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		differences, err = ledger.Verify(ctx, tx)
		return err
	})
	return differences, err
}
