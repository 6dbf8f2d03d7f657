package analytics

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// rowWriter writes rows in one format; Flush ends the body.
type rowWriter interface {
	Write(item) error
	Flush() error
}

// format is how an export is written.
type format struct {
	contentType string
	writer      func(io.Writer) (rowWriter, error)
}

func formats() map[string]format {
	return map[string]format{
		"ndjson": {"application/x-ndjson", func(w io.Writer) (rowWriter, error) { return ndjson{json.NewEncoder(w)}, nil }},
		"csv":    {"text/csv; charset=utf-8; header=present", newCSV},
	}
}

// export streams one call a line. If it cannot be completed the connection is cut, so that a reader
// never takes a part for the whole. Unlike elsewhere the provider may be left out, since books are
// compared over all of them.
func (a *API) export(w http.ResponseWriter, r *http.Request, caller reader) error {
	p, err := parseParams(r.URL.RawQuery, filterNames("format", "requestId")...)
	if err != nil {
		return err
	}
	f, err := caller.filter(r.Context(), p, false)
	if err != nil {
		return err
	}
	if f.RequestID, err = p.matching("requestId", requestID); err != nil {
		return err
	}
	if err := p.exportSpan(&f, time.Now()); err != nil {
		return err
	}
	name, err := p.text("format")
	if err != nil {
		return err
	}
	if name == "" {
		name = "ndjson"
	}
	as, lines := formats()[name]
	whole := map[string]func(http.ResponseWriter, *http.Request, Filter) error{"parquet": a.asParquet, "focus": a.asFocus}[name]
	if !lines && whole == nil {
		return bad("format must be ndjson, csv, parquet or focus")
	}
	if n := a.pending(r.Context()); n != nil {
		w.Header().Set(HeaderPending, strconv.FormatInt(*n, 10))
	}
	if whole != nil {
		return whole(w, r, f)
	}
	return a.stream(w, r, f, as)
}

// exportSpan is from and to, the last hour by default and with an open end: events may say that
// they begin a little ahead of our clock.
func (p params) exportSpan(f *Filter, now time.Time) (err error) {
	if f.From, err = p.moment("from"); err != nil {
		return err
	}
	if f.To, err = p.moment("to"); err != nil {
		return err
	}
	if f.From.IsZero() {
		f.From = now.UTC().Add(-time.Hour)
	}
	return nil
}

func (a *API) stream(w http.ResponseWriter, r *http.Request, f Filter, as format) error {
	var out rowWriter
	begin := func() error {
		if out != nil {
			return nil
		}
		w.Header().Set("Content-Type", as.contentType)
		w.WriteHeader(http.StatusOK)
		var err error
		out, err = as.writer(w)
		return err
	}
	for row, err := range a.cfg.Store.Export(r.Context(), f) {
		if err != nil && out == nil {
			return err
		}
		if err != nil {
			a.cfg.Log.LogAttrs(r.Context(), slog.LevelWarn, "export cut short", slog.Any("error", err))
			panic(http.ErrAbortHandler)
		}
		if begin() != nil || out.Write(newItem(row)) != nil {
			panic(http.ErrAbortHandler) // the reader is gone
		}
	}
	if begin() != nil || out.Flush() != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// ndjson is one JSON object a line.
type ndjson struct{ lines *json.Encoder }

func (n ndjson) Write(i item) error { return n.lines.Encode(i) }
func (n ndjson) Flush() error       { return nil }

// asCSV is RFC 4180, with a header.
type asCSV struct{ lines *csv.Writer }

func newCSV(w io.Writer) (rowWriter, error) {
	c := asCSV{csv.NewWriter(w)}
	return c, c.lines.Write([]string{"timestamp", "requestId", "version", "provider", "model", "modelServed", "route", "account", "userId",
		"orgId", "team", "keyId", "endUser", "session", "tags", "allowed", "status", "reason", "source", "stream", "attempts", "tokens",
		"inputTokens", "outputTokens", "cachedTokens", "cacheWrite5mTokens", "cacheWrite1hTokens", "toolInputTokens", "reasoningTokens",
		"audioTokens", "audioOutputTokens", "heldTokens", "costMicros", "currency", "priceVersion", "latencyMs", "firstByteMs"})
}

func (c asCSV) Write(i item) error {
	tags := url.Values{}
	for name, value := range i.Tags {
		tags.Set(name, value)
	}
	cost := "" // unpriced
	if i.CostMicros != nil {
		cost = strconv.FormatInt(*i.CostMicros, 10)
	}
	n := func(n int64) string { return strconv.FormatInt(n, 10) }
	return c.lines.Write([]string{i.Key.Timestamp.Format(time.RFC3339Nano), i.RequestID, n(i.Version), i.Provider, cell(i.Model),
		cell(i.ModelServed), i.Route, i.Account, i.UserID, i.OrgID, cell(i.Team), i.KeyID, cell(i.EndUser), cell(i.Session), cell(tags.Encode()),
		strconv.FormatBool(i.Allowed), strconv.Itoa(i.Status), cell(i.Reason), string(i.Source), strconv.FormatBool(i.Stream), n(i.Attempts),
		n(i.Tokens), n(i.InputTokens), n(i.OutputTokens), n(i.CachedTokens), n(i.CacheWrite5m), n(i.CacheWrite1h), n(i.ToolInput),
		n(i.ReasoningTokens), n(i.Audio), n(i.AudioOutput), n(i.HeldTokens), cost, i.Currency, i.PriceVersion, n(i.LatencyMS), n(i.FirstByteMS)})
}

func (c asCSV) Flush() error {
	c.lines.Flush()
	return c.lines.Error()
}

// cell is a text of a caller's, which a spreadsheet must not take for a formula (OWASP, CSV Injection).
func cell(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}
