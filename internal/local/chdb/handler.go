package chdb

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
)

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ping", ok)
	mux.HandleFunc("/{$}", s.statement)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, fail(codeUnknown, http.StatusNotFound, "UNKNOWN_EXCEPTION", "There is no handle %s: use / and /ping", r.URL.Path))
	})
	return mux
}

func ok(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=UTF-8")
	_, _ = io.WriteString(w, "Ok.\n") // the client is gone
}

// statement answers GET and POST / as ClickHouse's HTTP interface does.
func (s *Server) statement(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost, http.MethodGet, http.MethodHead:
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		s.fail(w, r, fail(codeNotImplemented, http.StatusMethodNotAllowed, "NOT_IMPLEMENTED", "Method %s is not allowed", r.Method))
		return
	}
	q, err := parseRequest(r, s.cfg.MaxBody)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if len(strings.TrimSpace(string(q.text[:min(len(q.text), 64)]))) == 0 {
		ok(w, r) // what a probe of / gets
		return
	}
	if q.id == "" {
		q.id = rand.Text()
	}
	w.Header().Set("X-ClickHouse-Query-Id", q.id)
	got, err := s.run(r.Context(), q)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answer(w, r, q, got)
}

// run gives the statement a connection of its own and waits for its turn if need be.
func (s *Server) run(ctx context.Context, q request) (result, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return result{}, fail(codeTooManyQueries, http.StatusServiceUnavailable, "TOO_MANY_SIMULTANEOUS_QUERIES",
			"Too many queries at once: %v", ctx.Err())
	}
	c, err := s.lib.open()
	if err != nil {
		return result{}, err
	}
	defer c.close()
	settings, tag := s.defaults(), rand.Text()
	settings[nameOf] = tag
	for _, statement := range q.prepare(settings) {
		if _, err := c.query([]byte(statement), "TabSeparated", nil); err != nil {
			return result{}, err
		}
	}
	if reads.Match(q.text) {
		defer s.whileAsked(ctx, tag)()
	}
	return s.execute(c, q)
}

// execute runs the statement itself; an insert's rows take the way through a file.
func (s *Server) execute(c *conn, q request) (result, error) {
	in, is := splitInsert(q.text)
	if !is {
		return c.query(q.text, q.format, q.params)
	}
	if len(in.data) == 0 {
		return result{}, nil // as a server answers: no rows, no error
	}
	statement, done, err := in.fromFile(s.incoming)
	if err != nil {
		return result{}, err
	}
	defer done()
	return c.query([]byte(statement), q.format, q.params)
}

// defaults are the settings of every statement; a client's own win.
func (s *Server) defaults() map[string]string {
	return map[string]string{"max_threads": strconv.Itoa(s.cfg.Threads), "max_execution_time": queryTimeout,
		"max_result_bytes": strconv.Itoa(maxResult), "result_overflow_mode": "throw"}
}

// answer writes the result in the encoding that the client asked for.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, q request, got result) {
	format, data := answerFormat(q.text, q.format), got.data
	var err error
	if format == "Native" && q.revision > 0 && len(data) > 0 {
		data, err = reencode(data, q.revision)
	}
	if err == nil && q.compress != "" {
		data, err = pack(data, q.compress)
	}
	if err != nil {
		s.fail(w, r, fail(codeNotImplemented, http.StatusNotImplemented, "NOT_IMPLEMENTED", "The answer cannot be encoded: %v", err))
		return
	}
	h := w.Header()
	h.Set("Content-Type", contentType(format))
	h.Set("Content-Length", strconv.Itoa(len(data)))
	h.Set("X-ClickHouse-Format", format)
	h.Set("X-ClickHouse-Server-Display-Name", "leaky")
	h.Set("X-ClickHouse-Summary", fmt.Sprintf(`{"read_rows":"%d","read_bytes":"%d","written_rows":"%d"}`, got.rows, got.bytes, got.written))
	_, _ = w.Write(data) // the client is gone
}

func contentType(format string) string {
	switch {
	case strings.HasPrefix(format, "JSON") && !strings.Contains(format, "EachRow"):
		return "application/json; charset=UTF-8"
	case strings.HasPrefix(format, "TabSeparated"), strings.HasPrefix(format, "TSV"):
		return "text/tab-separated-values; charset=UTF-8"
	case strings.HasPrefix(format, "CSV"):
		return "text/csv; charset=UTF-8"
	case format == "Native", format == "RowBinary":
		return "application/octet-stream"
	}
	return "text/plain; charset=UTF-8"
}

// fail tells an error as ClickHouse does: the code in a header, the text in the body.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	e, known := errors.AsType[*exception](err)
	if !known {
		e = fail(codeUnknown, http.StatusInternalServerError, "UNKNOWN_EXCEPTION", "%v", err)
	}
	if e.status >= http.StatusInternalServerError && r.Context().Err() == nil { // else there is nobody who asked
		s.said.Warn(r.Context(), "statement failed", e, slog.Int("code", e.code))
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=UTF-8")
	h.Set("X-ClickHouse-Exception-Code", strconv.Itoa(e.code))
	w.WriteHeader(e.status)
	_, _ = io.WriteString(w, e.text+"\n") // the client is gone
}
