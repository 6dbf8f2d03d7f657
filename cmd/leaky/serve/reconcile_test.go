package serve_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/leaky-tokens/leaky-tokens/analytics"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/ledgerbook"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/prices"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/reconcile"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
	"github.com/leaky-tokens/leaky-tokens/stubs"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
)

// world is all books, the real ones, with a caller whose calls they know.
type world struct {
	t       *testing.T
	store   *analytics.Store
	stream  *usage.Publisher
	db      *pgxpool.Pool
	limiter limitpb.LimiterClient
	stub    string
	list    *prices.Table
	user    string
	now     time.Time
	sources reconcile.Sources
	seq     uint64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, user: uuid.NewString(), now: time.Now().UTC().Truncate(time.Millisecond), db: testenv.Postgres(t)}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(migrations.Up(t.Context(), w.db))
	check(pgx.BeginFunc(t.Context(), w.db, func(tx pgx.Tx) error {
		return ledger.Credit(t.Context(), tx, ledger.Purchase{UserID: uuid.MustParse(w.user), Provider: "openai", Tokens: 1_000_000, Reference: "bought",
			Policy: ledger.Policy{Prepaid: true}})
	}))
	var err error
	w.store, err = analytics.NewStore(analytics.StoreConfig{URL: testenv.ClickHouse(t), Timeout: 30 * time.Second, Log: slog.New(slog.DiscardHandler)})
	check(err)
	t.Cleanup(func() { w.store.Close() })
	check(w.store.Migrate(t.Context()))
	nc, err := nats.Connect(testenv.NATS(t))
	check(err)
	t.Cleanup(nc.Close)
	w.stream, err = usage.NewPublisher(nc, slog.New(slog.DiscardHandler))
	check(err)
	answering := make(chan error, 1)
	serving, stop := context.WithCancel(context.Background())
	go func() { answering <- ledgerbook.Serve(serving, nc, ledger.Book{DB: w.db}) }()
	t.Cleanup(func() {
		stop()
		if err := <-answering; err != nil {
			t.Error(err)
		}
	})
	js, err := jetstream.New(nc)
	check(err)
	w.list, err = prices.Load("")
	check(err)
	stub, err := stubs.New(stubs.Config{Flavour: stubs.OpenAI, Prices: w.list})
	check(err)
	server := httptest.NewServer(stub.Handler())
	t.Cleanup(server.Close)
	w.stub, w.limiter = server.URL, limiter(t)
	w.sources = reconcile.Sources{Stream: js, Store: w.store, Ledger: ledgerbook.NewClient(nc), Limiter: w.limiter, Prices: w.list, Most: 10_000,
		Stubs: map[string]reconcile.Stub{"openai": {URL: server.URL, HTTP: server.Client()}}}
	return w
}

// limiter is the real one, on a Redis of its own.
func limiter(t *testing.T) limitpb.LimiterClient {
	t.Helper()
	set, err := limits.Parse([]byte(`
domain: leaky
descriptors:
  - key: count
    value: tokens
    descriptors:
      - key: user
        rate_limit: {name: user-tokens, unit: day, requests_per_unit: 1}
        metadata: {rate_limit_policy: {algorithm: leaky_bucket, burst: 1000000, unit: tokens}}
`))
	if err != nil {
		t.Fatal(err)
	}
	redis, prefix := testenv.Redis(t)
	s, err := ratelimit.New(ratelimit.Config{RedisURL: "redis://" + redis.Options().Addr, Prefix: prefix, Publisher: nobody{},
		Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Timeout: 10 * time.Second, Longest: 10 * time.Minute,
		Holds: config.Holds{Margin: time.Minute, SettledKept: 10 * time.Minute, Expiry: "charge"},
		Policy: ratelimit.Policy{Limits: set, Outage: config.Outage{DialTimeout: 10 * time.Second, Timeout: 10 * time.Second},
			Tiers:     config.Tiers{Default: "USER", Levels: map[string]config.Tier{"USER": {Capacity: 1, LeakRate: 1}}},
			Providers: map[string]config.Provider{"openai": {Protocol: config.ProtocolOpenAI, TokensPerByte: 0.25, OutputFill: 256}}}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Listen(ctx, ln) }()
	conn, err := grpc.NewClient("unix:"+ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		s.Close()
	})
	return limitpb.NewLimiterClient(conn)
}

// nobody publishes nothing.
type nobody struct{}

func (nobody) Publish(context.Context, usage.Event) error { return nil }

// fault is what goes wrong with one call: each step may change the event that it writes, or leave it
// out by giving none.
type fault struct {
	served            func(*usage.Event)
	booked            func(usage.Event) []usage.Event
	settledBy         int64  // more than was charged
	paidBy            string // the price list of the ledger's entry
	unsettled, unpaid bool
}

// call makes a call that all books know, but for the fault.
func (w *world) call(f fault) string {
	w.t.Helper()
	ctx, id := w.t.Context(), uuid.NewString()
	check := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	_, err := w.limiter.Hold(ctx, &limitpb.HoldRequest{Facts: &limitpb.Facts{RequestId: id, User: w.user, Provider: "openai", Model: "gpt-4o",
		Route: "openai-chat"}, InputTokens: 100, OutputTokens: 100, Balance: limitpb.BalancePolicy_BALANCE_NONE})
	check(err)
	in, out := w.serve(id)
	w.seq++
	e := usage.Event{RequestID: id, UserID: w.user, Account: "user:" + w.user, Route: "openai-chat", Provider: "openai", ModelAsked: "gpt-4o",
		ModelServed: "gpt-4o", Input: in, Output: out, Charged: in + out, Held: 200, Source: usage.FromProvider, Pool: usage.PoolDrawn, Allowed: true,
		Status: 200, Attempts: 1, Timestamp: w.now.Add(time.Duration(w.seq) * time.Millisecond)}
	if f.served != nil {
		f.served(&e)
	}
	w.list.Freeze(&e)
	if !f.unsettled {
		_, err = w.limiter.Settle(ctx, &limitpb.SettleRequest{Settlements: []*limitpb.Settlement{{RequestId: id, Account: e.Account,
			Charged: e.Charged + f.settledBy}}})
		check(err)
	}
	m, err := usage.MessageOf(e, "/meter", "", "")
	check(err)
	_, err = w.stream.Publish(ctx, []usage.Message{m})
	check(err)
	if !f.unpaid {
		_, err = ledger.Apply(ctx, w.db, []ledger.Charge{{Request: id, Account: e.Account, Provider: e.Provider, Tokens: e.Charged, Drawn: true,
			At: e.Timestamp, Cost: ledger.Cost{Micros: e.CostMicros, Currency: e.Currency, Version: cmp.Or(f.paidBy, e.PriceVersion)}}})
		check(err)
	}
	rows := []usage.Event{e}
	if f.booked != nil {
		rows = f.booked(e)
	}
	for i, row := range rows {
		check(w.store.Insert(ctx, fmt.Sprint(id, i), []analytics.Row{{Event: row, Seq: w.seq}}))
	}
	return id
}

// serve asks the stub, and gives the usage that it tells.
func (w *world) serve(id string) (in, out int64) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.stub+"/v1/chat/completions",
		strings.NewReader(`{"model":"gpt-4o","max_tokens":20,"messages":[{"role":"user","content":"What is the time?"}]}`))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Request-Id", id)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	var answer struct {
		Usage struct {
			Prompt     int64 `json:"prompt_tokens"`
			Completion int64 `json:"completion_tokens"`
		}
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.Usage.Completion == 0 {
		w.t.Fatalf("the stub told no usage: %v", err)
	}
	return answer.Usage.Prompt, answer.Usage.Completion
}

func TestEachPlantedFaultIsFoundByRequestID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 5 {
		w.call(fault{})
	}
	from, to := w.now.Add(-time.Minute), w.now.Add(time.Minute)
	clean, err := reconcile.Run(t.Context(), w.sources, from, to, 20*time.Second)
	if err != nil || !clean.Clean || len(clean.Unread) > 0 || clean.Calls != 5 {
		t.Fatalf("want five calls without a difference, got %+v, %v", clean, err)
	}
	if s := clean.Accounts[0]; len(clean.Accounts) != 1 || s.Differs || s.Drawn != s.EventTokens || s.Ledger != s.CallTokens ||
		s.EventCosts["USD"] == 0 || s.EventCosts["USD"] != s.CallCosts["USD"] || s.EventCosts["USD"] != s.LedgerCosts["USD"] {
		t.Errorf("want one account whose sums are equal in every book, got %+v", clean.Accounts)
	}
	within := w.now.Add(time.Millisecond + 300*time.Microsecond) // of the millisecond in which the first began
	for name, c := range map[string]struct {
		from, to time.Time
		calls    int
	}{"from within it": {within, to, 5}, "up to within it": {from, within, 0}} {
		if r, err := reconcile.Run(t.Context(), w.sources, c.from, c.to, 0); err != nil || !r.Clean || r.Calls != c.calls {
			t.Errorf("%s: want %d calls without a difference, got %+v, %v", name, c.calls, r, err)
		}
	}
	w.plant(from, to)
	w.bill()
}

// plant makes one call with each fault, and wants each found by its id and nothing else.
func (w *world) plant(from, to time.Time) {
	w.t.Helper()
	with := func(change func(*usage.Event)) func(usage.Event) []usage.Event {
		return func(e usage.Event) []usage.Event {
			change(&e)
			return []usage.Event{e}
		}
	}
	want := map[string]reconcile.Fault{
		w.call(fault{booked: func(usage.Event) []usage.Event { return nil }}): reconcile.Lost,
		w.call(fault{booked: func(e usage.Event) []usage.Event {
			later := e
			later.Timestamp = e.Timestamp.Add(30 * time.Second)
			return []usage.Event{e, later}
		}}): reconcile.Doubled,
		w.call(fault{booked: with(func(e *usage.Event) { e.Account = "org:" + uuid.NewString() })}):         reconcile.WrongAccount,
		w.call(fault{booked: with(func(e *usage.Event) { e.PriceVersion = "of-last-year" })}):               reconcile.WrongPrice,
		w.call(fault{booked: with(func(e *usage.Event) { e.Charged, e.Output = e.Charged+1, e.Output+1 })}): reconcile.WrongCharge,
		w.call(fault{unsettled: true}):                                          reconcile.OrphanHold,
		w.call(fault{settledBy: 7}):                                             reconcile.RedisDrift,
		w.call(fault{unpaid: true}):                                             reconcile.LedgerGap,
		w.call(fault{paidBy: "of-last-year"}):                                   reconcile.WrongPrice,
		w.call(fault{served: func(e *usage.Event) { e.Output--; e.Charged-- }}): reconcile.BillOff,
	}
	r, err := reconcile.Run(w.t.Context(), w.sources, from, to, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range r.Findings {
		// More tokens than the price was made for are a wrong price, too.
		if want[f.RequestID] == f.Fault || want[f.RequestID] == reconcile.WrongCharge && f.Fault == reconcile.WrongPrice ||
			want[f.RequestID] == reconcile.WrongCharge && f.Fault == reconcile.BillOff {
			continue
		}
		w.t.Errorf("not planted: %+v", f)
	}
	for id, planted := range want {
		found := 0
		for _, f := range r.Findings {
			if f.RequestID == id && f.Fault == planted {
				found++
			}
		}
		if found != 1 {
			w.t.Errorf("want %s of %s found once, got %d times in %+v", planted, id, found, r.Findings)
		}
	}
}

// bill compares the books with the stub's bill, which has a call that did not come through us.
func (w *world) bill() {
	w.t.Helper()
	w.serve(uuid.NewString())
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.stub+"/__stub/costs.csv", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	bill, err := reconcile.ParseBill("costs.csv", strings.NewReader(string(text)))
	if err != nil {
		w.t.Fatalf("%v in %s", err, text)
	}
	from, to := bill.Days()
	used, err := w.store.UsedByDay(w.t.Context(), "openai", from, to.AddDate(0, 0, 1))
	if err != nil {
		w.t.Fatal(err)
	}
	got := reconcile.CompareBill("openai", bill, used)
	if got.Clean || len(got.Lines) == 0 || got.Lines[0].Verdict != reconcile.BillOffLine {
		w.t.Errorf("want a bill that is off by a call, got %+v", got)
	}
}
