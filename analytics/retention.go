package analytics

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// retain makes the tables drop what is too old, whole days of calls and whole months of sums at a
// time. Calls go only once there are sums of all that would: until then the next rollup tries again.
func (s *Store) retain(ctx context.Context) error {
	minute, hour, byDay := grains()
	for _, g := range []grain{minute, hour, byDay} {
		if err := s.expire(ctx, g.table, "unit", s.keepSums); err != nil {
			return err
		}
	}
	if s.keep > 0 && !s.dropping.Load() {
		from, _ := forever()
		all, err := s.staleUnits(ctx, from, time.Now().Add(-time.Duration(s.keep+1)*day))
		if err != nil {
			return err
		}
		if len(all) > 0 {
			return nil
		}
	}
	if err := s.expire(ctx, "usage", "timestamp", s.keep); err != nil {
		return err
	}
	s.dropping.Store(s.keep > 0)
	return nil
}

// expire sets the time to live of a table, in days; 0: for ever. A table that is spread over a cluster
// keeps what its operator made it with.
func (s *Store) expire(ctx context.Context, table, column string, days int) error {
	var engine, made string
	if err := s.conn.QueryRow(ctx, "SELECT engine, create_table_query FROM system.tables WHERE database = currentDatabase() AND name = ?", table).
		Scan(&engine, &made); err != nil {
		return fmt.Errorf("read retention of %s: %w", table, err)
	}
	ttl := fmt.Sprintf("toDateTime(%s) + toIntervalDay(%d)", column, days)
	statement := fmt.Sprintf("ALTER TABLE %s MODIFY TTL %s", table, ttl)
	switch has := strings.Contains(made, " TTL "); {
	case engine == "Distributed", days == 0 && !has, days > 0 && strings.Contains(made, "TTL "+ttl):
		return nil
	case days == 0:
		statement = fmt.Sprintf("ALTER TABLE %s REMOVE TTL", table)
	}
	if err := s.conn.Exec(ctx, statement+" SETTINGS materialize_ttl_after_modify = 0"); err != nil {
		return fmt.Errorf("set retention of %s: %w", table, err)
	}
	return nil
}
