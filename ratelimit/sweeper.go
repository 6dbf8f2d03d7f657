package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/lease"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

const (
	sweepTimeout   = 5 * time.Minute
	publishTimeout = 5 * time.Second
	connectPause   = 250 * time.Millisecond
	pingTimeout    = time.Second
)

// unswept is said of a sweep that did not come to its end.
const unswept = "sweep not complete, the next goes on"

// Run waits for Redis, then sweeps and watches the policy's files until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	if !s.connect(ctx) {
		return nil
	}
	var group sync.WaitGroup
	group.Go(func() { s.watch(ctx) })
	group.Go(func() { s.leases.Run(ctx) })
	group.Go(func() { s.watchRules(ctx) })
	group.Go(func() { s.ratiosLoop(ctx) })
	group.Go(func() { s.keepTrust(ctx) })
	group.Go(func() { s.watchRedis(ctx) })
	group.Go(func() { s.watchWindows(ctx) })
	group.Go(func() { s.keepCounts(ctx) })
	group.Go(func() { s.watchMeters(ctx) })
	group.Go(func() { s.store.KeepIndex(ctx) })
	if s.follow != nil {
		group.Go(func() { s.follow(ctx, s.SetBalance) })
	}
	defer group.Wait()
	if s.publisher == nil {
		<-ctx.Done()
		return nil
	}
	every := s.holds.SweepEvery
	if every <= 0 {
		every = 30 * time.Second
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		switch err := s.store.Turn(ctx, every, s.Sweep); {
		case ctx.Err() != nil:
		case err != nil:
			s.said.Warn(ctx, unswept, err)
		default:
			s.said.Over(ctx, unswept, "sweep complete")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// connect waits until Redis answers; false when ctx ended before.
func (s *Service) connect(ctx context.Context) bool {
	err := retry.Policy{First: connectPause}.Do(ctx, func(ctx context.Context) error {
		asking, cancel := context.WithTimeout(ctx, pingTimeout)
		defer cancel()
		err := s.store.Ping(asking)
		if ctx.Err() == nil {
			s.heard(ctx, err)
		}
		return err
	}, nil)
	return err == nil
}

// Sweep settles by policy what nobody settled in time, and publishes an event for each.
// First the charge goes into the bucket and the hold is marked, then the event is
// published, then the mark is taken off: whoever dies in between, the next sweep finds
// the mark and publishes again, under the same id.
func (s *Service) Sweep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	progress, err := s.store.Progress(ctx)
	if err != nil {
		return err
	}
	unpublished := 0 // in a row
	finish := func(h store.Hold) error {
		err := s.expire(ctx, h, unpublished < mostUnpublished)
		switch {
		case errors.Is(err, errPublish):
			unpublished++
			s.stuck.add(h)
		case err == nil && unpublished < mostUnpublished:
			unpublished = 0
			s.stuck.remove(h)
		}
		return err
	}
	var last []store.Hold
	live, err := s.store.Sweep(ctx, func(h store.Hold) error {
		switch {
		case s.waits(h, progress):
			return store.ErrWaits
		case s.stuck.has(h):
			last = append(last, h)
			return nil
		}
		return finish(h)
	})
	for _, h := range last {
		if unpublished >= mostUnpublished || ctx.Err() != nil {
			break
		}
		err = errors.Join(err, finish(h))
	}
	if errors.Is(err, store.ErrUnavailable) || ctx.Err() != nil {
		return err
	}
	s.metrics.live.Set(float64(live.Holds))
	s.metrics.heldTokens.Set(float64(live.Tokens))
	s.metrics.oldestHold.Set(live.Oldest.Seconds())
	return err
}

// waits reports whether a hold that is due stands on for now. Its call is over, but a line that says
// what it used may be on its way while a meter is behind or away: it waits for all meters to have
// settled what was over when it was due, and at most for as long again as a hold lives. Of a lease,
// and of a hold that is given back because who took it settles it at once, there is no line.
func (s *Service) waits(h store.Hold, p store.Progress) bool {
	r := &h.Record
	return r.State == store.StateHeld && p.Settled < r.Expires && p.Now < r.Expires+s.store.Lifetime().Microseconds() && !r.Release &&
		!lease.IsLease(h.ID)
}

// mostUnpublished is how many events in a row may fail before a sweep only settles: each
// failure takes as long as publishTimeout, and what is held must not wait for it.
const mostUnpublished = 3

// stuck are the holds whose events could not be published by a sweep before. They come last, so that
// some that can never be published do not use up what a sweep tries.
type stuck struct {
	mu    sync.Mutex
	holds map[string]struct{}
}

// mostStuck is how many are remembered; then all are forgotten, and found again.
const mostStuck = 10_000

func (s *stuck) add(h store.Hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holds == nil || len(s.holds) >= mostStuck {
		s.holds = map[string]struct{}{}
	}
	s.holds[h.Account+" "+h.ID] = struct{}{}
}

func (s *stuck) remove(h store.Hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.holds, h.Account+" "+h.ID)
}

func (s *stuck) has(h store.Hold) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, there := s.holds[h.Account+" "+h.ID]
	return there
}

// errPublish says that a hold is settled and its event is not published.
var errPublish = errors.New("publish")

// expire settles an overdue hold, and publishes its event if it may. Of a hold that is given back by the
// will of who took it there is none: nothing is charged, and who took it may have booked the call
// already, or stand still before that. Two events would be of one id and one version, and JetStream and
// the reports keep the first, which would be ours of no tokens.
func (s *Service) expire(ctx context.Context, h store.Hold, publishes bool) error {
	if leased := lease.IsLease(h.ID); leased || h.Account == store.SharedAccount {
		// A lease of a replica that died: what it admitted is settled call by call. Or a hold's
		// part in shared buckets: the account's part has the event.
		_, due, err := s.store.Expire(ctx, h.Account, h.ID, !leased && s.charges(h))
		if err != nil || !due {
			return err
		}
		return s.store.Finish(ctx, h.Account, h.ID)
	}
	first := h.Record.State == store.StateHeld
	r, due, err := s.store.Expire(ctx, h.Account, h.ID, s.charges(h))
	if err != nil || !due {
		return err
	}
	if first {
		s.metrics.expired.Inc()
	}
	if h.Record.Release {
		return s.store.Finish(ctx, h.Account, h.ID)
	}
	if !publishes {
		return nil // the next sweep does
	}
	publish, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	if err := s.publisher.Publish(publish, s.expiredEvent(h, r)); err != nil {
		s.metrics.unpublished.Inc()
		return fmt.Errorf("%w expired hold %s: %w", errPublish, h.ID, err)
	}
	if err := s.store.Finish(ctx, h.Account, h.ID); err != nil {
		return fmt.Errorf("finish expired hold %s: %w", h.ID, err)
	}
	s.metrics.published.Inc()
	return nil
}

// charges reports whether a hold that nobody settled counts as used.
func (s *Service) charges(h store.Hold) bool { return s.holds.Expiry != "release" && !h.Record.Release }

// expiredEvent is the usage event of a hold that nobody settled. How the tokens split
// is not known: the input is taken at its bound.
func (s *Service) expiredEvent(h store.Hold, r store.Record) usage.Event {
	var f limitpb.Facts
	if err := proto.Unmarshal(r.Facts, &f); err != nil || f.GetProvider() == "" {
		f.Provider = "unknown"
	}
	input := min(r.Held-r.Output, r.Charged)
	pool := usage.PoolNone
	if r.Drawn {
		pool = usage.PoolDrawn
	}
	return usage.Event{RequestID: h.ID, UserID: f.GetUser(), OrgID: f.GetOrg(), Team: f.GetTeam(), KeyID: f.GetKey(), Tier: f.GetTier(),
		Account: h.Account,
		Route:   f.GetRoute(), Provider: f.GetProvider(), ModelAsked: f.GetModel(), Input: input, Output: r.Charged - input, Held: r.Held,
		Charged: r.Charged,
		Source:  usage.FromExpiry, Pool: pool, Allowed: true, Stream: f.GetStream(), Reason: "nobody settled the hold in time",
		Timestamp: time.UnixMicro(r.Taken).UTC()}
}
