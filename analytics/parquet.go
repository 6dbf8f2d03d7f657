package analytics

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// mostParquet is how many calls one file has: the engine makes it in memory.
const mostParquet = 1_000_000

// parquetColumns are those of the other formats, under their names.
const parquetColumns = `timestamp, request_id AS requestId, toInt64(version) AS version, toString(provider) AS provider,
	toString(model_asked) AS model, toString(model_served) AS modelServed, toString(route) AS route, account, user_id AS userId,
	org_id AS orgId, team, key_id AS keyId, end_user AS endUser, session, CAST(tags, 'Map(String, String)') AS tags, allowed, status,
	reason, toString(source) AS source,
	stream, attempts, tokens, input_tokens AS inputTokens, output_tokens AS outputTokens, cached_tokens AS cachedTokens,
	cache_write_5m_tokens AS cacheWrite5mTokens, cache_write_1h_tokens AS cacheWrite1hTokens, tool_input_tokens AS toolInputTokens,
	reasoning_tokens AS reasoningTokens, audio_tokens AS audioTokens, audio_output_tokens AS audioOutputTokens, held_tokens AS heldTokens,
	if(price_version = '', NULL, cost_micros) AS costMicros, toString(currency) AS currency, toString(price_version) AS priceVersion,
	latency_ms AS latencyMs, first_byte_ms AS firstByteMs`

// Parquet asks the engine for the calls of a filter as a file, which the caller closes.
func (s *Store) Parquet(ctx context.Context, f Filter) (io.ReadCloser, error) {
	if !s.ready.Load() {
		return nil, errNotReady
	}
	where, args := f.where()
	var calls uint64
	counting, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := s.conn.QueryRow(counting, "SELECT count() FROM usage FINAL WHERE entry = 'call' AND "+where+settings, args...).Scan(&calls); err != nil {
		return nil, fmt.Errorf("count calls: %w", err)
	}
	if calls > mostParquet {
		return nil, bad("%d calls, and a file of Parquet has %d at most; ask for a shorter time, or for csv or ndjson", calls, mostParquet)
	}
	return s.raw(ctx, "SELECT "+parquetColumns+" FROM (SELECT * FROM usage FINAL WHERE entry = 'call' AND "+where+
		") ORDER BY timestamp, requestId"+settings+" FORMAT Parquet", args)
}

// raw is a query whose answer is passed on in the engine's own format. Values go as parameters, and
// never into the text.
func (s *Store) raw(ctx context.Context, query string, args []any) (io.ReadCloser, error) {
	at, err := url.Parse(s.url)
	if err != nil {
		return nil, errors.New("open event store: the URL cannot be read")
	}
	values := url.Values{"database": {strings.Trim(at.Path, "/")}}
	var text strings.Builder
	for i, part := range strings.Split(query, "?") {
		text.WriteString(part)
		if i == len(args) {
			break
		}
		name, kind := fmt.Sprintf("p%d", i), "String"
		if _, number := args[i].(int64); number {
			kind = "Int64"
		}
		fmt.Fprintf(&text, "{%s:%s}", name, kind)
		values.Set("param_"+name, strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`).Replace(fmt.Sprint(args[i])))
	}
	to := url.URL{Scheme: at.Scheme, Host: at.Host, Path: "/", RawQuery: values.Encode()}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), strings.NewReader(text.String()))
	if err != nil {
		return nil, errors.New("open event store: the URL cannot be read")
	}
	if password, has := at.User.Password(); has || at.User.Username() != "" {
		r.SetBasicAuth(at.User.Username(), password)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("query event store: %w", redacted(err, s.url))
	}
	if res.StatusCode != http.StatusOK {
		const mostText = 1000
		why, _ := io.ReadAll(io.LimitReader(res.Body, mostText))
		return nil, errors.Join(fmt.Errorf("query event store: status %d: %s", res.StatusCode, why), res.Body.Close())
	}
	return res.Body, nil
}
