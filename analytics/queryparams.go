package analytics

import (
	"context"
	"time"
)

// usageParams are those of the usage list.
type usageParams struct {
	filter Filter
	limit  int
}

func (r reader) usage(ctx context.Context, rawQuery string, now time.Time) (u usageParams, err error) {
	p, err := parseParams(rawQuery, filterNames("limit", "requestId")...)
	if err != nil {
		return usageParams{}, err
	}
	if u.filter, err = r.filter(ctx, p, true); err != nil {
		return usageParams{}, err
	}
	limit, err := p.integer("limit", usageLimit)
	if err != nil {
		return usageParams{}, err
	}
	u.limit = int(min(max(limit, 1), usageLimitMost))
	if u.filter.RequestID, err = p.matching("requestId", requestID); err != nil {
		return usageParams{}, err
	}
	if p.values.Has("from") || p.values.Has("to") {
		err = p.span(&u.filter, day, now)
	}
	return u, err
}

// reportParams are those of the report, and of anomalies with the last two.
type reportParams struct {
	filter    Filter // From and To are the window
	limit     int
	groupBy   []string
	by        []string // groupBy as SQL
	baselines int
	threshold float64
}

func (r reader) window(ctx context.Context, rawQuery string, now time.Time, more ...string) (p params, w reportParams, err error) {
	if p, err = parseParams(rawQuery, filterNames(append(more, "windowMinutes", "limit")...)...); err != nil {
		return p, w, err
	}
	if w.filter, err = r.filter(ctx, p, true); err != nil {
		return p, w, err
	}
	if w.limit, err = p.positive("limit", reportLimit, reportLimitMost); err != nil {
		return p, w, err
	}
	return p, w, p.window(&w.filter, now)
}

func (r reader) report(ctx context.Context, rawQuery string, now time.Time) (reportParams, error) {
	p, w, err := r.window(ctx, rawQuery, now, "groupBy")
	if err != nil {
		return reportParams{}, err
	}
	w.groupBy, w.by, err = p.groupBy()
	return w, err
}

func (r reader) anomalies(ctx context.Context, rawQuery string, now time.Time) (reportParams, error) {
	p, w, err := r.window(ctx, rawQuery, now, "baselineWindows", "thresholdMultiplier")
	if err != nil {
		return reportParams{}, err
	}
	if w.baselines, err = p.positive("baselineWindows", baselineDefault, baselineMost); err != nil {
		return reportParams{}, err
	}
	w.threshold, err = p.number("thresholdMultiplier", thresholdDefault, thresholdLeast)
	return w, err
}
