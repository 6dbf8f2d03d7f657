package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	clickhousePrefix = "clickhouse-usage-"
	clickhouseTable  = "clickhouse-table-"
	clickhouseSuffix = ".native.gz"
	// dayOf is the partition of a row, which is a day.
	dayOf = "toYYYYMMDD(timestamp)"
	// answerWait bounds the wait for the first byte of an answer.
	answerWait = 10 * time.Minute
)

// clickhouse asks over HTTP, whose answers can be copied as they come.
type clickhouse struct {
	base     url.URL
	user     *url.Userinfo
	database string
	http     *http.Client
}

func openClickHouse(address string) (*clickhouse, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("the URL of ClickHouse must be http(s)://user:password@host:port/database")
	}
	transport := &http.Transport{Proxy: nil, ResponseHeaderTimeout: answerWait}
	return &clickhouse{base: url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}, user: u.User,
		database: strings.Trim(u.Path, "/"), http: &http.Client{Transport: transport}}, nil
}

// ask sends a statement, with rows behind it if there are any. The caller closes the answer.
func (c *clickhouse) ask(ctx context.Context, statement string, rows io.Reader) (io.ReadCloser, error) {
	at := c.base
	query := url.Values{"query": {statement}}
	if c.database != "" {
		query.Set("database", c.database)
	}
	at.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at.String(), rows)
	if err != nil {
		return nil, errors.New("ask ClickHouse: the URL cannot be used")
	}
	if c.user != nil {
		password, _ := c.user.Password()
		req.Header.Set("X-ClickHouse-User", c.user.Username())
		req.Header.Set("X-ClickHouse-Key", password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask ClickHouse: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 500)) // an error of the transport says less than the status
	return nil, fmt.Errorf("ClickHouse answered %s: %s", resp.Status, bytes.TrimSpace(said))
}

// column reads one column of whole numbers.
func (c *clickhouse) column(ctx context.Context, statement string) ([]int64, error) {
	answer, err := c.ask(ctx, statement+" FORMAT TSV", nil)
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	text, err := io.ReadAll(answer)
	if err != nil {
		return nil, fmt.Errorf("read ClickHouse's answer: %w", err)
	}
	var all []int64
	for _, line := range strings.Fields(string(text)) {
		n, err := strconv.ParseInt(line, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read ClickHouse's answer: %w", err)
		}
		all = append(all, n)
	}
	return all, nil
}

// wholeTables are copied as they are. What usage_rolled names of the sums is copied before them, so
// that each sum it names is there; sums of calls that are still kept are made anew after a restore.
func wholeTables() []string {
	return []string{"usage_rolled", "usage_minute", "usage_hour", "usage_day", "purchase_events"}
}

// copyClickHouse copies the calls, a file a day, then the sums, which are kept for longer, and what
// became of purchases.
func copyClickHouse(ctx context.Context, c Config, to *writer, _ *Manifest) error {
	store, err := openClickHouse(c.ClickHouse)
	if err != nil {
		return err
	}
	days, err := store.column(ctx, "SELECT DISTINCT "+dayOf+" AS day FROM usage ORDER BY day")
	if err != nil {
		return err
	}
	for _, day := range days {
		where := fmt.Sprintf(" FROM usage FINAL WHERE %s = %d", dayOf, day)
		if err := store.copy(ctx, to, fmt.Sprintf("%s%d%s", clickhousePrefix, day, clickhouseSuffix), where); err != nil {
			return err
		}
	}
	for _, table := range wholeTables() {
		if err := store.copy(ctx, to, clickhouseTable+table+clickhouseSuffix, " FROM "+table); err != nil {
			return err
		}
	}
	return nil
}

// copy writes the rows of a query's rest into a file of the backup.
func (s *clickhouse) copy(ctx context.Context, to *writer, name, rest string) error {
	return to.file(name, func(w io.Writer) (int64, error) {
		count, err := s.column(ctx, "SELECT count()"+rest)
		if err != nil || len(count) != 1 {
			return 0, errors.Join(err, errors.New("count rows"))
		}
		answer, err := s.ask(ctx, "SELECT *"+rest+" FORMAT Native", nil)
		if err != nil {
			return 0, err
		}
		defer answer.Close()
		_, err = io.Copy(w, answer)
		return count[0], err
	})
}

func fillClickHouse(ctx context.Context, c Config, from *reader) error {
	if err := c.Events(ctx); err != nil {
		return fmt.Errorf("make schema: %w", err)
	}
	store, err := openClickHouse(c.ClickHouse)
	if err != nil {
		return err
	}
	for _, day := range from.with(clickhousePrefix, clickhouseSuffix) {
		if err := store.fill(ctx, from, clickhousePrefix+day+clickhouseSuffix, "usage"); err != nil {
			return err
		}
	}
	for _, table := range from.with(clickhouseTable, clickhouseSuffix) {
		if !slices.Contains(wholeTables(), table) {
			return fmt.Errorf("the backup has a table %q, which this version does not know", table)
		}
		if err := store.fill(ctx, from, clickhouseTable+table+clickhouseSuffix, table); err != nil {
			return err
		}
	}
	return nil
}

// fill puts the rows of a file into a table.
func (s *clickhouse) fill(ctx context.Context, from *reader, name, table string) error {
	return from.file(name, func(r io.Reader) error {
		answer, err := s.ask(ctx, "INSERT INTO "+table+" FORMAT Native", r)
		if err != nil {
			return err
		}
		return answer.Close()
	})
}

func emptyClickHouse(ctx context.Context, c Config) error {
	store, err := openClickHouse(c.ClickHouse)
	if err != nil {
		return err
	}
	there, err := store.column(ctx, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'usage'")
	if err != nil {
		return fmt.Errorf("look at ClickHouse: %w", err)
	}
	if len(there) != 1 || there[0] == 0 {
		return nil
	}
	rows, err := store.column(ctx, "SELECT count() FROM usage")
	if err != nil {
		return fmt.Errorf("look at ClickHouse: %w", err)
	}
	if len(rows) != 1 || rows[0] > 0 {
		return errors.New("ClickHouse has calls; a restore goes into an empty database (TRUNCATE TABLE usage)")
	}
	return nil
}
