package testenv_test

import (
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func TestClickHouseDatabasesAreApart(t *testing.T) {
	t.Parallel()
	one, two := click(t, testenv.ClickHouse(t)), click(t, testenv.ClickHouse(t))
	if err := one.Exec(t.Context(), "CREATE TABLE a (id UInt8) ENGINE=MergeTree ORDER BY id"); err != nil {
		t.Fatal(err)
	}
	if n := rows(t, one); n != 0 {
		t.Errorf("rows in the first database: want 0, got %d", n)
	}
	if err := two.Exec(t.Context(), "SELECT * FROM a"); err == nil {
		t.Error("the second database sees the first one's table: want an error, got none")
	}
}

func TestClickHouseKeepsItsRows(t *testing.T) {
	t.Parallel()
	server := testenv.ClickHouseServer(t)
	c := click(t, server.URL())
	if err := c.Exec(t.Context(), "CREATE TABLE a (id UInt8) ENGINE=MergeTree ORDER BY id"); err != nil {
		t.Fatal(err)
	}
	for i, end := range []func(){server.Kill, server.Stop} {
		batch, err := c.PrepareBatch(t.Context(), "INSERT INTO a")
		if err != nil {
			t.Fatal(err)
		}
		if err := batch.Append(uint8(i)); err != nil {
			t.Fatal(err)
		}
		if err := batch.Send(); err != nil {
			t.Fatal(err)
		}
		end()
		if err := c.Ping(t.Context()); err == nil {
			t.Error("ping of an ended engine: want an error, got none")
		}
		server.Restart()
		c = click(t, server.URL())
		if n := rows(t, c); n != uint64(i+1) {
			t.Errorf("rows after restart %d: want %d, got %d", i+1, i+1, n)
		}
	}
}

func click(t *testing.T, url string) driver.Conn {
	t.Helper()
	options, err := clickhouse.ParseDSN(url)
	if err != nil {
		t.Fatal(err)
	}
	c, err := clickhouse.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func rows(t *testing.T, c driver.Conn) uint64 {
	t.Helper()
	var n uint64
	if err := c.QueryRow(t.Context(), "SELECT count() FROM a").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
