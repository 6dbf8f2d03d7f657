package ratelimit

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

const (
	// journalMost is how many calls can be admitted while Redis is away.
	journalMost = 100_000
	// adoptEvery is how often Redis is tried while there is something to write down.
	adoptEvery = 100 * time.Millisecond
)

// admitted is a call that Redis has not heard of yet.
type admitted struct {
	take  store.Take
	lease string // its lease's id, or nothing
}

// journal remembers what was admitted while Redis was away.
type journal struct {
	mu   sync.Mutex
	byID map[string]admitted
}

func (j *journal) add(a admitted) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.byID) >= journalMost {
		return false
	}
	if j.byID == nil {
		j.byID = map[string]admitted{}
	}
	j.byID[a.take.ID] = a
	return true
}

func (j *journal) find(id string) (admitted, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	a, ok := j.byID[id]
	return a, ok
}

func (j *journal) remove(id string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.byID, id)
}

func (j *journal) size() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.byID)
}

func (j *journal) all() []admitted {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]admitted, 0, len(j.byID))
	for _, a := range j.byID {
		out = append(out, a)
	}
	return out
}

// withoutRedis decides about a request while Redis does not answer, as its route says.
func (s *Service) withoutRedis(d *decision, why error) {
	a, ok := admitted{take: d.take}, false
	switch d.mode {
	case config.OutageOpen:
		ok = true
		if a.take.Output == 0 {
			a.take.Output = a.take.Fill
		}
	case config.OutageLease:
		a.take.Output, a.lease, ok = s.leases.spend(&d.take)
	}
	if ok && d.call != nil {
		if _, again := s.journal.find(a.take.ID); !again {
			ok = s.journal.add(a)
		}
	}
	if d.call != nil {
		s.rememberBlind(d, a.take.Output, ok)
	}
	if !ok {
		s.metrics.holds.failed.Inc()
		s.metrics.outage.WithLabelValues(string(d.mode), "refused").Inc()
		d.err = unavailable(why)
		return
	}
	s.metrics.outage.WithLabelValues(string(d.mode), "admitted").Inc()
	d.answer = newResponse(codeOK)
	d.answer.header("x-leaky-outage", string(d.mode))
	if d.call != nil {
		d.call.admitBlind(d.answer, a.take)
	}
}

// admitBlind says what was admitted without Redis. It names no input: a spool line with a
// hold and no input of it is how the meter knows such a call.
func (c *call) admitBlind(r *response, t store.Take) {
	held := t.Input + t.Output
	r.header("x-leaky-hold", strconv.FormatInt(held, 10))
	r.text(attributes.Account, c.account)
	r.number(attributes.Held, float64(held))
	c.identify(r)
	c.spliceInto(r, t.Output)
}

// adoptLoop writes down what was admitted without Redis as soon as it answers again.
func (s *Service) adoptLoop(ctx context.Context) {
	ticker := time.NewTicker(adoptEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.adoptAll(ctx)
		}
	}
}

func (s *Service) adoptAll(ctx context.Context) {
	for _, a := range s.journal.all() {
		if err := s.adopt(ctx, a); err != nil {
			return
		}
	}
}

func (s *Service) adopt(ctx context.Context, a admitted) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	how, err := s.store.Adopt(ctx, a.take, a.lease)
	if err != nil {
		if errors.Is(err, store.ErrUnavailable) {
			return err
		}
		s.log.LogAttrs(ctx, slog.LevelError, "a call of an outage is not in the books", slog.String("request_id", a.take.ID),
			slog.Any("error", err))
	}
	s.metrics.adopted.WithLabelValues(adoptionName(how)).Inc()
	s.journal.remove(a.take.ID)
	return nil
}

func adoptionName(a store.Adoption) string {
	switch a {
	case store.FromLease:
		return "lease"
	case store.Forced:
		return "forced"
	case store.Known:
		return "known"
	}
	return "failed"
}

// routeOf finds the route among the descriptors of a request without facts.
func routeOf(descriptors []descriptor) string {
	for _, d := range descriptors {
		for _, e := range d {
			if e.Key == attributes.Route {
				return e.Value
			}
		}
	}
	return ""
}

// adoptSettled writes down the calls of an outage that are settled now, before they are.
func (s *Service) adoptSettled(ctx context.Context, batch []store.Settlement) error {
	if s.journal.size() == 0 {
		return nil
	}
	for _, one := range batch {
		if a, ok := s.journal.find(one.ID); ok {
			if err := s.adopt(ctx, a); err != nil {
				return err
			}
		}
	}
	return nil
}
