package chdb

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

type call struct {
	method, path string
	query        url.Values
	header       map[string]string
	body         []byte
}

func (c call) do(tb testing.TB) (*http.Response, string) {
	tb.Helper()
	method := c.method
	if method == "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(tb.Context(), method, "http://"+start(tb).addr+"/"+c.path+"?"+c.query.Encode(), bytes.NewReader(c.body))
	if err != nil {
		tb.Fatal(err)
	}
	for name, value := range c.header {
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return res, string(body)
}

func zipped(tb testing.TB, text string) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	packed, err := pack([]byte("SELECT 42"), "ZSTD")
	if err != nil {
		t.Fatal(err)
	}
	q := func(pairs ...string) url.Values {
		v := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			v.Set(pairs[i], pairs[i+1])
		}
		return v
	}
	for name, c := range map[string]struct {
		call
		status int
		code   string // X-ClickHouse-Exception-Code
		want   string // within the body
	}{
		"ping":                   {call: call{method: "GET", path: "ping"}, status: 200, want: "Ok.\n"},
		"root without statement": {call: call{method: "GET"}, status: 200, want: "Ok.\n"},
		"other path":             {call: call{method: "GET", path: "play"}, status: 404, code: "1002", want: "no handle /play"},
		"other method":           {call: call{method: "PUT"}, status: 405, code: "48"},
		"statement in the URL":   {call: call{method: "GET", query: q("query", "SELECT 1")}, status: 200, want: "1\n"},
		"statement in the body":  {call: call{body: []byte("SELECT 1+1")}, status: 200, want: "2\n"},
		"statement in both":      {call: call{query: q("query", "SELECT 1+"), body: []byte("2")}, status: 200, want: "3\n"},
		"format in the URL":      {call: call{query: q("default_format", "JSONEachRow"), body: []byte("SELECT 1 AS a")}, status: 200, want: `{"a":1}`},
		"format in the header":   {call: call{header: map[string]string{"X-ClickHouse-Format": "CSV"}, body: []byte("SELECT 'a'")}, status: 200, want: `"a"`},
		"format in statement":    {call: call{query: q("default_format", "Native", "client_protocol_version", "54478"), body: []byte("SELECT 'a' FORMAT CSV")}, status: 200, want: `"a"`},
		"parameter":              {call: call{query: q("param_x", `a\tb'`), body: []byte("SELECT length({x:String})")}, status: 200, want: "4\n"},
		"parameter missing":      {call: call{body: []byte("SELECT {x:String}")}, status: 400, code: "456"},
		"setting":                {call: call{query: q("max_threads", "1"), body: []byte("SELECT getSetting('max_threads')")}, status: 200, want: "1\n"},
		"setting unknown":        {call: call{query: q("no_such_setting", "1"), body: []byte("SELECT 1")}, status: 404, code: "115"},
		"setting with quotes":    {call: call{query: q("a' = 1, b", "1"), body: []byte("SELECT 1")}, status: 404, code: "115"},
		"setting value quoted":   {call: call{query: q("log_comment", `it's \ here`), body: []byte("SELECT getSetting('log_comment')")}, status: 200, want: `it\'s \\ here`},
		"database unknown":       {call: call{query: q("database", "no`such"), body: []byte("SELECT 1")}, status: 404, code: "81"},
		"database":               {call: call{query: q("database", "system"), body: []byte("SELECT currentDatabase()")}, status: 200, want: "system\n"},
		"session":                {call: call{query: q("session_id", "s"), body: []byte("SELECT 1")}, status: 501, code: "48"},
		"syntax error":           {call: call{body: []byte("SELEC 1")}, status: 400, code: "62", want: "Code: 62. DB::Exception"},
		"unknown column":         {call: call{body: []byte("SELECT nosuch")}, status: 404, code: "47"},
		"unknown table":          {call: call{body: []byte("SELECT * FROM nosuch")}, status: 404, code: "60"},
		"query timeout":          {call: call{query: q("max_execution_time", "1"), body: []byte("SELECT count() FROM system.numbers")}, status: 408, code: "159"},
		"answer too large":       {call: call{query: q("max_result_rows", "10"), body: []byte("SELECT number FROM numbers(1000000)")}, status: 500, code: "396"},
		"GET changes nothing":    {call: call{method: "GET", query: q("query", "CREATE DATABASE nope")}, status: 403, code: "164"},
		"readonly not by client": {call: call{method: "GET", query: q("query", "CREATE DATABASE nope", "readonly", "0")}, status: 403, code: "164"},
		"cross-origin":           {call: call{header: map[string]string{"Sec-Fetch-Site": "cross-site"}, body: []byte("SELECT 1")}, status: 403},
		"gzip":                   {call: call{header: map[string]string{"Content-Encoding": "gzip"}, body: zipped(t, "SELECT 42")}, status: 200, want: "42\n"},
		"gzip of nothing":        {call: call{header: map[string]string{"Content-Encoding": "gzip"}, body: []byte("x")}, status: 400, code: "117"},
		"gzip bomb":              {call: call{header: map[string]string{"Content-Encoding": "gzip"}, body: zipped(t, strings.Repeat(" ", testMaxBody+1))}, status: 413, code: "307"},
		"brotli":                 {call: call{header: map[string]string{"Content-Encoding": "br"}, body: []byte("x")}, status: 415, code: "89"},
		"compressed blocks":      {call: call{query: q("decompress", "1"), body: packed}, status: 200, want: "42\n"},
		"broken blocks":          {call: call{query: q("decompress", "1"), body: append([]byte("x"), packed...)}, status: 400, code: "117"},
		"too large":              {call: call{body: bytes.Repeat([]byte(" "), testMaxBody+1)}, status: 413, code: "307"},
		"multipart":              {call: call{header: map[string]string{"Content-Type": "multipart/form-data; boundary=x"}, body: []byte("x")}, status: 501, code: "48"},
		"revision no number":     {call: call{query: q("client_protocol_version", "x"), body: []byte("SELECT 1")}, status: 400, code: "117"},
		"insert without rows":    {call: call{body: []byte("INSERT INTO nosuch FORMAT Native")}, status: 200},
		"insert nowhere":         {call: call{body: []byte("INSERT INTO nosuch VALUES (1)")}, status: 404, code: "60"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res, body := c.do(t)
			if res.StatusCode != c.status || res.Header.Get("X-ClickHouse-Exception-Code") != c.code || !strings.Contains(body, c.want) {
				t.Errorf("want %d, code %q and %q in the body, got %d, code %q, %q", c.status, c.code, c.want, res.StatusCode, res.Header.Get("X-ClickHouse-Exception-Code"), body)
			}
		})
	}
}

func TestCompressedAnswer(t *testing.T) {
	t.Parallel()
	for _, method := range []string{"LZ4", "ZSTD"} {
		c := call{query: url.Values{"compress": {"1"}, "network_compression_method": {method}}, body: []byte("SELECT repeat(repeat('x', 1000), 3000)")}
		res, body := c.do(t)
		// The reader wraps the EOF that ends the blocks.
		plain, err := io.ReadAll(compress.NewReader(strings.NewReader(body)))
		if res.StatusCode != http.StatusOK || !errors.Is(err, io.EOF) || len(plain) != 3000001 {
			t.Errorf("%s: want 3000001 bytes, got %d, status %d, %v", method, len(plain), res.StatusCode, err)
		}
	}
}

func TestOneRequestsStateNeverReachesAnother(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	exec(t, c, "SET max_threads = 7")
	exec(t, c, "USE system")
	if got := one[string](t, c, "SELECT getSetting('max_threads')::String"); got == "7" {
		t.Error("max_threads after another request's SET: want the default, got 7")
	}
	if got := one[string](t, c, "SELECT currentDatabase()"); got == "system" {
		t.Error("database after another request's USE: want the connection's, got system")
	}
}

func TestExceptionsHaveTheirCode(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	var n uint64
	err := c.QueryRow(t.Context(), "SELECT nosuch").Scan(&n)
	e, found := errors.AsType[*clickhouse.Exception](err)
	if !found || e.Code != 47 {
		t.Errorf("unknown column: want code 47, got %v", err)
	}
	if err := c.QueryRow(t.Context(), "SELECT 1 WHERE 0").Scan(&n); err == nil || strings.Contains(err.Error(), "decode") {
		t.Errorf("no rows: want that said, got %v", err)
	}
}

// What a retried insert relies on: the same token inserts nothing, in any partition.
func TestDeduplicationToken(t *testing.T) {
	t.Parallel()
	c := open(t, nil)
	exec(t, c, "CREATE TABLE t (id UInt64, p UInt8) ENGINE=MergeTree PARTITION BY p ORDER BY id SETTINGS non_replicated_deduplication_window = 1000")
	insert := func(token string) {
		ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"insert_deduplication_token": token}))
		batch, err := c.PrepareBatch(ctx, "INSERT INTO t")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			if err := batch.Append(uint64(i), uint8(i%3)); err != nil {
				t.Fatal(err)
			}
		}
		if err := batch.Send(); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		token string
		want  uint64
	}{{"LEAKY:1-100", 100}, {"LEAKY:1-100", 100}, {"LEAKY:101-200", 200}, {"LEAKY:1-100", 200}} {
		insert(step.token)
		if got := one[uint64](t, c, "SELECT count() FROM t"); got != step.want {
			t.Errorf("rows after token %s: want %d, got %d", step.token, step.want, got)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	c := open(t, func(o *clickhouse.Options) { o.MaxOpenConns, o.MaxIdleConns = 16, 16 })
	exec(t, c, "CREATE TABLE t (worker UInt32, i UInt32) ENGINE=MergeTree ORDER BY (worker, i)")
	const workers, rounds = 12, 8
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			for i := range rounds {
				batch, err := c.PrepareBatch(t.Context(), "INSERT INTO t")
				if err == nil {
					err = batch.Append(uint32(worker), uint32(i))
				}
				if err == nil {
					err = batch.Send()
				}
				var n uint64
				if err == nil {
					err = c.QueryRow(t.Context(), "SELECT count() FROM t WHERE worker = ?", worker).Scan(&n)
				}
				if err != nil || n != uint64(i+1) {
					t.Errorf("worker %d reads its own rows: want %d, got %d, %v", worker, i+1, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := one[uint64](t, c, "SELECT count() FROM t"); got != workers*rounds {
		t.Errorf("rows: want %d, got %d", workers*rounds, got)
	}
}

// TestAbandonedQueriesFreeTheEngine: those whose clients are gone end, so that as many as run at once and
// more leave room for the next.
func TestAbandonedQueriesFreeTheEngine(t *testing.T) {
	t.Parallel()
	c := open(t, func(o *clickhouse.Options) { o.MaxOpenConns, o.MaxIdleConns = 16, 16 })
	const endless = "SELECT sum(cityHash64(number)) FROM numbers(1000000000000000) SETTINGS max_execution_time = 0"
	const running = "SELECT count() FROM system.processes WHERE query LIKE 'SELECT sum(cityHash64(number))%'"
	waits, leave := context.WithCancel(t.Context())
	defer leave()
	left := make(chan error, 8)
	ask := func() {
		var n uint64
		left <- c.QueryRow(waits, endless).Scan(&n)
	}
	go ask()
	testenv.Eventually(t, "the query runs", func() bool { return one[uint64](t, c, running) > 0 })
	for range cap(left) - 1 {
		go ask()
	}
	leave()
	for range cap(left) {
		if err := <-left; err == nil {
			t.Error("want the client to give up, got an answer")
		}
	}
	testenv.Eventually(t, "none of them runs", func() bool { return one[uint64](t, c, running) == 0 })
}

func BenchmarkInsert(b *testing.B) {
	c := open(b, nil)
	exec(b, c, "CREATE TABLE t (ts DateTime64(3), user String, provider LowCardinality(String), tokens UInt32) ENGINE=MergeTree ORDER BY ts")
	for _, rows := range []int{1, 1000, 100000} {
		b.Run(fmt.Sprint(rows), func(b *testing.B) {
			for b.Loop() {
				batch, err := c.PrepareBatch(b.Context(), "INSERT INTO t")
				if err != nil {
					b.Fatal(err)
				}
				for i := range rows {
					if err := batch.Append(int64(i), "user", "openai", uint32(i)); err != nil {
						b.Fatal(err)
					}
				}
				if err := batch.Send(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(rows*b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
