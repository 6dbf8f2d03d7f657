package serve

import (
	"context"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// replica is a process of ratelimit that counts what it is asked.
type replica struct {
	limitpb.UnimplementedLimiterServer
	asked  atomic.Int64
	health *health.Server
	server *grpc.Server
}

func (r *replica) Settle(context.Context, *limitpb.SettleRequest) (*limitpb.SettleResponse, error) {
	r.asked.Add(1)
	return &limitpb.SettleResponse{}, nil
}

func serveReplica(t *testing.T, network, address string) (*replica, string) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{health: health.NewServer(), server: grpc.NewServer()}
	r.health.SetServingStatus("ratelimit", healthpb.HealthCheckResponse_SERVING)
	limitpb.RegisterLimiterServer(r.server, r)
	healthpb.RegisterHealthServer(r.server, r.health)
	go r.server.Serve(ln) // ends with Stop
	t.Cleanup(r.server.Stop)
	return r, ln.Addr().String()
}

// TestEveryReplicaOfRatelimitIsCalled: calls are spread over the processes, and while one is gone, or
// says that it does not serve, the others take them all.
func TestEveryReplicaOfRatelimitIsCalled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, address := serveReplica(t, "tcp", "127.0.0.1:0")
	second, _ := serveReplica(t, "unix", filepath.Join(dir, "second"))
	conn, err := Peers{Dir: dir}.DialLimiter(address, "unix:second")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	limiter := limitpb.NewLimiterClient(conn)
	call := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := limiter.Settle(ctx, &limitpb.SettleRequest{}); err != nil {
			t.Errorf("want every call answered, got %v", err)
		}
	}
	takesAll := func(one, other *replica, when string) {
		t.Helper()
		testenv.Eventually(t, when, func() bool {
			before := other.asked.Load()
			for range 10 {
				call()
			}
			return other.asked.Load() == before && one.asked.Load() > 0
		})
	}
	testenv.Eventually(t, "both are called", func() bool {
		call()
		return first.asked.Load() > 0 && second.asked.Load() > 0
	})
	second.health.SetServingStatus("ratelimit", healthpb.HealthCheckResponse_NOT_SERVING)
	takesAll(first, second, "the first takes all while the second does not serve")
	second.health.SetServingStatus("ratelimit", healthpb.HealthCheckResponse_SERVING)
	first.server.Stop()
	takesAll(second, first, "the second takes all once the first is gone")
}
