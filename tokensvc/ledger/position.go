package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/tokensdb"
)

// positions keep in Postgres how far the stream is booked.
type positions struct{ db *pgxpool.Pool }

// errOtherServer says that Postgres is another than a moment before.
var errOtherServer = errors.New("postgres was started again, or another took over")

// Position implements usage.Positions. A run of Postgres is known by when it began.
func (p positions) Position(ctx context.Context) (usage.Position, error) {
	row, err := tokensdb.New(p.db).ReadPosition(ctx, Durable)
	if err != nil {
		return usage.Position{}, err
	}
	return usage.Position{Stream: row.Stream, Sequence: uint64(row.Sequence), Noted: row.Noted,
		Server: row.Server.UTC().Format(time.RFC3339Nano)}, nil
}

// Note implements usage.Positions.
func (p positions) Note(ctx context.Context, at usage.Position) error {
	started, err := time.Parse(time.RFC3339Nano, at.Server)
	if err != nil {
		return fmt.Errorf("a run of postgres: %w", err)
	}
	noted, err := tokensdb.New(p.db).NotePosition(ctx, tokensdb.NotePositionParams{Consumer: Durable, Stream: at.Stream,
		Sequence: int64(at.Sequence), Server: at.Server, Started: started})
	if err == nil && noted == 0 {
		err = errOtherServer
	}
	return err
}
