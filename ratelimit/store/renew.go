package store

import (
	"context"
	"errors"
)

// Renewal names a hold that is to live on.
type Renewal struct {
	Account string
	ID      string
}

// Renew gives holds that are not settled a whole lifetime from now, in one round trip,
// and counts them.
func (s *Store) Renew(ctx context.Context, renewals []Renewal) (renewed int, err error) {
	calls := make([][]any, 0, len(renewals))
	for _, one := range renewals {
		calls = append(calls, append(s.renew.begin(1, 1), s.HoldKey(one.Account, one.ID), doubles(s.now(), s.life)))
	}
	if s.cluster {
		for _, one := range renewals {
			calls = append(calls, append(s.renew.begin(1, 1), s.HoldKey(SharedAccount, one.ID), doubles(s.now(), s.life)))
		}
	}
	if len(calls) == 0 {
		return 0, nil
	}
	cmds, err := s.runAll(ctx, s.renew, calls)
	if err != nil {
		return 0, err
	}
	var errs []error
	for i, cmd := range cmds {
		if err := failure(cmd); err != nil {
			errs = append(errs, err)
		} else if i < len(renewals) && cmd.Val() == "H" {
			renewed++
		}
	}
	return renewed, errors.Join(errs...)
}

// errEnough ends a listing.
var errEnough = errors.New("enough")

// Holds lists holds that are not settled, of one account or of all, up to limit, in no
// order; more says that there are others. It goes through all keys, like a sweep.
func (s *Store) Holds(ctx context.Context, account string, limit int) (holds []Hold, more bool, now int64, err error) {
	if now, err = s.Clock(ctx); err != nil {
		return nil, false, 0, err
	}
	err = s.walk(ctx, func(h Hold) error {
		switch {
		case h.Record.State != StateHeld || h.Account == SharedAccount || account != "" && h.Account != account:
			return nil
		case len(holds) == limit:
			more = true
			return errEnough
		}
		holds = append(holds, h)
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return holds, more, now, err
}
