package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/match"
	"github.com/leaky-tokens/leaky-tokens/ratelimit/wire"
)

// maxJSON is the largest request that /json reads, in bytes: as large as one by gRPC.
const maxJSON = 4 << 20

// Routes adds envoyproxy/ratelimit's paths to a mux: POST /json for callers without gRPC,
// /healthcheck, and /rlconfig; and POST /explain.
func (s *Service) Routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /json", s.ServeJSON)
	mux.HandleFunc("GET /healthcheck", s.ServeHealth)
	mux.HandleFunc("GET /rlconfig", s.ServeRules)
	mux.HandleFunc("POST "+ExplainPath, s.ServeExplain)
}

// ServeJSON decides about a RateLimitRequest in protobuf's JSON form, of another domain than
// our own: 200 when it is admitted, 429 when it is refused, both with the RateLimitResponse.
// 400 says what is wrong with the request.
func (s *Service) ServeJSON(w http.ResponseWriter, r *http.Request) {
	message, ok := readMessage(w, r)
	if !ok {
		return
	}
	answer, err := s.decideOther(r.Context(), message)
	if err != nil {
		said := status.Convert(err)
		http.Error(w, said.Message(), httpStatus(said.Code()))
		return
	}
	text, err := protojson.Marshal(answer)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if answer.GetOverallCode() == rls.RateLimitResponse_OVER_LIMIT {
		w.WriteHeader(http.StatusTooManyRequests)
	}
	_, _ = w.Write(text)
}

// readMessage reads a RateLimitRequest in JSON, as the bytes that an Envoy sends. What is none is
// answered.
func readMessage(w http.ResponseWriter, r *http.Request) (message string, ok bool) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxJSON))
	if large, ok := errors.AsType[*http.MaxBytesError](err); ok {
		http.Error(w, fmt.Sprintf("the request is larger than %d bytes", large.Limit), http.StatusRequestEntityTooLarge)
		return "", false
	}
	var request rls.RateLimitRequest
	if err == nil {
		err = protojson.Unmarshal(text, &request)
	}
	if err == nil {
		text, err = proto.Marshal(&request)
	}
	if err != nil {
		http.Error(w, "no RateLimitRequest in JSON: "+err.Error(), http.StatusBadRequest)
		return "", false
	}
	return string(text), true
}

// readJSON is readMessage in our words.
func readJSON(w http.ResponseWriter, r *http.Request) (*match.Request, bool) {
	message, ok := readMessage(w, r)
	if !ok {
		return nil, false
	}
	q, err := wire.ParseRequest(message)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil, false
	}
	return &q, true
}

// httpStatus is a gRPC code in HTTP's words.
func httpStatus(c codes.Code) int {
	switch c {
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// decideOther decides about a request of another domain than our own.
func (s *Service) decideOther(ctx context.Context, message string) (*rls.RateLimitResponse, error) {
	p := s.policy.Load()
	e := s.enterEnvoy(p, message, nil, true)
	s.refuseKnown(ctx, p, &e)
	s.admit(ctx, []*admission{&e.admission})
	if e.err != nil {
		return nil, e.err
	}
	answer := &rls.RateLimitResponse{}
	if err := proto.Unmarshal(s.response(&e).Message(), answer); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return answer, nil
}

// ServeRules prints the rules that decide, a line each and as envoyproxy/ratelimit does it;
// what it has no word for comes at the end of a line.
func (s *Service) ServeRules(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	var b strings.Builder
	for _, rules := range s.policy.Load().All() {
		for _, r := range rules.Set().Rules() {
			fmt.Fprintf(&b, "%s.%s: unit=%s requests_per_unit=%d, shadow_mode: %t, quota_mode: %t", rules.Set().Domain(), r.Path,
				rls.RateLimitResponse_RateLimit_Unit(match.UnitOf(r.Period)), r.PerPeriod, r.Shadow, r.Quota)
			if r.Unlimited {
				b.WriteString(", unlimited")
			}
			if r.Algorithm != limits.FixedWindow {
				fmt.Fprintf(&b, ", algorithm: %s, burst: %.0f", r.Algorithm, r.Capacity)
			}
			if r.Calendar != nil {
				fmt.Fprintf(&b, ", window: calendar, time_zone: %s", r.Calendar)
			}
			b.WriteByte('\n')
		}
	}
	_, _ = io.WriteString(w, b.String())
}
