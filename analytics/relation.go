package analytics

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// part is a span of a question that one table answers.
type part struct {
	grain    *grain // nil: the calls themselves
	from, to time.Time
}

// leastRolled is the shortest span that sums are asked about: asking which stand costs more than
// reading so few calls.
const leastRolled = time.Hour

// rollable says whether sums know everything that a question is about. cuts are moments at which its
// answer is divided; sums whose lines they would divide are not taken.
func rollable(f Filter, by []string) bool {
	if f.EndUser != "" || f.Session != "" || f.TagName != "" || f.RequestID != "" || f.From.IsZero() || f.To.IsZero() ||
		f.To.Sub(f.From) < leastRolled {
		return false
	}
	for _, expression := range by {
		if !rolledBy(expression) {
			return false
		}
	}
	return true
}

// parts cuts the span of a filter into what days, hours and minutes answer, and the rest.
func (s *Store) parts(ctx context.Context, f Filter, by []string, cuts []time.Time) ([]part, error) {
	if s.neverSums || !rollable(f, by) {
		return []part{{nil, f.From, f.To}}, nil
	}
	all, err := s.staleUnits(ctx, f.From, f.To)
	if err != nil {
		return nil, err
	}
	staleAt := map[string]map[int64]bool{"hour": {}, "day": {}}
	gone := time.Time{}
	if s.dropping.Load() {
		gone = time.Now().Add(-time.Duration(s.keep) * day)
	}
	for _, one := range all {
		if one.at.After(gone) { // of what is dropped there are sums, or nothing
			staleAt[one.unit][one.at.Unix()] = true
		}
	}
	p := planner{stale: staleAt, present: time.Now().Add(-time.Hour)}
	p.minute, p.hour, p.day = grains()
	p.fits = map[time.Duration]bool{}
	for _, g := range []grain{p.minute, p.hour, p.day} {
		p.fits[g.size] = aligned(cuts, f, g.size)
	}
	return p.plan(f.From, f.To), nil
}

// aligned says that no cut within the filter divides a line of a size.
func aligned(cuts []time.Time, f Filter, size time.Duration) bool {
	for _, at := range cuts {
		if at.After(f.From) && at.Before(f.To) && !at.Equal(at.Truncate(size)) {
			return false
		}
	}
	return true
}

// planner chooses tables.
type planner struct {
	minute, hour, day grain
	fits              map[time.Duration]bool // whether lines of a size can be taken
	stale             map[string]map[int64]bool
	present           time.Time
	parts             []part
}

// plan goes from line to line, each time with the longest that stands and fits.
func (p *planner) plan(from, to time.Time) []part {
	for at := from; at.Before(to); {
		next, g := p.step(at, to)
		if last := len(p.parts) - 1; last >= 0 && p.parts[last].grain == g {
			p.parts[last].to = next
		} else {
			p.parts = append(p.parts, part{g, at, next})
		}
		at = next
	}
	return p.parts
}

// step is the end of the longest line that begins at a moment, and its grain.
func (p *planner) step(at, to time.Time) (time.Time, *grain) {
	hour := at.Truncate(time.Hour)
	stands := !p.stale["hour"][hour.Unix()]
	end := hour.Add(time.Hour)
	switch {
	case p.fits[day] && at.Equal(at.Truncate(day)) && !at.Add(day).After(to) && !p.stale["day"][at.Unix()] && at.Add(day).Before(p.present):
		return at.Add(day), &p.day
	case stands && p.fits[time.Hour] && at.Equal(hour) && !end.After(to):
		return end, &p.hour
	case stands && p.fits[time.Minute] && at.Equal(at.Truncate(time.Minute)) && !at.Add(time.Minute).After(to):
		minutes := to.Truncate(time.Minute)
		if minutes.Before(end) {
			return minutes, &p.minute
		}
		return end, &p.minute
	case stands && p.fits[time.Minute]: // up to the next minute
		end = at.Truncate(time.Minute).Add(time.Minute)
	}
	if end.After(to) {
		end = to
	}
	return end, nil
}

// relation is the calls or sums of a filter as a table of SQL, with columns for keys (each an
// expression AS a name) and those that aggregates take.
func (s *Store) relation(ctx context.Context, f Filter, by, keys []string, cuts []time.Time) (string, []any, error) {
	parts, err := s.parts(ctx, f, by, cuts)
	if err != nil {
		return "", nil, err
	}
	columns := append([]string{"allowed", "source", "currency", rolledSums}, keys...)
	var selects []string
	var args []any
	for _, one := range parts {
		span := f
		span.From, span.To = one.from, one.to
		where, values := span.where()
		args = append(args, values...)
		if one.grain == nil {
			selects = append(selects, "SELECT toInt64(entry = 'call') AS events, "+strings.Join(columns, ", ")+" FROM usage FINAL WHERE "+where)
			continue
		}
		unit := map[string]time.Duration{"hour": time.Hour, "day": day}[one.grain.unit]
		selects = append(selects, fmt.Sprintf(`SELECT events, %[1]s FROM %[2]s WHERE unit >= toDateTime(%[3]d, 'UTC') AND unit < toDateTime(%[4]d, 'UTC')
			AND (unit, generation) IN (SELECT unit, max(generation) FROM usage_rolled WHERE grain = '%[5]s' AND unit >= toDateTime(%[3]d, 'UTC')
				AND unit < toDateTime(%[4]d, 'UTC') GROUP BY unit) AND %[6]s`, strings.Join(columns, ", "), one.grain.table,
			one.from.Truncate(unit).Unix(), one.to.Unix(), one.grain.unit, where))
	}
	return strings.Join(selects, " UNION ALL "), args, nil
}
