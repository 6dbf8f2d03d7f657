package store

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/leaky-tokens/leaky-tokens/ratelimit/bucket"
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
		calls = append(calls, append(s.renew.begin(1, 1), s.HoldKey(one.Account, one.ID), bucket.Pack(s.now(), s.life, 0)))
	}
	if s.cluster {
		for _, one := range renewals {
			calls = append(calls, append(s.renew.begin(1, 1), s.HoldKey(SharedAccount, one.ID), bucket.Pack(s.now(), s.life, 0)))
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

// farAhead is how much later than now a time stamp may be before it counts as now: clocks of servers that
// take over from each other differ by less.
const farAhead = time.Minute

// restamp has a hold count as taken now whose time is from the future, as Redis' clock was set back since:
// it would be due as much later.
func (s *Store) restamp(ctx context.Context, h Hold) error {
	life := float64(h.Record.Expires - h.Record.Taken)
	_, err := s.run(ctx, s.renew, append(s.renew.begin(1, 1), s.HoldKey(h.Account, h.ID), bucket.Pack(s.now(), life, 1)))
	return err
}

// oldest sorts holds by when they were taken and keeps the first.
func oldest(holds []Hold, limit int) []Hold {
	slices.SortFunc(holds, func(a, b Hold) int { return cmp.Compare(a.Record.Taken, b.Record.Taken) })
	return holds[:min(len(holds), limit)]
}

// ListHolds lists holds that are not settled, of one account or of all, the oldest first, up
// to limit; more says that there are others. It goes through all that stand, like a sweep.
func (s *Store) ListHolds(ctx context.Context, account string, limit int) (holds []Hold, more bool, now int64, err error) {
	if now, err = s.Clock(ctx); err != nil {
		return nil, false, 0, err
	}
	err = s.walkIndex(ctx, func(h Hold) error {
		switch {
		case h.Record.State != StateHeld || h.Account == SharedAccount || account != "" && h.Account != account:
			return nil
		}
		if holds = append(holds, h); len(holds) > 2*limit { // sorts now and then, not for each
			holds, more = oldest(holds, limit), true
		}
		return nil
	})
	more = more || len(holds) > limit
	return oldest(holds, limit), more, now, err
}
