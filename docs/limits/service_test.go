// Package limits_test loads every example of docs/limits into a running ratelimit and
// finds out whether it does what its comment says.
package limits_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// noon is the begin of a month, a week, a day, an hour and a minute, as windows count.
const noon = 1_814_400_000_000_000

// service is a running ratelimit with a clock of its own.
type service struct {
	limitpb.LimiterClient
	addr    string // for other Envoys
	metrics *prometheus.Registry
	now     atomic.Int64 // microseconds
}

type noEvents struct{}

func (noEvents) Publish(context.Context, usage.Event) error { return nil }

// start runs the service with a file of our own domain, and perhaps one of another.
func start(t *testing.T, file string, domains ...string) *service {
	t.Helper()
	set, err := limits.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	others, err := limits.LoadDomains(domains)
	if err != nil {
		t.Fatal(err)
	}
	client, prefix := testenv.Redis(t)
	s := &service{metrics: prometheus.NewRegistry()}
	s.now.Store(noon)
	tiers := config.Tiers{Default: "USER", Levels: map[string]config.Tier{"USER": {Capacity: 1, LeakRate: 1},
		"GOLD": {Capacity: 4, LeakRate: 4}}}
	r, err := ratelimit.New(ratelimit.Config{Policy: ratelimit.Policy{Limits: set, Domains: others, Tiers: tiers}, RedisURL: "redis://" +
		client.Options().Addr,
		Prefix: prefix, Publisher: noEvents{}, Log: slog.New(slog.DiscardHandler), Metrics: s.metrics, Timeout: 10 * time.Second,
		Longest: time.Minute,
		Holds:   config.Holds{Margin: time.Minute, SettledKept: time.Minute}, Now: s.now.Load})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 2)
	go func() { served <- r.Listen(ctx, ln) }()
	envoys, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { served <- r.ListenOthers(ctx, envoys) }()
	s.addr = envoys.Addr().String()
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		stop()
		for range 2 {
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
		r.Close()
	})
	s.LimiterClient = limitpb.NewLimiterClient(conn)
	return s
}

// hold asks for tokens under descriptors written as key=value,key=value; what is
// admitted is settled at once, so that no hold is in the way.
func (s *service) hold(t *testing.T, tier string, tokens int64, descriptors []string) *limitpb.HoldResponse {
	t.Helper()
	request := &limitpb.HoldRequest{Facts: &limitpb.Facts{RequestId: uuid.NewString(), Tier: tier}, InputTokens: tokens,
		Balance: limitpb.BalancePolicy_BALANCE_NONE}
	for _, text := range descriptors {
		d := &limitpb.Descriptor{}
		for pair := range strings.SplitSeq(text, ",") {
			key, value, _ := strings.Cut(pair, "=")
			d.Entries = append(d.Entries, &limitpb.Entry{Key: key, Value: value})
			switch key {
			case "user":
				request.Facts.User = value
			case "org":
				request.Facts.Org = value
			}
		}
		request.Descriptors = append(request.Descriptors, d)
	}
	answer, err := s.Hold(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	if answer.GetAdmitted() && tokens > 0 {
		_, err := s.Settle(t.Context(), &limitpb.SettleRequest{Settlements: []*limitpb.Settlement{{RequestId: request.GetFacts().GetRequestId(),
			Account: answer.GetAccount(), Charged: tokens}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	return answer
}
