// Package stubs is the far end of the request path: it stands in for OpenAI,
// Anthropic, Gemini and Qwen with their wire shapes (JSON and SSE), counts every token it really
// writes per request id, and misbehaves on demand.
//
// Its tokenizer is deterministic: the tokens of a text are ceil(bytes/4) of its
// UTF-8. The input is the sum over message texts; the output is what it generates,
// in pieces of exactly four bytes. So 0.25 tokens per body byte bounds the input:
// the JSON around a text always holds more bytes than the rounding adds.
package stubs

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/prices"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// Flavour is which provider a stub speaks for.
type Flavour string

const (
	OpenAI Flavour = "openai" // and Anthropic, whose paths are others
	Gemini Flavour = "gemini"
	Qwen   Flavour = "qwen"
)

// Config is what a stub needs.
type Config struct {
	Flavour        Flavour
	Log            *slog.Logger
	Metrics        prometheus.Registerer // may be nil
	APIKey         string                // when set, a call without it is refused with 401
	Models         []string              // when set, any other model is refused with 404
	TokensPerChunk int                   // of a stream, 1 to 1000, default 1
	Keep           int                   // served requests remembered, default 200000
	Prices         *prices.Table         // what it bills (GET /__stub/costs.csv); nil: tokens alone
	Done           <-chan struct{}       // closed when the stub stops: hanging and slow answers end; may be nil
}

// Server is one stub.
type Server struct {
	cfg      Config
	models   map[string]bool
	faults   atomic.Pointer[Faults]
	failNext atomic.Int64
	recorder *recorder
	metrics  metrics
	mux      *http.ServeMux
}

type metrics struct {
	requests *prometheus.CounterVec
	tokens   *prometheus.CounterVec
	aborted  prometheus.Counter
}

// New makes a stub of one flavour; serve its Handler.
func New(cfg Config) (*Server, error) {
	switch cfg.Flavour {
	case OpenAI, Gemini, Qwen:
	default:
		return nil, fmt.Errorf("make stub: flavour %q is not openai, gemini or qwen", cfg.Flavour)
	}
	if cfg.TokensPerChunk == 0 {
		cfg.TokensPerChunk = 1
	}
	if cfg.TokensPerChunk < 0 || cfg.TokensPerChunk > 1000 {
		return nil, errors.New("make stub: tokens per chunk must be 1 to 1000")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, models: map[string]bool{}, recorder: newRecorder(cfg.Keep)}
	for _, m := range cfg.Models {
		s.models[m] = true
	}
	s.faults.Store(&Faults{TokensPerChunk: cfg.TokensPerChunk})
	s.metrics = metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_stub_requests_total",
			Help: "Requests answered, by HTTP status."}, []string{"status"}),
		tokens: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_stub_tokens_total", Help: "Tokens really served."},
			[]string{"type"}),
		aborted: prometheus.NewCounter(prometheus.CounterOpts{Name: "leaky_stub_aborted_total", Help: "Answers whose reader went away."}),
	}
	if cfg.Metrics != nil {
		for _, c := range []prometheus.Collector{s.metrics.requests, s.metrics.tokens, s.metrics.aborted} {
			if err := cfg.Metrics.Register(c); err != nil {
				return nil, fmt.Errorf("register stub metrics: %w", err)
			}
		}
	}
	s.routes()
	return s, nil
}

// Handler serves the provider's routes and /__stub/ ones.
func (s *Server) Handler() http.Handler { return s.mux }

func (s *Server) routes() {
	s.mux = http.NewServeMux()
	s.mux.Handle("PUT /__stub/config", httpapi.Handle(s.cfg.Log, s.putConfig))
	s.mux.Handle("GET /__stub/config", httpapi.Handle(s.cfg.Log, s.getConfig))
	s.mux.Handle("GET /__stub/requests", httpapi.Handle(s.cfg.Log, s.getRequests))
	s.mux.Handle("GET /__stub/costs.csv", httpapi.Handle(s.cfg.Log, s.getCosts))
	s.mux.Handle("DELETE /__stub/requests", httpapi.Handle(s.cfg.Log, s.deleteRequests))
	s.mux.Handle("/__stub/", httpapi.Handle(s.cfg.Log, func(http.ResponseWriter, *http.Request) error {
		return httpapi.Fail(http.StatusNotFound, "no such path")
	}))
	s.mux.Handle("POST /api/v1/"+string(s.cfg.Flavour)+"/chat", httpapi.Handle(s.cfg.Log, s.legacyChat))
	s.mux.Handle("/api/", httpapi.Handle(s.cfg.Log, s.legacyOther))
	if s.cfg.Flavour == Gemini {
		for _, base := range []string{"/v1beta", "/v1"} {
			s.mux.Handle(base+"/models/{call}", s.post(geminiError, s.geminiCall))
			s.mux.Handle("GET "+base+"/models/{model}", s.get(geminiError, s.geminiModel))
			s.mux.Handle("GET "+base+"/models", s.get(geminiError, s.geminiModels))
		}
		s.mux.Handle("/", s.get(geminiError, s.noSuchPath))
		return
	}
	bases := []string{"/v1"}
	if s.cfg.Flavour == Qwen {
		bases = append(bases, "/compatible-mode/v1")
	}
	for _, base := range bases {
		s.mux.Handle(base+"/chat/completions", s.post(s.openaiError, s.chat))
		s.mux.Handle(base+"/embeddings", s.post(s.openaiError, s.embeddings))
		s.mux.Handle(base+"/completions", s.post(s.openaiError, s.completions))
		s.mux.Handle("GET "+base+"/models", s.get(s.openaiError, s.listModels))
		s.mux.Handle("GET "+base+"/models/{model...}", s.get(s.openaiError, s.getModel))
	}
	if s.cfg.Flavour == OpenAI {
		s.mux.Handle("/v1/responses", s.post(s.openaiError, s.responses))
		s.mux.Handle("/v1/moderations", s.post(s.openaiError, s.moderations))
		s.mux.Handle("/v1/images/generations", s.post(s.openaiError, s.images))
		s.mux.Handle("/v1/audio/speech", s.post(s.openaiError, s.speech))
		s.mux.Handle("/v1/messages", s.post(anthropicError, s.messages))
		s.mux.Handle("/v1/messages/count_tokens", s.post(anthropicError, s.countMessageTokens))
	}
	s.mux.Handle("/", s.get(s.openaiError, s.noSuchPath))
}

func (s *Server) noSuchPath(c *call) error {
	return &apiError{status: http.StatusNotFound, kind: "invalid_request_error", code: "unknown_url",
		message: "Invalid URL (" + c.r.Method + " " + c.r.URL.Path + ")"}
}

func (s *Server) knows(model string) bool { return len(s.models) == 0 || s.models[model] }

// authorized compares the credential the provider's SDK would send.
func (s *Server) authorized(r *http.Request) bool {
	if s.cfg.APIKey == "" {
		return true
	}
	if s.cfg.Flavour == Gemini {
		return r.Header.Get("X-Goog-Api-Key") == s.cfg.APIKey || r.URL.Query().Get("key") == s.cfg.APIKey
	}
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") == s.cfg.APIKey || r.Header.Get("X-Api-Key") == s.cfg.APIKey
}

func unixNow() int64 { return time.Now().Unix() }
