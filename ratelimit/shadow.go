package ratelimit

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/store"
)

// shadowed are the limits of a decision that refuse nobody and would have refused it.
// Their buckets go on filling, so above capacity is what would have been over the limit.
func shadowed(m matched, t store.Taken, take store.Take) []int {
	var over []int
	for i, l := range m.limits {
		if l.store.Kind.Refuses() || t.Outcome == store.Repeated {
			continue
		}
		level := t.States[i].Level()
		if t.Outcome.Refuses() { // for another reason, so that this one was not charged
			level += cost(l, take)
		}
		if level > l.store.Params.Capacity {
			over = append(over, i)
		}
	}
	return over
}

// cost is what a call asks of a limit.
func cost(l *limit, take store.Take) float64 {
	if l.rule.Unit == limits.Requests {
		return float64(take.Requests)
	}
	return float64(take.Input + max(take.Output, take.Fill))
}

// record counts what shadow and quota rules would have refused and logs one of them for
// each rule and second. It returns the names: explain tells them.
func (s *Service) record(ctx context.Context, m matched, t store.Taken, take store.Take) []string {
	if !m.counts {
		return nil
	}
	var names []string
	for _, i := range shadowed(m, t, take) {
		l := m.limits[i]
		names = append(names, l.rule.Name)
		s.metrics.shadow.WithLabelValues(m.label(i)).Inc()
		second := t.Now / second
		if before := l.mark.logged.Load(); before == second || !l.mark.logged.CompareAndSwap(before, second) {
			continue
		}
		s.log.LogAttrs(ctx, slog.LevelInfo, "a limit in shadow mode would have refused", slog.String("rule", l.rule.Name),
			slog.String("account", take.Account),
			slog.String("request_id", take.ID), slog.Float64("level", t.States[i].Level()), slog.String("capacity", l.capacity))
	}
	return names
}

// tellQuota names the quota_mode rules that an admitted call is over in the answer's
// metadata, for filters behind this one to act on.
func (d *decision) tellQuota() {
	var over []string
	for _, l := range d.limits {
		if l.rule.Quota && slices.Contains(d.shadow, l.rule.Name) {
			over = append(over, l.rule.Name)
		}
	}
	if len(over) > 0 {
		d.answer.text("quota_exceeded", strings.Join(over, ","))
	}
}

// label is what metrics call the limit i of a request.
func (m matched) label(i int) string {
	if m.labels == nil || m.labels[i] == "" {
		return m.limits[i].rule.Name
	}
	return m.labels[i]
}

// mostLabels bounds the values that detailed_metric and value_to_metric put into labels.
const mostLabels = 1000

// labels are the labels given so far; beyond mostLabels new values become "other".
type labels struct {
	mu    sync.Mutex
	known map[string]string
}

func (l *labels) of(rule *limits.Rule, d descriptor) string {
	var room [256]byte
	text := rule.AppendLabel(room[:0], d)
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, ok := l.known[string(text)]; ok {
		return known
	}
	if len(l.known) >= mostLabels || len(text) > cap(room) {
		return rule.Path + " other"
	}
	label := headerText(string(text))
	l.known[string(text)] = label
	return label
}
