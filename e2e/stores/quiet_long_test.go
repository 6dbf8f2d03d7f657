//go:build long

package stores

import (
	"context"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// outages of every store, in both ways. A part that asks a store only when somebody asks the part is
// not among those that must say something.
func outages() []outage {
	return []outage{
		{topology.Redis, false, []string{topology.RateLimit, topology.Meter}},
		{topology.Redis, true, []string{topology.RateLimit, topology.Meter}},
		{topology.Postgres, false, []string{topology.TokenSvc, topology.Identity}},
		{topology.Postgres, true, []string{topology.TokenSvc, topology.Identity}},
		{topology.NATS, false, []string{topology.RateLimit, topology.Meter, topology.TokenSvc, topology.Identity, topology.ExtAuthz,
			topology.XDS, topology.Analytics, topology.Console}},
		{topology.NATS, true, []string{topology.RateLimit, topology.Meter, topology.TokenSvc, topology.Identity, topology.ExtAuthz,
			topology.XDS, topology.Analytics, topology.Console}},
		{topology.ClickHouse, false, []string{topology.Analytics}},
		{topology.ClickHouse, true, []string{topology.Analytics}},
	}
}

// TestAStoreThatIsAwayIsOneLine takes one store after the other away from a stack that serves calls.
func TestAStoreThatIsAwayIsOneLine(t *testing.T) {
	s, err := stacktest.New(t.Context(), testenv.Folder(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if out, err := s.Leaky(context.WithoutCancel(t.Context()), "down"); err != nil {
			t.Error(out)
		}
	}()
	if out, err := s.Up(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer someTraffic(t, s)()
	for _, o := range outages() {
		o.oneLine(t, s, 24*time.Second)
	}
}
