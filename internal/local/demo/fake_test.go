package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/local/demo/judge"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
)

// fakeStack stands in for a whole stack: gateway, one stub, limiter and analytics in one.
// Its buckets never leak, and its calls settle at once unless faults say otherwise.
type fakeStack struct {
	limitpb.LimiterClient
	mu       sync.Mutex
	users    map[string]string // by key or token
	level    map[string]int64  // by user
	holds    map[string]judge.Charge
	served   []map[string]any
	events   []map[string]any
	config   map[string]any
	paces    []any
	faults   fakeFaults
	shop     *fakeShop // nil: nobody has a pool
	onServed func()    // after the first call that was served; nil: nothing
	gateway  *httptest.Server
	stub     *httptest.Server
}

type fakeFaults struct {
	neverSettle, noLimit, loseEvents bool
}

const fakeCapacity = 3000

func newFakeStack(t *testing.T, faults fakeFaults) *fakeStack {
	t.Helper()
	s := &fakeStack{users: map[string]string{}, level: map[string]int64{}, holds: map[string]judge.Charge{},
		config: map[string]any{"chunkDelayMs": 3.0, "delayMs": 1.0}, faults: faults}
	gateway := http.NewServeMux()
	gateway.HandleFunc("POST /api/v1/auth/", s.auth)
	gateway.HandleFunc("PUT /api/v1/admin/users/{id}/roles", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) })
	gateway.HandleFunc("GET /api/v1/analytics/export", s.export)
	gateway.HandleFunc("GET /api/v1/analytics/report", s.report)
	gateway.HandleFunc("POST /v1/chat/completions", s.chat)
	s.sell(gateway)
	s.gateway = httptest.NewServer(sayJSON(gateway))
	t.Cleanup(s.gateway.Close)
	stub := http.NewServeMux()
	stub.HandleFunc("GET /__stub/config", func(w http.ResponseWriter, _ *http.Request) { s.answer(w, s.config) })
	stub.HandleFunc("PUT /__stub/config", func(_ http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		clear(s.config)
		_ = json.NewDecoder(r.Body).Decode(&s.config)
		s.paces = append(s.paces, s.config["chunkDelayMs"])
	})
	stub.HandleFunc("GET /__stub/requests", s.requests)
	s.stub = httptest.NewServer(sayJSON(stub))
	t.Cleanup(s.stub.Close)
	return s
}

// sayJSON names the content type of what says none.
func sayJSON(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		next.ServeHTTP(w, r)
	})
}

func (s *fakeStack) answer(w http.ResponseWriter, body any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = json.NewEncoder(w).Encode(body)
}

func (s *fakeStack) auth(w http.ResponseWriter, r *http.Request) {
	var in struct{ Username, UserID string }
	_ = json.NewDecoder(r.Body).Decode(&in)
	s.mu.Lock()
	defer s.mu.Unlock()
	id := uuid.NewSHA1(uuid.Nil, []byte(in.Username)).String()
	s.users["key-"+id] = id
	if strings.HasSuffix(r.URL.Path, "api-keys") {
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]string{"apiKey": "key-" + in.UserID})
		return
	}
	if strings.HasSuffix(r.URL.Path, "register") {
		w.WriteHeader(http.StatusCreated)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"userId": id, "token": "token-" + id, "expiresIn": 600})
}

func (s *fakeStack) caller(r *http.Request) string {
	return s.users[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")+r.Header.Get("X-Api-Key")]
}

func (s *fakeStack) chat(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Stream   bool
		Max      int64 `json:"max_tokens"`
		Max2     int64 `json:"max_completion_tokens"`
		N        int64
		Messages []struct{ Content string }
	}
	_ = json.NewDecoder(r.Body).Decode(&in)
	id := uuid.NewString()
	w.Header().Set("X-Request-Id", id)
	input, output := int64(len(in.Messages[0].Content)+3)/4%100, int64(0)
	_, _ = fmt.Sscanf(in.Messages[0].Content, "[[tokens=%d]]", &output)
	if limit := max(in.Max, in.Max2); limit > 0 {
		output = min(output, limit)
	}
	output *= max(in.N, 1)
	s.mu.Lock()
	user := s.caller(r)
	if user == "" {
		s.mu.Unlock()
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	event := map[string]any{"requestId": id, "userId": user, "provider": "openai", "source": "refused"}
	if s.shop != nil && s.level[user]+input+output > s.shop.credits {
		s.events = append(s.events, event)
		s.mu.Unlock()
		w.Header().Set("X-Should-Retry", "false")
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprintf(w, `{"error":{"type":"insufficient_quota","code":%q,"message":"buy some"}}`, s.shop.code)
		return
	}
	if s.level[user]+input+output > fakeCapacity && !s.faults.noLimit {
		s.events = append(s.events, event)
		s.mu.Unlock()
		w.Header().Set("Retry-After-Ms", "5")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	s.level[user] += input + output
	s.holds[id] = judge.Charge{State: judge.Held, Held: input + output}
	s.mu.Unlock()

	written := s.write(w, r, in.Stream, input, output)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.served = append(s.served, map[string]any{"id": id, "input": input, "output": written})
	if s.onServed != nil {
		s.onServed()
	}
	if s.faults.neverSettle {
		return
	}
	s.holds[id] = judge.Charge{State: judge.Settled, Held: input + output, Charged: input + written}
	if s.shop != nil {
		s.shop.entries = append(s.shop.entries, judge.Entry{Kind: judge.KindUsage, Tokens: -input - written, Reference: judge.UsagePrefix + id, At: time.Now()})
	}
	event["source"], event["allowed"], event["tokens"], event["inputTokens"], event["outputTokens"] = "provider", true, input+written, input,
		written
	if written < output {
		event["source"] = "estimated"
	}
	if s.faults.loseEvents && len(s.events)%5 == 4 {
		event["userId"] = "lost"
	}
	s.events = append(s.events, event)
}

// write answers and tells how many tokens went out.
func (s *fakeStack) write(w http.ResponseWriter, r *http.Request, stream bool, input, output int64) int64 {
	usage := fmt.Sprintf(`{"usage":{"prompt_tokens":%d,"completion_tokens":%d}}`, input, output)
	if !stream {
		fmt.Fprint(w, usage)
		return output
	}
	for i := range output {
		if r.Context().Err() != nil {
			return i
		}
		fmt.Fprint(w, "data: {\"choices\":[{}],\"usage\":null}\n\n")
		_ = http.NewResponseController(w).Flush()
	}
	fmt.Fprintf(w, "data: %s\n\ndata: [DONE]\n\n", usage)
	return output
}

func (s *fakeStack) requests(w http.ResponseWriter, r *http.Request) {
	var after, limit int
	_, _ = fmt.Sscanf(r.URL.RawQuery, "after=%d&limit=%d", &after, &limit)
	s.mu.Lock()
	page := s.served[min(after, len(s.served)):min(after+limit, len(s.served))]
	total := len(s.served)
	s.mu.Unlock()
	s.answer(w, map[string]any{"counts": map[string]int{"total": total}, "requests": page, "next": after + len(page)})
}

func (s *fakeStack) export(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, event := range s.events {
		if event["userId"] == s.caller(r) {
			_ = json.NewEncoder(w).Encode(event)
		}
	}
}

func (s *fakeStack) report(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var total judge.Total
	for _, event := range s.events {
		if event["userId"] == s.caller(r) {
			tokens, _ := event["tokens"].(int64)
			total = judge.Total{Events: total.Events + 1, Tokens: total.Tokens + tokens}
		}
	}
	_ = json.NewEncoder(w).Encode(total)
}

// GetAccountState is the limiter's.
func (s *fakeStack) GetAccountState(_ context.Context, in *limitpb.GetAccountStateRequest, _ ...grpc.CallOption) (*limitpb.GetAccountStateResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &limitpb.GetAccountStateResponse{}
	for range in.GetDescriptors() {
		out.Buckets = append(out.Buckets, &limitpb.Bucket{Unit: "tokens", Capacity: fakeCapacity,
			Level: float64(s.level[strings.TrimPrefix(in.GetAccount(), "user:")])})
	}
	states := map[judge.State]limitpb.HoldState_State{judge.Held: limitpb.HoldState_HELD, judge.Settled: limitpb.HoldState_SETTLED,
		"": limitpb.HoldState_UNKNOWN}
	for _, id := range in.GetRequestIds() {
		h := s.holds[id]
		out.Holds = append(out.Holds, &limitpb.HoldState{RequestId: id, State: states[h.State], Held: h.Held, Charged: h.Charged})
	}
	for range in.GetProviders() {
		user := strings.TrimPrefix(in.GetAccount(), "user:")
		out.Balances = append(out.Balances, &limitpb.Balance{Present: true, Credits: s.shop.credits, Spent: s.level[user]})
	}
	return out, nil
}

func (s *fakeStack) demo(t *testing.T, run time.Duration) *Demo {
	t.Helper()
	d, err := New(Config{Gateway: s.gateway.URL, Limiter: s, Admin: Credentials{"admin", "secret"}, Tiers: []string{"USER", "SILVER",
		"GOLD"}, For: run, Clients: 20,
		Seed: 1, Drain: 5 * time.Second, ChunkDelay: 5 * time.Millisecond, Progress: t.Output(),
		Targets: []judge.Target{{Provider: "openai", Protocol: judge.ProtocolOpenAI, Path: "/v1/chat/completions", Models: []string{"gpt-4o"},
			Stub: s.stub.URL, Part: "stub-openai"}}})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRunJudgesAStack(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		faults fakeFaults
		want   string // a reason, "" for OK
	}{
		"honest":            {fakeFaults{}, ""},
		"settle is broken":  {fakeFaults{neverSettle: true}, "still open"},
		"limit is not held": {fakeFaults{noLimit: true}, "over the limit"},
		"events get lost":   {fakeFaults{loseEvents: true}, "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newFakeStack(t, test.faults)
			d := s.demo(t, time.Second)
			if test.want == "" {
				d.cfg.Drain = time.Minute // its books do come, on any machine
			}
			v, err := d.Run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(v.Reasons, "\n"); (test.want == "") != v.OK || !strings.Contains(got, test.want) {
				t.Errorf("want reason %q, got OK %v\n%s", test.want, v.OK, got)
			}
			if want := []any{5.0, 3.0}; !slices.Equal(s.paces, want) {
				t.Errorf("want chunk delays %v, got %v", want, s.paces)
			}
			refused, aborted := 0, 0
			for _, a := range v.Accounts {
				refused, aborted = refused+a.Providers[0].Refused, aborted+a.Providers[0].Aborted
			}
			if aborted == 0 || (refused == 0) != test.faults.noLimit {
				t.Errorf("want aborted and refused calls, got %d and %d", aborted, refused)
			}
		})
	}
}

func TestRunSaysThatTheStackIsDown(t *testing.T) {
	t.Parallel()
	s := newFakeStack(t, fakeFaults{})
	d := s.demo(t, time.Second)
	s.gateway.Close()
	if _, err := d.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "leaky up") {
		t.Fatalf("want an error that names leaky up, got %v", err)
	}
}

func TestRunStopsWhenInterrupted(t *testing.T) {
	t.Parallel()
	s := newFakeStack(t, fakeFaults{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.onServed = cancel
	if _, err := s.demo(t, time.Minute).Run(ctx); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Fatalf("want an error, got %v", err)
	}
	if want := []any{5.0, 3.0}; !slices.Equal(s.paces, want) {
		t.Errorf("want the stub's pace restored, got %v", s.paces)
	}
}
