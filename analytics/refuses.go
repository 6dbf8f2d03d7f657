package analytics

import (
	"context"
	"errors"
	"fmt"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// Refuses is a ClickHouse that answers and takes no events.
type Refuses struct {
	code int32
	err  error
}

func (r *Refuses) Error() string { return r.err.Error() }
func (r *Refuses) Unwrap() error { return r.err }

// Reason is a word for it, by ClickHouse's code (ErrorCodes.cpp).
func (r *Refuses) Reason() string {
	switch r.code {
	case 243: // NOT_ENOUGH_SPACE
		return "no_space"
	case 164, 242: // READONLY, TABLE_IS_READ_ONLY
		return "read_only"
	case 241: // MEMORY_LIMIT_EXCEEDED
		return "out_of_memory"
	case 252: // TOO_MANY_PARTS
		return "too_many_parts"
	case 192, 193, 194, 516: // UNKNOWN_USER, WRONG_PASSWORD, REQUIRED_PASSWORD, AUTHENTICATION_FAILED
		return "password"
	case 497: // ACCESS_DENIED
		return "no_permission"
	case 202: // TOO_MANY_SIMULTANEOUS_QUERIES
		return "busy"
	}
	return "other"
}

// refusal is what of an error ClickHouse itself answered; nil: nothing.
func refusal(err error) *Refuses {
	answer, answered := errors.AsType[*clickhouse.Exception](err)
	if !answered {
		return nil
	}
	return &Refuses{code: answer.Code, err: fmt.Errorf("it takes no events: %s (code %d)", answer.Message, answer.Code)}
}

// Takes is nil if ClickHouse answers and took the last events that it was given. The error is a Refuses
// if it answered.
func (s *Store) Takes(ctx context.Context) error {
	if why := s.refused.Load(); why != nil {
		return why
	}
	err := s.Ping(ctx)
	if why := refusal(err); why != nil {
		return why
	}
	return err
}
