package stubs

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

const (
	pageSize    = 1000
	maxPageSize = 200_000
)

// putConfig replaces the faults. 400 names the member that is wrong.
func (s *Server) putConfig(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, httpapi.MaxBody))
	if err != nil {
		return httpapi.Fail(http.StatusRequestEntityTooLarge, "body is larger than %d bytes", httpapi.MaxBody)
	}
	f, err := ParseFaults(body)
	if err != nil {
		return httpapi.Fail(http.StatusBadRequest, "stub configuration: %v", err)
	}
	s.failNext.Store(int64(f.FailNext))
	s.faults.Store(&f)
	httpapi.WriteJSON(w, http.StatusOK, f)
	return nil
}

func (s *Server) getConfig(w http.ResponseWriter, _ *http.Request) error {
	f := *s.faults.Load()
	f.FailNext = int(max(0, s.failNext.Load()))
	httpapi.WriteJSON(w, http.StatusOK, f)
	return nil
}

// RequestsPage is the answer of GET /__stub/requests.
type RequestsPage struct {
	Flavour  Flavour  `json:"flavour"`
	Counts   Counts   `json:"counts"`
	Last     []Body   `json:"last"`     // the newest requests as received, oldest first
	Requests []Served `json:"requests"` // after ?after=, oldest first
	Next     uint64   `json:"next"`     // ?after= of the next page
}

// getRequests answers counts, the last bodies and a page of requests. ?id= narrows to one
// request id, ?after=SEQ&limit=N pages, ?format=ndjson writes one Served per line.
func (s *Server) getRequests(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	after, err := strconv.ParseUint(orDefault(q.Get("after"), "0"), 10, 64)
	if err != nil {
		return httpapi.Fail(http.StatusBadRequest, "after must be a number")
	}
	ndjson := q.Get("format") == "ndjson" || strings.Contains(r.Header.Get("Accept"), "ndjson")
	fallback := pageSize
	if ndjson {
		fallback = maxPageSize
	}
	limit, err := strconv.Atoi(orDefault(q.Get("limit"), strconv.Itoa(fallback)))
	if err != nil || limit < 1 || limit > maxPageSize {
		return httpapi.Fail(http.StatusBadRequest, "limit must be 1 to %d", maxPageSize)
	}
	found := s.recorder.list(q.Get("id"), after, limit)
	if ndjson {
		w.Header().Set("Content-Type", "application/x-ndjson")
		enc := json.NewEncoder(w)
		for i := range found {
			if err := enc.Encode(&found[i]); err != nil {
				return nil // the reader went away
			}
		}
		return nil
	}
	counts, last := s.recorder.totals()
	next := after
	if len(found) > 0 {
		next = found[len(found)-1].Seq
	}
	httpapi.WriteJSON(w, http.StatusOK, RequestsPage{Flavour: s.cfg.Flavour, Counts: counts, Last: last, Requests: found, Next: next})
	return nil
}

// deleteRequests forgets what was served; faults stay.
func (s *Server) deleteRequests(w http.ResponseWriter, _ *http.Request) error {
	s.recorder.reset()
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func orDefault(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}
