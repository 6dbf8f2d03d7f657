package analytics

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

//go:embed migrations/*.sql
var migrations embed.FS

// StoreConfig says where the events are kept.
type StoreConfig struct {
	URL     string        // http://[user:password@]host:port/database
	Timeout time.Duration // of one query or insert; default 10 s
	Log     *slog.Logger

	KeepDays   int // calls older than so many days are dropped, whole days at a time; 0: never
	RollupDays int // sums by minute, hour and day likewise; 0: never

	// HoldLife is how long a hold stands that nobody settles; before, the sweeper says nothing of its
	// call. 0: not known.
	HoldLife time.Duration
}

// Store is the table of usage events in ClickHouse.
type Store struct {
	conn     driver.Conn
	url      string // with its password
	timeout  time.Duration
	said     *retry.Troubles
	keep     int
	keepSums int
	holdLife time.Duration
	columns  []column
	ready    atomic.Bool
	refused  atomic.Pointer[Refuses] // what the last insert was answered; nil: it was taken

	marks     marks
	markedFor time.Duration // how long a mark serves, less than settleFor
	settleFor time.Duration // see rollup.go
	dropping  atomic.Bool   // calls older than keep are dropped
	neverSums bool          // for tests: every question is answered from the calls
}

// NewStore makes a store; it connects with the first query.
func NewStore(cfg StoreConfig) (*Store, error) {
	if cfg.URL == "" {
		return nil, errors.New("open event store: no URL; set LEAKY_CLICKHOUSE_URL or stores.clickhouse")
	}
	options, err := clickhouse.ParseDSN(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("open event store: the URL must be http://host:port/database: %w", redacted(err, cfg.URL))
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 10 * time.Second
	}
	options.DialTimeout = min(cfg.Timeout, 3*time.Second)
	options.ReadTimeout = cfg.Timeout
	options.MaxOpenConns = 8
	if options.Settings == nil {
		options.Settings = clickhouse.Settings{}
	}
	options.Settings["cancel_http_readonly_queries_on_client_close"] = 1 // who gave up leaves nothing running
	conn, err := clickhouse.Open(options)
	if err != nil {
		return nil, fmt.Errorf("open event store: %w", redacted(err, cfg.URL))
	}
	return &Store{conn: conn, url: cfg.URL, timeout: cfg.Timeout, said: retry.NewTroubles(cfg.Log),
		keep: cfg.KeepDays, keepSums: cfg.RollupDays, holdLife: cfg.HoldLife,
		columns: columns(), marks: marks{at: map[int64]time.Time{}}, markedFor: defaultMarked, settleFor: defaultSettle}, nil
}

// redacted drops a URL, which may hold a password, from an error.
func redacted(err error, url string) error {
	return errors.New(strings.ReplaceAll(err.Error(), url, "(url)"))
}

// Close gives the connections back.
func (s *Store) Close() error { return s.conn.Close() }

// Ping asks ClickHouse for the least that it can answer.
func (s *Store) Ping(ctx context.Context) error { return s.conn.Ping(ctx) }

// Ready reports whether the schema is in place.
func (s *Store) Ready() bool { return s.ready.Load() }

// Run brings the schema up to date, again and again until ClickHouse answers.
func (s *Store) Run(ctx context.Context) error {
	retry.Away().Forever(ctx, s.said, "migrate event store", s.Migrate)
	return nil
}

// migrateTimes is how many times as long as a query a migration may take: it may copy a table.
const migrateTimes = 60

// Migrate applies the migrations that are missing. Each is idempotent, so that two
// replicas may do it at once.
func (s *Store) Migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTimes*s.timeout)
	defer cancel()
	const versions = `CREATE TABLE IF NOT EXISTS analytics_schema_version
		(version UInt32, applied_at DateTime DEFAULT now()) ENGINE = ReplacingMergeTree ORDER BY version`
	if err := s.conn.Exec(ctx, versions); err != nil {
		return fmt.Errorf("create version table: %w", err)
	}
	var have uint32
	if err := s.conn.QueryRow(ctx, "SELECT max(version) FROM analytics_schema_version").Scan(&have); err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	files, err := migrations.ReadDir("migrations")
	if err != nil {
		return fmt.Errorf("list migrations: %w", err)
	}
	for i, file := range files { // sorted by name; one statement each, version = place
		version := uint32(i + 1)
		if version <= have {
			continue
		}
		statement, err := migrations.ReadFile("migrations/" + file.Name())
		if err != nil {
			return fmt.Errorf("read migration: %w", err)
		}
		if err := s.conn.Exec(ctx, string(statement)); err != nil {
			return fmt.Errorf("apply migration %s: %w", file.Name(), err)
		}
		if err := s.conn.Exec(ctx, fmt.Sprintf("INSERT INTO analytics_schema_version (version) VALUES (%d)", version)); err != nil {
			return fmt.Errorf("record migration %s: %w", file.Name(), err)
		}
	}
	s.forgetMarks() // the database may be another one
	if err := s.retain(ctx); err != nil {
		return err
	}
	s.ready.Store(true)
	return nil
}

// key is what a stored row is sorted by, beside the call's id.
type key struct {
	provider, user string
	at             time.Time
}

// elsewhere says whether a call may be stored under another key already. Only three kinds can: what
// the sweeper says of a call that nobody settled, whose clock is the limiter's; corrections; and what
// comes of a call so late that the sweeper may have spoken, from books that know nothing of its hold
// (Redis lost it, and the meter reads a line that it could not settle before). The sweeper waits as
// long as a hold lives. Half of that is left to clocks that differ.
//
// To look for every call would be simpler, and costs more than the insert: an index of ids is no more
// than a filter, and a thousand ids pass it nearly everywhere. Calls of while Redis is away have books
// that know nothing, too, and come at once.
func (s *Store) elsewhere(r *Row, now time.Time) bool {
	unheld := r.entry() == entryCall && r.Allowed && r.Pool == ""
	return r.Version > 0 || r.Source == usage.FromExpiry || unheld && now.Sub(r.Timestamp) > s.holdLife/2
}

// sameCall is how far apart two times of one call can lie, by clocks and by how long it ran, and far more.
const sameCall = 7 * 24 * time.Hour

// settle gives the rows of calls that may be stored already the key that they have there, so that
// they replace and never double.
func (s *Store) settle(ctx context.Context, rows []Row) error {
	var ids []string
	now := time.Now()
	from, to := now, time.Time{}
	for i := range rows {
		if s.elsewhere(&rows[i], now) {
			ids = append(ids, rows[i].RequestID)
			if at := rows[i].Timestamp; at.Before(from) {
				from = at
			}
			if at := rows[i].Timestamp; at.After(to) {
				to = at
			}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	// Days are partitions: those without the calls are not looked through.
	found, err := s.conn.Query(ctx, `SELECT request_id, provider, user_id, timestamp FROM usage
		WHERE request_id IN (?) AND entry = 'call' AND timestamp >= ? AND timestamp < ? ORDER BY inserted_at DESC, precedence`,
		ids, from.Add(-sameCall), to.Add(sameCall))
	if err != nil {
		return fmt.Errorf("query stored calls: %w", err)
	}
	defer found.Close()
	stored := map[string]key{}
	for found.Next() { // the oldest of a call comes last, and stands
		var id string
		var k key
		if err := found.Scan(&id, &k.provider, &k.user, &k.at); err != nil {
			return fmt.Errorf("scan stored call: %w", err)
		}
		stored[id] = k
	}
	for i := range rows {
		if k, there := stored[rows[i].RequestID]; there {
			rows[i].Provider, rows[i].UserID, rows[i].Timestamp = k.provider, k.user, k.at
		}
	}
	return found.Err()
}

// Insert writes the rows as one block. The same token with the same rows is written
// once, also when the answer to the first attempt was lost.
func (s *Store) Insert(ctx context.Context, token string, rows []Row) error {
	if !s.ready.Load() {
		return errNotReady
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	err := s.settle(ctx, rows)
	var marked time.Time
	if err == nil {
		marked, err = s.touch(ctx, rows, false)
	}
	if err == nil {
		err = s.insert(ctx, token, rows)
	}
	if err == nil && time.Since(marked) >= s.settleFor { // sums may have been made meanwhile
		_, err = s.touch(ctx, rows, true)
	}
	err = s.madeAnew(ctx, err)
	s.refused.Store(refusal(err))
	if err != nil {
		return fmt.Errorf("insert batch of %d: %w", len(rows), err)
	}
	return nil
}

// madeAnew makes the tables again where an error says that they are gone, so that the next attempt finds
// them.
func (s *Store) madeAnew(ctx context.Context, err error) error {
	if gone, ok := errors.AsType[*clickhouse.Exception](err); ok && gone.Code == codeUnknownTable {
		return errors.Join(err, s.Migrate(ctx))
	}
	return err
}

func (s *Store) insert(ctx context.Context, token string, rows []Row) error {
	names := make([]string, len(s.columns))
	for i, c := range s.columns {
		names[i] = c.name
	}
	// The settings are in the text, since a setting beside the query is lost on engines
	// that take only text. A backlog may span more days than the default 100 partitions.
	query := fmt.Sprintf("INSERT INTO usage (%s) SETTINGS insert_deduplication_token = '%s', max_partitions_per_insert_block = 0",
		strings.Join(names, ", "), strings.NewReplacer(`'`, "", `\`, "").Replace(token))
	batch, err := s.conn.PrepareBatch(clickhouse.Context(ctx, clickhouse.WithColumnNamesAndTypes(columnTypes(s.columns))), query)
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	defer batch.Close()
	values := make([]any, len(s.columns))
	for i := range rows {
		for j, c := range s.columns {
			values[j] = c.value(&rows[i])
		}
		if err := batch.Append(values...); err != nil {
			return fmt.Errorf("append: %w", err)
		}
	}
	return batch.Send()
}

// codeUnknownTable is ClickHouse's UNKNOWN_TABLE.
const codeUnknownTable = 60

// errNotReady says that ClickHouse has not answered yet.
var errNotReady = errors.New("event store is not ready")
