package analytics

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// Sums by minute, hour and day stand beside the calls and always equal them, whatever is delivered
// again or corrected. A materialised view cannot do that: it adds what is inserted, and a call that
// comes twice, or anew, would be added twice. So they are made of the table itself, hour by hour:
//
//	an insert   marks the hours of its calls, then writes the calls
//	RollUp      for each hour whose sums are older than its newest mark, once that mark has settled:
//	            sums the hour up anew, as a new generation, and then names that generation
//	a question  takes an hour's sums if no mark is newer than they are, else its calls
//
// An hour's sums are made later than settleFor after its newest mark, and an insert that ends
// later than that after its mark marks the hour again. So sums that a question takes hold every call
// that was acknowledged before. The current hour is always answered from its calls.
//
// Marks are of the engine's clock, and each is later than the one before it. Where that clock is set
// back, the hours of meanwhile are answered from their calls until it has come to their marks again.

const (
	// defaultSettle is how long after its newest mark an hour is summed up.
	defaultSettle = time.Minute
	// defaultMarked is how long a mark of this process serves for further inserts.
	defaultMarked = 30 * time.Second
	// rollEvery is how often hours are looked for.
	rollEvery = 20 * time.Second
	// rollTimes is how many times as long as a query the sums of a day may take.
	rollTimes = 12
)

// marks are those that this process has written lately.
type marks struct {
	mu sync.Mutex
	at map[int64]time.Time // by hour, in seconds of Unix
}

// touch marks the hours of rows, those that have no fresh mark or with force all, and says when the
// oldest mark that serves was written.
func (s *Store) touch(ctx context.Context, rows []Row, force bool) (since time.Time, err error) {
	since = time.Now()
	hours := map[int64]struct{}{}
	s.marks.mu.Lock()
	for i := range rows {
		hour := rows[i].Timestamp.Truncate(time.Hour).Unix()
		if at, marked := s.marks.at[hour]; marked && !force && time.Since(at) < s.markedFor {
			if at.Before(since) {
				since = at
			}
			continue
		}
		hours[hour] = struct{}{}
	}
	s.marks.mu.Unlock()
	if len(hours) == 0 {
		return since, nil
	}
	now, list := time.Now(), make([]string, 0, len(hours))
	for hour := range hours {
		list = append(list, fmt.Sprint(hour))
	}
	// Later than the mark before it, also where the engine's clock was set back since: sums of that one
	// would count as made after this one.
	if err := s.conn.Exec(ctx, `INSERT INTO usage_touched (unit, mark)
		SELECT hour, greatest(now64(6, 'UTC'), max(mark) + toIntervalMicrosecond(1))
		FROM (SELECT toDateTime(arrayJoin([`+strings.Join(list, ",")+`]), 'UTC') AS hour) AS hours
		LEFT JOIN usage_touched ON unit = hour GROUP BY hour`); err != nil {
		return since, fmt.Errorf("mark hours: %w", err)
	}
	s.marks.mu.Lock()
	defer s.marks.mu.Unlock()
	for hour, at := range s.marks.at {
		if time.Since(at) >= s.markedFor {
			delete(s.marks.at, hour)
		}
	}
	for hour := range hours {
		s.marks.at[hour] = now
	}
	return since, nil
}

func (s *Store) forgetMarks() {
	s.marks.mu.Lock()
	defer s.marks.mu.Unlock()
	s.marks.at = map[int64]time.Time{}
}

// grain is a length of time that there are sums of.
type grain struct {
	table string
	size  time.Duration // of one line
	unit  string        // under which usage_rolled names it: hour or day
}

func grains() (minute, hour, day grain) {
	return grain{"usage_minute", time.Minute, "hour"}, grain{"usage_hour", time.Hour, "hour"}, grain{"usage_day", 24 * time.Hour, "day"}
}

// rolledColumns are the dimensions of sums, and what is summed.
const (
	rolledDimensions = `provider, user_id, org_id, team, key_id, tier, account, route, model_asked, model_served, source, allowed,
		price_version, currency`
	rolledSums = `tokens, input_tokens, output_tokens, cached_tokens, cache_write_5m_tokens, cache_write_1h_tokens, reasoning_tokens,
		audio_tokens, audio_output_tokens, unpriced_tokens, cost_micros`
)

// stale is an hour or a day whose sums are not those of its newest mark.
type stale struct {
	unit string
	at   time.Time
	mark time.Time
	old  bool // the mark has settled
}

// staleUnits finds those that overlap [from, to); the newest mark of a day is that of its hours.
func (s *Store) staleUnits(ctx context.Context, from, to time.Time) ([]stale, error) {
	one := func(unit, start string) string {
		return fmt.Sprintf(`SELECT '%[1]s' AS grain, t.at AS at, t.newest AS newest, t.newest < now64(6, 'UTC') - toIntervalMillisecond(%[3]d) AS settled
			FROM (SELECT %[2]s(unit) AS at, max(mark) AS newest FROM usage_touched WHERE unit >= toDateTime(%[4]d, 'UTC')
				AND unit < toDateTime(%[5]d, 'UTC') GROUP BY at) AS t
			LEFT JOIN (SELECT unit, argMax(mark, generation) AS made FROM usage_rolled WHERE grain = '%[1]s' AND unit >= toDateTime(%[4]d, 'UTC')
				AND unit < toDateTime(%[5]d, 'UTC') GROUP BY unit) AS r ON t.at = r.unit
			WHERE r.made < t.newest`, unit, start, s.settleFor.Milliseconds(), from.Truncate(day).Unix(), to.Truncate(day).Add(day).Unix())
	}
	found, err := s.conn.Query(ctx, "SELECT * FROM ("+one("hour", "toStartOfHour")+" UNION ALL "+one("day", "toStartOfDay")+") ORDER BY at")
	if err != nil {
		return nil, fmt.Errorf("query stale sums: %w", err)
	}
	defer found.Close()
	var all []stale
	for found.Next() {
		var one stale
		var settled uint8
		if err := found.Scan(&one.unit, &one.at, &one.mark, &settled); err != nil {
			return nil, fmt.Errorf("scan stale sums: %w", err)
		}
		one.old = settled == 1
		all = append(all, one)
	}
	return all, found.Err()
}

// forever is before and after everything that the table takes.
func forever() (from, to time.Time) {
	return time.Date(earliestYear, 1, 1, 0, 0, 0, 0, time.UTC), time.Now().Add(2 * latestAhead)
}

// RollUp makes the sums anew that are stale and settled, and says of how many hours and days. Two
// replicas may do it at once: each writes a generation of its own.
func (s *Store) RollUp(ctx context.Context) (units int, err error) {
	if !s.ready.Load() {
		return 0, errNotReady
	}
	ctx, cancel := context.WithTimeout(ctx, migrateTimes*s.timeout)
	defer cancel()
	from, to := forever()
	if s.dropping.Load() { // what is dropped can be summed up no more
		from = time.Now().Add(-time.Duration(s.keep-1) * day)
	}
	all, err := s.staleUnits(ctx, from, to)
	if err != nil {
		return 0, err
	}
	hours := map[time.Time][]stale{}
	var days []time.Time
	for _, one := range all {
		if at := one.at.Truncate(day); one.unit == "hour" && one.old {
			if hours[at] == nil {
				days = append(days, at)
			}
			hours[at] = append(hours[at], one)
		}
	}
	minute, hour, _ := grains()
	for _, at := range days {
		if err := s.rollUnits(ctx, hours[at], minute, hour); err != nil {
			return units, err
		}
		units += len(hours[at])
	}
	n, err := s.rollDays(ctx, all)
	return units + n, err
}

// rollDays sums up the days that are over and settled.
func (s *Store) rollDays(ctx context.Context, all []stale) (days int, err error) {
	_, _, byDay := grains()
	for _, one := range all {
		if one.unit != "day" || !one.old || time.Now().Before(one.at.Add(day+s.settleFor)) ||
			s.dropping.Load() && one.at.Before(time.Now().Add(-time.Duration(s.keep-1)*day)) {
			continue
		}
		if err := s.rollUnits(ctx, []stale{one}, byDay); err != nil {
			return days, err
		}
		days++
	}
	return days, nil
}

// rollUnits writes a generation of units, which are of one day, and then names it.
func (s *Store) rollUnits(ctx context.Context, units []stale, into ...grain) error {
	ctx, cancel := context.WithTimeout(ctx, rollTimes*s.timeout)
	defer cancel()
	starts := make([]string, len(units))
	for i, u := range units {
		starts[i] = fmt.Sprintf("toDateTime(%d, 'UTC')", u.at.Unix())
	}
	// Higher than those before, also where they are of a process whose clock was ahead: else the sums
	// would stay stale, and be made anew each time.
	var before uint64
	if err := s.conn.QueryRow(ctx, fmt.Sprintf("SELECT max(generation) FROM usage_rolled WHERE grain = '%s' AND unit IN (%s)", units[0].unit,
		strings.Join(starts, ", "))).Scan(&before); err != nil {
		return fmt.Errorf("query newest sums: %w", err)
	}
	const random = 12 // bits, so that two replicas have different ones
	generation := max(uint64(time.Now().UnixMicro()), before>>random+1)<<random | rand.Uint64N(1<<random)
	named := make([]string, len(units))
	for i, u := range units {
		named[i] = fmt.Sprintf("('%s', %s, %d, fromUnixTimestamp64Micro(%d, 'UTC'))", u.unit, starts[i], generation, u.mark.UnixMicro())
	}
	ofUnit := map[string]string{"hour": "toStartOfHour", "day": "toStartOfDay"}[units[0].unit] + "(toDateTime(timestamp, 'UTC'))"
	sums := strings.Split(rolledSums, ",")
	for i, column := range sums {
		sums[i] = "sum(" + strings.TrimSpace(column) + ")"
	}
	dayOf := units[0].at.Truncate(day).UnixMilli()
	for _, g := range into {
		line := map[time.Duration]string{time.Minute: "toStartOfMinute", time.Hour: "toStartOfHour", day: "toStartOfDay"}[g.size]
		statement := fmt.Sprintf(`INSERT INTO %s (unit, generation, timestamp, %s, events, %s)
			SELECT %s AS of_unit, %d, toDateTime64(%s(toDateTime(timestamp, 'UTC')), 3, 'UTC') AS line, %s, toInt64(countIf(entry = 'call')), %s
			FROM usage FINAL WHERE timestamp >= fromUnixTimestamp64Milli(%d, 'UTC') AND timestamp < fromUnixTimestamp64Milli(%d, 'UTC')
				AND of_unit IN (%s)
			GROUP BY of_unit, line, %s%s`, g.table, rolledDimensions, rolledSums, ofUnit, generation, line, rolledDimensions, strings.Join(sums, ", "),
			dayOf, dayOf+day.Milliseconds(), strings.Join(starts, ", "), rolledDimensions, settings)
		if err := s.conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("sum up into %s: %w", g.table, err)
		}
	}
	if err := s.conn.Exec(ctx, "INSERT INTO usage_rolled (grain, unit, generation, mark) VALUES "+strings.Join(named, ", ")); err != nil {
		return fmt.Errorf("name sums: %w", err)
	}
	return nil
}

// RunRollups keeps the sums up to date until ctx ends, and lets the table drop what is too old once
// there are sums of it.
func (s *Store) RunRollups(ctx context.Context) error {
	ticker := time.NewTicker(rollEvery)
	defer ticker.Stop()
	for {
		if _, err := s.RollUp(ctx); ctx.Err() != nil {
			return nil
		} else if err != nil {
			s.said.Warn(ctx, "sums are not up to date; questions are answered from the calls", err)
		} else {
			s.said.Over(ctx, "sums are not up to date; questions are answered from the calls", "sums are up to date")
			if err := s.retain(ctx); err != nil && ctx.Err() == nil {
				s.said.Warn(ctx, "what is too old is not dropped", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// rolledBy are the expressions of dimensions that sums have.
func rolledBy(expression string) bool {
	known := dimensions()
	for _, name := range []string{"user", "org", "team", "key", "account", "tier", "provider", "model", "modelAsked", "route", "source",
		"allowed", "priceVersion", "currency"} {
		if known[name] == expression {
			return true
		}
	}
	return false
}
