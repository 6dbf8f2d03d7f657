package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	clickhousePrefix = "clickhouse-usage-"
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

// copyClickHouse copies the calls, a file a day: the table usage has them all.
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
		err := to.file(fmt.Sprintf("%s%d%s", clickhousePrefix, day, clickhouseSuffix), func(w io.Writer) (int64, error) {
			count, err := store.column(ctx, "SELECT count()"+where)
			if err != nil || len(count) != 1 {
				return 0, errors.Join(err, errors.New("count calls"))
			}
			answer, err := store.ask(ctx, "SELECT *"+where+" FORMAT Native", nil)
			if err != nil {
				return 0, err
			}
			defer answer.Close()
			_, err = io.Copy(w, answer)
			return count[0], err
		})
		if err != nil {
			return err
		}
	}
	return nil
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
		err := from.file(clickhousePrefix+day+clickhouseSuffix, func(r io.Reader) error {
			answer, err := store.ask(ctx, "INSERT INTO usage FORMAT Native", r)
			if err != nil {
				return err
			}
			return answer.Close()
		})
		if err != nil {
			return err
		}
	}
	return nil
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
