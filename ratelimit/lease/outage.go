package lease

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// mostAdmitted is how many calls can be admitted while Redis is away.
const mostAdmitted = 100_000

// admitted is a call that Redis has not heard of yet.
type admitted struct {
	take  store.Take
	lease string // its lease's id, or nothing
}

// journal remembers what was admitted while Redis was away, by request id.
type journal struct {
	mu   sync.Mutex
	byID map[string]admitted
}

func (j *journal) add(a admitted) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, again := j.byID[a.take.ID]; again {
		return true
	}
	if len(j.byID) >= mostAdmitted {
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

// Admit decides about a request while Redis does not answer, as its route's mode says, and
// gives the output tokens granted. One that is held (it has an ID) is written down later.
func (k *Keeper) Admit(mode config.OutageMode, t store.Take) (output int64, ok bool) {
	a := admitted{take: t}
	switch mode {
	case config.OutageOpen:
		ok = true
		if a.take.Output == 0 {
			a.take.Output = a.take.Fill
		}
	case config.OutageLease:
		a.take.Output, a.lease, ok = k.leases.takeFrom(&t)
	}
	if ok && t.ID != "" {
		ok = k.journal.add(a)
	}
	return a.take.Output, ok
}

// RecordSettled writes down the calls of an outage that are settled now, before they are. It gives why one
// cannot be yet, by its place in the batch.
func (k *Keeper) RecordSettled(ctx context.Context, batch []store.Settlement) map[int]error {
	if k.journal.size() == 0 {
		return nil
	}
	unwritten := map[int]error{}
	for i, one := range batch {
		if a, ok := k.journal.find(one.ID); ok {
			if err := k.record(ctx, a); err != nil {
				unwritten[i] = err
			}
		}
	}
	return unwritten
}

// recordLoop writes down what was admitted without Redis as soon as it answers again.
func (k *Keeper) recordLoop(ctx context.Context) {
	ticker := time.NewTicker(recordEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			k.recordAll(ctx)
		}
	}
}

// recordAll writes down what it can. A server of a cluster that is away must not keep the calls of others
// from it: they come in another order each time, and only many that fail end it.
func (k *Keeper) recordAll(ctx context.Context) {
	const most = 20
	failed := 0
	for _, a := range k.journal.all() {
		if err := k.record(ctx, a); err == nil {
			continue
		}
		if failed++; failed >= most || ctx.Err() != nil {
			return
		}
	}
}

func (k *Keeper) record(ctx context.Context, a admitted) error {
	ctx, cancel := context.WithTimeout(ctx, k.timeout)
	defer cancel()
	how, err := k.store.RecordLate(ctx, a.take, a.lease)
	if err != nil {
		if errors.Is(err, store.ErrUnavailable) {
			return err
		}
		k.log.LogAttrs(ctx, slog.LevelError, "a call of an outage is not in the books", slog.String("request_id", a.take.ID),
			slog.Any("error", err))
	}
	k.recorded.WithLabelValues(wayName(how)).Inc()
	k.journal.remove(a.take.ID)
	return nil
}

func wayName(w store.LateWay) string {
	switch w {
	case store.FromLease:
		return "lease"
	case store.Forced:
		return "forced"
	case store.Known:
		return "known"
	}
	return "failed"
}
