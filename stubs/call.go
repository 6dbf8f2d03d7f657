package stubs

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
)

// maxBody is the largest request a stub reads, in bytes.
const maxBody = 64 << 20

// errGone says the reader went away; nobody is left to answer.
var errGone = errors.New("reader went away")

// call is one request being answered.
type call struct {
	w      http.ResponseWriter
	r      *http.Request
	flush  *http.ResponseController
	body   []byte
	faults Faults
	got    Served
	begun  bool // the status line is out
	pieces int  // of a stream's content that went out
	done   <-chan struct{}
}

// post serves a route that takes a JSON body; any other method is 405.
func (s *Server) post(render renderer, h func(*call) error) http.Handler {
	return s.get(render, func(c *call) error {
		if c.r.Method != http.MethodPost {
			c.w.Header().Set("Allow", http.MethodPost)
			return &apiError{status: http.StatusMethodNotAllowed, kind: "invalid_request_error", message: "Not allowed to " + c.r.Method + " on " +
				c.r.URL.Path}
		}
		if !utf8.Valid(c.body) {
			return invalid("", "", "We could not parse the JSON body of your request: it is not UTF-8")
		}
		if err := s.misbehave(c); err != nil {
			return err
		}
		return h(c)
	})
}

// get runs one call: reads the body, checks the key, answers, and records what was served.
func (s *Server) get(render renderer, h func(*call) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{w: w, r: r, flush: http.NewResponseController(w), done: s.cfg.Done}
		c.got = Served{ID: r.Header.Get("X-Request-Id"), Path: r.URL.Path, Time: time.Now()}
		w.Header().Set("X-Request-Id", "req_"+strings.ReplaceAll(uuid.NewString(), "-", ""))
		err := c.read()
		s.recorder.begin(Body{ID: c.got.ID, Method: r.Method, URI: r.URL.RequestURI(), Headers: headerNames(r.Header),
			Body: string(c.body[:min(len(c.body), keepBytes)])})
		defer s.finish(c)
		if err == nil && !s.authorized(r) {
			err = forced(http.StatusUnauthorized)
		}
		if err == nil {
			if c.faults, err = s.faults.Load().overridden(r.Header); err != nil {
				err = invalid("", "", "stub: %v", err)
			}
		}
		if err == nil {
			if err = h(c); err == nil {
				c.sleep(time.Duration(c.faults.LingerMS) * time.Millisecond)
			}
		}
		if refusal, ok := errors.AsType[*apiError](err); ok && !c.begun {
			c.got.Status, c.got.Input, c.got.Generated, c.got.Kinds, c.begun = refusal.status, 0, 0, Kinds{}, true
			render(w, refusal)
		}
	})
}

func headerNames(h http.Header) []string {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// read takes the whole body. The server's read deadline would end a long stream: its
// expiry looks like a reader who went away.
func (c *call) read() error {
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	c.body = body
	_ = c.flush.SetReadDeadline(time.Time{})
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &apiError{status: http.StatusRequestEntityTooLarge, kind: "invalid_request_error", message: "Request body too large"}
	}
	if err != nil {
		c.got.Aborted = true
		return errGone
	}
	return nil
}

// misbehave applies the faults by which a provider refuses.
func (s *Server) misbehave(c *call) error {
	if status := s.failure(&c.faults); status != 0 {
		if !c.think() {
			return errGone
		}
		return forced(status)
	}
	if c.faults.ErrorInside {
		return &apiError{status: http.StatusOK, kind: "server_error", message: "The server is overloaded"}
	}
	return nil
}

// think is what passes before an answer begins. The request is read by then, so its input counts
// though its reader may be gone; false: they are.
func (c *call) think() bool {
	if c.faults.Hang {
		return c.stall()
	}
	return c.sleep(c.faults.delay())
}

// stall waits until the reader goes away, or the stub stops; it gives false.
func (c *call) stall() bool {
	select {
	case <-c.r.Context().Done():
	case <-c.done:
	}
	c.got.Aborted = true
	return false
}

// passed counts a piece of a stream's content that went out, and ends or stalls the answer after
// as many as the faults say; false: the reader went away.
func (c *call) passed() bool {
	c.pieces++
	if c.pieces == c.faults.TruncateAfterChunks {
		c.cut()
	}
	return c.pieces != c.faults.StallAfterChunks || c.stall()
}

// pause is the time between two pieces of a stream; false: the reader went away.
func (c *call) pause() bool {
	if c.faults.ChunkDelayMS == 0 {
		return true
	}
	return c.sleep(time.Duration(c.faults.ChunkDelayMS) * time.Millisecond)
}

// pieceByPiece has a text written in pieces with a pause between two; false: the reader went away.
func (c *call) pieceByPiece(text string, write func(piece string) bool) bool {
	size := c.faults.TokensPerChunk * bytesPerToken
	for from := 0; from < len(text); from += size {
		if from > 0 && !c.pause() || !write(text[from:min(from+size, len(text))]) {
			return false
		}
	}
	return true
}

// serves notes what a plan takes and gives, as its usage tells it.
func (c *call) serves(p *plan, stream bool) {
	c.got.Model, c.got.Stream, c.got.Input, c.got.Generated, c.got.NoUsage = p.model, stream, p.input, p.output(), c.faults.OmitUsage
	c.got.Kinds = Kinds{CacheRead: p.cached, Reasoning: p.n * p.thoughts}
}

// sleep waits; false: the reader went away.
func (c *call) sleep(d time.Duration) bool {
	if d <= 0 {
		return !c.gone()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return !c.gone()
	case <-c.r.Context().Done():
	case <-c.done:
		c.got.Truncated = true
	}
	c.got.Aborted = true
	return false
}

func (c *call) gone() bool {
	if c.r.Context().Err() == nil {
		return false
	}
	c.got.Aborted = true
	return true
}

// finish stores what was served. It runs deferred, so it also sees the panic of cut.
func (s *Server) finish(c *call) {
	s.recorder.end(c.got)
	s.metrics.requests.WithLabelValues(strconv.Itoa(c.got.Status)).Inc()
	s.metrics.tokens.WithLabelValues("input").Add(float64(c.got.Input))
	s.metrics.tokens.WithLabelValues("output").Add(float64(c.got.Output))
	if c.got.Aborted {
		s.metrics.aborted.Inc()
	}
}

// start sends the status line of a stream; false: the reader went away before.
func (c *call) start(contentType string) bool {
	if !c.think() {
		return false
	}
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-cache")
	c.w.WriteHeader(http.StatusOK)
	c.begun, c.got.Status = true, http.StatusOK
	return true
}

// chunk writes one piece of a stream and flushes it; tokens are what it carries. False:
// the reader went away, and the piece does not count.
func (c *call) chunk(piece []byte, tokens int) bool {
	if c.gone() {
		return false
	}
	if _, err := c.w.Write(piece); err != nil {
		c.got.Aborted = true
		return false
	}
	if err := c.flush.Flush(); err != nil {
		c.got.Aborted = true
		return false
	}
	c.got.Output += tokens
	return true
}

// whole answers a JSON body that carries all tokens.
func (c *call) whole(body []byte) error { return c.typed("application/json", body) }

// typed is whole for a body of a content type.
func (c *call) typed(contentType string, body []byte) error {
	if !c.think() {
		return errGone
	}
	if c.faults.BrokenJSON {
		body = body[:len(body)/2]
	}
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.begun, c.got.Status = true, http.StatusOK
	c.w.WriteHeader(http.StatusOK)
	if c.faults.TruncateAfterChunks > 0 {
		c.chunk(body[:len(body)/2], c.got.Generated/2)
		c.cut()
	}
	if _, err := c.w.Write(body); err != nil {
		c.got.Aborted = true
		return errGone
	}
	c.got.Output = c.got.Generated
	return nil
}

// cut drops the connection in the middle of an answer.
func (c *call) cut() {
	c.got.Truncated = true
	panic(http.ErrAbortHandler)
}
