package chdb

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
)

// engine is the one engine that a process can have, for all tests of this package.
type engine struct {
	addr      string
	databases atomic.Int64
	stop      context.CancelFunc
	ended     chan error
}

// what TestMain stops
var running atomic.Pointer[engine]

const testMaxBody = 8 << 20

// a process can load the engine once
var sharedEngine = sync.OnceValues(func() (*engine, error) {
	store, err := binaries.New(binaries.Config{CacheDir: config.CacheDir(os.Getenv)})
	if err != nil {
		return nil, err
	}
	if err := store.Ensure(context.Background(), binaries.ClickHouse); err != nil {
		return nil, err
	}
	lib, err := store.CHDBLib()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "chdb-test-")
	if err != nil {
		return nil, err
	}
	s, err := New(Config{Lib: lib, Path: filepath.Join(dir, "data"), Listen: "127.0.0.1:0", MaxBody: testMaxBody, NoSync: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	e := &engine{ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	e.stop = cancel
	go func() { e.ended <- s.Run(ctx) }()
	select {
	case <-s.Ready():
		e.addr = s.Addr().String()
		running.Store(e)
		return e, nil
	case err := <-e.ended:
		return nil, err
	}
})

func TestMain(m *testing.M) {
	code := m.Run()
	if e := running.Load(); e != nil {
		e.stop()
		if err := <-e.ended; err != nil {
			fmt.Fprintln(os.Stderr, "stop:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func start(tb testing.TB) *engine {
	tb.Helper()
	e, err := sharedEngine()
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// open connects clickhouse-go to a database of the test's own.
func open(tb testing.TB, change func(*clickhouse.Options)) driver.Conn {
	tb.Helper()
	e := start(tb)
	name := fmt.Sprintf("d%d", e.databases.Add(1))
	options := &clickhouse.Options{Addr: []string{e.addr}, Protocol: clickhouse.HTTP, ReadTimeout: 30 * time.Second}
	admin, err := clickhouse.Open(options)
	if err != nil {
		tb.Fatal(err)
	}
	defer admin.Close()
	if err := admin.Exec(tb.Context(), "CREATE DATABASE "+name); err != nil {
		tb.Fatal(err)
	}
	own := *options
	own.Auth.Database = name
	if change != nil {
		change(&own)
	}
	conn, err := clickhouse.Open(&own)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return conn
}

func exec(tb testing.TB, c driver.Conn, statement string) {
	tb.Helper()
	if err := c.Exec(tb.Context(), statement); err != nil {
		tb.Fatalf("%s: %v", strings.Fields(statement)[0], err)
	}
}

func one[T any](tb testing.TB, c driver.Conn, query string, args ...any) T {
	tb.Helper()
	var value T
	if err := c.QueryRow(tb.Context(), query, args...).Scan(&value); err != nil {
		tb.Fatalf("%s: %v", query, err)
	}
	return value
}

func TestVersion(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	version, err := c.ServerVersion()
	if err != nil || version.Version.Major < 26 {
		t.Errorf("server version: want 26 or later, got %v, %v", version, err)
	}
	if err := c.Ping(t.Context()); err != nil {
		t.Errorf("ping: want no error, got %v", err)
	}
}

// Go's runtime needs its own signal handlers after the engine has been at them. The test
// runs alone: while another one opens a connection, the engine's are in their place, and
// the nil pointer would end the process.
func TestNilPointersStillPanic(t *testing.T) {
	one[uint8](t, open(t, nil), "SELECT 1")
	defer func() {
		if recover() == nil {
			t.Error("nil pointer: want a panic, got none")
		}
	}()
	var p *engine
	_ = p.addr
}

func TestInsertsOfEveryWidthAndByte(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	// A block starts with its number of columns: 9, 10, 11, 12, 13 and 32 are white space.
	for _, width := range []int{1, 9, 10, 11, 12, 13, 32, 59} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			t.Parallel()
			var columns, names []string
			for i := range width {
				columns, names = append(columns, fmt.Sprintf("c%d UInt8", i)), append(names, fmt.Sprintf("c%d", i))
			}
			table := fmt.Sprintf("w%d", width)
			exec(t, c, "CREATE TABLE "+table+" ("+strings.Join(columns, ", ")+") ENGINE=MergeTree ORDER BY c0")
			for last := range 256 { // whatever byte the body ends with
				if last%16 != 0 && !strings.ContainsRune(" \t\n\v\f\r;'\"`-#/*", rune(last)) {
					continue
				}
				batch, err := c.PrepareBatch(t.Context(), "INSERT INTO "+table)
				if err != nil {
					t.Fatal(err)
				}
				row := make([]any, width)
				for i := range row {
					row[i] = uint8(last)
				}
				for range 3 {
					if err := batch.Append(row...); err != nil {
						t.Fatal(err)
					}
				}
				if err := batch.Send(); err != nil {
					t.Fatal(err)
				}
				sum := one[uint64](t, c, "SELECT toUInt64(count()) FROM "+table+" WHERE "+strings.Join(names, "+")+" = ?", width*last)
				if sum != 3 {
					t.Errorf("rows of byte %d: want 3, got %d", last, sum)
				}
			}
		})
	}
}

func TestTypesRoundTrip(t *testing.T) {
	t.Parallel()
	for name, compression := range map[string]*clickhouse.Compression{
		"plain": nil, "lz4": {Method: clickhouse.CompressionLZ4}, "zstd": {Method: clickhouse.CompressionZSTD, Level: 1},
		"gzip": {Method: clickhouse.CompressionGZIP, Level: 1}, "deflate": {Method: clickhouse.CompressionDeflate, Level: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := open(t, func(o *clickhouse.Options) { o.Compression = compression })
			exec(t, c, `CREATE TABLE t (id UUID, at DateTime64(6, 'UTC'), low LowCardinality(String), n Nullable(Int64), list Array(String),
				m Map(String, UInt32), d Decimal(18, 4), f Float64, b Bool, e Enum8('a' = 1, 'b' = 2), s String) ENGINE=MergeTree ORDER BY id`)
			batch, err := c.PrepareBatch(t.Context(), "INSERT INTO t")
			if err != nil {
				t.Fatal(err)
			}
			at := time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)
			n := int64(-5)
			const rows = 3000
			for i := range rows {
				err := batch.Append(fmt.Sprintf("b2f5ff47-4366-47d9-8f3c-%012d", i), at, []string{"openai", "qwen"}[i%2], &n, []string{"x", "y"},
					map[string]uint32{"k": uint32(i)}, "12.3456", 0.5, true, "b", strings.Repeat("\x00\n ;é", i%7))
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := batch.Send(); err != nil {
				t.Fatal(err)
			}
			found, err := c.Query(t.Context(), "SELECT at, low, n, list, m, f, b, e, s FROM t ORDER BY id")
			if err != nil {
				t.Fatal(err)
			}
			defer found.Close()
			count := 0
			for ; found.Next(); count++ {
				var row struct {
					at        time.Time
					low, e, s string
					n         *int64
					list      []string
					m         map[string]uint32
					f         float64
					b         bool
				}
				if err := found.Scan(&row.at, &row.low, &row.n, &row.list, &row.m, &row.f, &row.b, &row.e, &row.s); err != nil {
					t.Fatal(err)
				}
				if !row.at.Equal(at) || *row.n != n || len(row.list) != 2 || row.m["k"] != uint32(count) || !row.b || row.e != "b" || row.s != strings.Repeat("\x00\n ;é", count%7) {
					t.Fatalf("row %d: want what was written, got %+v", count, row)
				}
			}
			if err := found.Err(); err != nil || count != rows {
				t.Errorf("rows: want %d, got %d, %v", rows, count, err)
			}
		})
	}
}
