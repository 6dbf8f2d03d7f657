package analytics

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

// positions keep in ClickHouse how far a consumer's events are stored. A run of its server has no name.
type positions struct {
	store   *Store
	durable string
}

// Positions are those of a consumer whose handler writes to the store.
func (s *Store) Positions(durable string) usage.Positions { return positions{s, durable} }

// Position implements usage.Positions.
func (p positions) Position(ctx context.Context) (at usage.Position, err error) {
	if !p.store.ready.Load() {
		return at, errNotReady
	}
	err = p.store.conn.QueryRow(ctx, "SELECT stream, sequence FROM consumer_positions WHERE consumer = ? ORDER BY noted_at DESC LIMIT 1",
		p.durable).Scan(&at.Stream, &at.Sequence)
	if errors.Is(err, sql.ErrNoRows) {
		return usage.Position{}, nil
	}
	if err != nil {
		return at, p.store.madeAnew(ctx, fmt.Errorf("read position: %w", err))
	}
	return at, nil
}

// Note implements usage.Positions. A note is later than all before it, also where the engine's clock was
// set back since: the newest stands.
func (p positions) Note(ctx context.Context, at usage.Position) error {
	err := p.store.conn.Exec(ctx, `INSERT INTO consumer_positions (consumer, stream, sequence, noted_at)
		SELECT ?, ?, ?, greatest(now64(6, 'UTC'), max(noted_at) + toIntervalMicrosecond(1)) FROM consumer_positions WHERE consumer = ?`,
		p.durable, at.Stream, at.Sequence, p.durable)
	if err != nil {
		return p.store.madeAnew(ctx, fmt.Errorf("note position: %w", err))
	}
	return nil
}
