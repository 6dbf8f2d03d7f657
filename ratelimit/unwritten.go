package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// metersEvery is how often it is asked what the meters said.
const metersEvery = time.Second

// errUnwritten says that what calls use would be lost.
var errUnwritten = errors.New("calls cannot be written down")

// watchMeters hears, until ctx ends, which meters live and whether an Envoy cannot write its log of calls. What calls use
// would be lost then, so they are decided as in an outage. While Redis does not answer that holds as it
// was: calls are decided so anyway.
func (s *Service) watchMeters(ctx context.Context) {
	tick := time.NewTicker(metersEvery)
	defer tick.Stop()
	for {
		_ = s.look(ctx) // else what is known of the meters holds
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// setUnwritten takes over why calls are not written down; empty: they are.
func (s *Service) setUnwritten(ctx context.Context, reason string) {
	before := s.unwritten.Load()
	switch {
	case reason == "" && before != nil:
		s.unwritten.Store(nil)
		s.metrics.unwritten.Set(0)
		s.log.LogAttrs(ctx, slog.LevelInfo, "calls are written down again")
	case reason != "":
		err := fmt.Errorf("%w: %s", errUnwritten, reason)
		s.unwritten.Store(&err)
		s.metrics.unwritten.Set(1)
		if before == nil {
			s.log.LogAttrs(ctx, slog.LevelError, "calls cannot be written down: they are decided as in an outage", slog.String("reason", reason))
		}
	}
}

// notWritten is why the use of a call would not be written down; nil: it would, or nobody has to.
func (s *Service) notWritten(a *admission) error {
	why := s.unwritten.Load()
	if why == nil || a.take.ID == "" || a.caller == nil {
		return nil
	}
	return *why
}
