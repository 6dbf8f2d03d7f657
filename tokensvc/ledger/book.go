package ledger

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/ledgerbook"
)

// Book is what others are told of the ledger.
type Book struct{ DB *pgxpool.Pool }

// Entries implements ledgerbook.Book. A correction has the time of what it corrects, so both are in one
// span.
func (b Book) Entries(ctx context.Context, span ledgerbook.Span, most int) ([]ledgerbook.Entry, error) {
	rows, err := b.DB.Query(ctx, `SELECT coalesce(corrects, reference), min(account), min(unit), (-sum(amount))::bigint,
		coalesce(sum(cost_micros), 0)::bigint, coalesce((array_agg(currency ORDER BY version DESC))[1], ''),
		coalesce((array_agg(price_version ORDER BY version DESC))[1], ''), count(cost_micros) > 0 FROM token_ledger
		WHERE kind = $1 AND starts_with(reference, $2) AND at >= $3 AND at < $4 GROUP BY coalesce(corrects, reference) LIMIT $5`, kindUsage, usageReference(""), span.From, span.To, most)
	if err != nil {
		return nil, fmt.Errorf("read usage entries: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (e ledgerbook.Entry, err error) {
		err = row.Scan(&e.RequestID, &e.Account, &e.Provider, &e.Tokens, &e.CostMicros, &e.Currency, &e.PriceVersion, &e.Costed)
		e.RequestID, e.Provider = strings.TrimPrefix(e.RequestID, usageReference("")), strings.TrimPrefix(e.Provider, unit(""))
		return e, err
	})
}

// Pools implements ledgerbook.Book.
func (b Book) Pools(ctx context.Context, asked []ledgerbook.Key) ([]ledgerbook.Pool, error) {
	keys := make([]Key, 0, len(asked))
	for _, a := range asked {
		if k := (Key{a.Account, a.Provider}); k.Valid() {
			keys = append(keys, k)
		}
	}
	found, err := read(ctx, b.DB, keys, time.Time{})
	if err != nil {
		return nil, fmt.Errorf("read pools: %w", err)
	}
	pools := make([]ledgerbook.Pool, 0, len(found.pools))
	for k, p := range found.pools {
		p.advance(found.now)
		pools = append(pools, ledgerbook.Pool{Key: ledgerbook.Key{Account: k.Account, Provider: k.Provider}, Remaining: p.Remaining})
	}
	return pools, nil
}
