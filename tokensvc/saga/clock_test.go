package saga

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// clock gives Postgres a clock that the test sets: its functions stand before Postgres' own. The clock
// of the process is ahead of one that is behind.
func (w *world) clock(ahead time.Duration) (set func(ahead time.Duration)) {
	w.t.Helper()
	_, err := w.pool.Exec(w.t.Context(), `CREATE SCHEMA clock; CREATE TABLE clock.ahead (by interval NOT NULL);
		INSERT INTO clock.ahead VALUES ('0');
		CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT pg_catalog.now() + by FROM clock.ahead';
		CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT pg_catalog.clock_timestamp() + by FROM clock.ahead';`)
	if err != nil {
		w.t.Fatal(err)
	}
	cfg := w.pool.Config().Copy()
	cfg.ConnConfig.RuntimeParams["search_path"] = "clock, pg_catalog, public"
	own, err := pgxpool.NewWithConfig(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(own.Close)
	w.pool = own
	set = func(ahead time.Duration) {
		w.t.Helper()
		if _, err := w.pool.Exec(w.t.Context(), `UPDATE clock.ahead SET by = $1`, interval(ahead)); err != nil {
			w.t.Fatal(err)
		}
	}
	set(ahead)
	return set
}

// TestReplicaAheadForgetsNoKey: a client's repeat of an order is no second purchase, whatever the clock
// of the replica that forgets old keys.
func TestReplicaAheadForgetsNoKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.clock(-25 * time.Hour)
	w.attach(nil)
	first := w.call(t, user(alice), "POST", path, "once", order1(alice, ""))
	// As of a replica whose clock is Postgres'.
	if _, err := w.pool.Exec(t.Context(), `UPDATE token_purchase_key SET created_at = now()`); err != nil {
		t.Fatal(err)
	}
	if err := w.service.recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.call(t, user(alice), "POST", path, "once", order1(alice, "")); got.status != 202 || got.text != first.text {
		t.Errorf("want the first answer, got %d %s", got.status, got.text)
	}
	if n := w.number(`SELECT count(*) FROM token_purchase_saga`); n != 1 {
		t.Errorf("want one purchase, got %d", n)
	}
}

// TestTimesOfAPurchaseAreOfOneClock: those that its owner and its events are told, whatever the clocks
// of the replicas, grow with its steps; also where Postgres' clock is set back in between.
func TestTimesOfAPurchaseAreOfOneClock(t *testing.T) {
	t.Parallel()
	for name, back := range map[string]time.Duration{"a replica ahead": 0, "postgres set back": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			set := w.clock(-48 * time.Hour)
			w.attach(nil)
			id := w.buy(user(alice), order1(alice, ""))
			set(-48*time.Hour - back)
			w.run()
			row := w.until(id, final)
			inTime := w.number(`SELECT count(*) FROM token_purchase_saga WHERE created_at <= now() + $1`, interval(back)) == 1
			if row.Status != "COMPLETED" || !inTime {
				t.Errorf("want it completed, and made at the time of Postgres, got %+v", row)
			}
			events, err := w.pool.Query(t.Context(), `SELECT (payload ->> 'createdAt')::timestamptz, (payload ->> 'updatedAt')::timestamptz
				FROM token_outbox WHERE aggregate_id = $1 ORDER BY seq`, id)
			if err != nil {
				t.Fatal(err)
			}
			n, last := 0, row.CreatedAt.Add(-time.Millisecond)
			for ; events.Next(); n++ {
				var created, updated time.Time
				if err := events.Scan(&created, &updated); err != nil {
					t.Fatal(err)
				}
				if !created.Equal(row.CreatedAt) || updated.Sub(last) < time.Millisecond || updated.After(row.UpdatedAt) {
					t.Errorf("event %d: want times between %v and %v that grow, got %v and %v after %v", n, row.CreatedAt, row.UpdatedAt, created, updated, last)
				}
				last = updated
			}
			if n != 4 || events.Err() != nil || !last.Equal(row.UpdatedAt) {
				t.Errorf("want four events up to %v, got %d up to %v, %v", row.UpdatedAt, n, last, events.Err())
			}
		})
	}
}

// TestPostgresWasAhead by an hour and was set right: what was ordered meanwhile, leased by a worker that
// died or to be tried again goes on, and does not wait for an hour.
func TestPostgresWasAhead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	set := w.clock(time.Hour)
	w.attach(nil)
	leased, again := w.buy(user(alice), order1(alice, "")), w.buy(user(alice), order1(alice, ""))
	rows, err := w.service.claim(t.Context(), 2)
	if err != nil || len(rows) != 2 {
		t.Fatalf("want two claimed, got %+v, %v", rows, err)
	}
	for _, row := range rows {
		if row.ID.String() == again {
			w.service.later(t.Context(), row, Authorize, errLost1)
		}
	}
	ordered := w.buy(user(alice), order1(alice, ""))
	set(0)
	w.run()
	for _, id := range []string{leased, again, ordered} {
		if row := w.until(id, final); row.Status != "COMPLETED" {
			t.Errorf("want it completed, got %+v", row)
		}
	}
}
