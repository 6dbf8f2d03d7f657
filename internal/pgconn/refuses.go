package pgconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Refuses is a Postgres that answers and does not serve.
type Refuses struct {
	reason string
	err    error
}

func (r *Refuses) Error() string { return r.err.Error() }
func (r *Refuses) Unwrap() error { return r.err }

// Reason is a word for it.
func (r *Refuses) Reason() string { return r.reason }

// errReadOnly says that nothing can be written.
var errReadOnly = errors.New("it is read-only: a replica, or default_transaction_read_only is on")

// reasons are Postgres' codes (SQLSTATE, appendix A of its manual) that say why it does not serve.
func reasons() map[string]string {
	return map[string]string{"53100": "no_space", "53200": "out_of_memory", "53300": "too_many_connections", "25006": "read_only",
		"57P01": "shutting_down", "57P02": "shutting_down", "57P03": "starting", "28000": "password", "28P01": "password", "3D000": "no_database",
		"42501": "no_permission", "26000": "pooler", "42P05": "pooler", "08P01": "pooler"}
}

// Gone reports whether an error is of the link and no answer of Postgres. A service says that once
// for all of its work (telemetry.Stores); work of which nothing waits need not say it again.
func Gone(err error) bool {
	if _, answered := errors.AsType[*pgconn.PgError](err); answered {
		return false
	}
	_, unconnected := errors.AsType[*pgconn.ConnectError](err)
	_, network := errors.AsType[net.Error](err) // a deadline that has passed is one, too
	return unconnected || network || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// Writable is nil if Postgres takes a transaction that writes. The error is a Refuses if it answered.
func Writable(ctx context.Context, pool *pgxpool.Pool) error {
	var readOnly string
	err := pool.QueryRow(ctx, "SELECT current_setting('transaction_read_only')").Scan(&readOnly)
	if answer, answered := errors.AsType[*pgconn.PgError](err); answered {
		reason, known := reasons()[answer.Code]
		if !known {
			reason = "other"
		}
		return &Refuses{reason: reason, err: fmt.Errorf("%s (SQLSTATE %s)", answer.Message, answer.Code)}
	}
	if err != nil {
		return fmt.Errorf("ask postgres: %w", err)
	}
	if readOnly == "on" {
		return &Refuses{reason: "read_only", err: errReadOnly}
	}
	return nil
}
