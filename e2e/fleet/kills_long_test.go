//go:build long

package fleet

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// defaultKills is how often each kind of process is killed; LEAKY_KILLS says another number.
const defaultKills = 10

// victim is one kind of process; kill ends the nth of it.
type victim struct {
	kind string
	kill func(n int) error
}

// TestAFleetSurvivesItsKills runs two gateways, with an Envoy and a meter each and three processes of every
// service between them, on a Valkey cluster of three, a NATS cluster of three, a Postgres and a ClickHouse, and
// kills each kind of process, one after the other, under load: nothing goes over a limit, nothing is lost from
// the books, and 99.9 % of the calls are answered to who asks again as an SDK does.
func TestAFleetSurvivesItsKills(t *testing.T) {
	kills := defaultKills
	if text := os.Getenv("LEAKY_KILLS"); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil || kills < 1 {
			t.Fatalf("LEAKY_KILLS=%s: want a number from 1", text)
		}
	}
	redis, masters := testenv.RedisOfThree(t)
	nats, postgres, click := testenv.NATSOfThree(t), testenv.PostgresServer(t), testenv.ClickHouseServer(t)
	stores := []string{"LEAKY_REDIS_URL=" + redis, "LEAKY_NATS_URL=" + nats.URL(), "LEAKY_POSTGRES_URL=" + postgres.URL(),
		"LEAKY_CLICKHOUSE_URL=" + click.URL(), "LEAKY_KEYS_SECRET=what seals the keys of both"}
	first, second := gateways(t, stores)
	up(t, first)
	up(t, second)
	whole := func() bool {
		for _, s := range []*stacktest.Stack{first, second} {
			if _, err := s.Leaky(t.Context(), "status"); err != nil {
				return false
			}
		}
		return nats.Whole()
	}
	testenv.Eventually(t, "both gateways serve", whole)

	load := newTraffic(t, first, second)
	stop := load.flow(t.Context())
	defer stop()
	victims := append(processes(t, first, second),
		victim{"valkey", func(n int) error { masters[n%len(masters)].Restart(); return nil }},
		victim{"nats", func(n int) error { nats.Stop(n % 3); nats.Start(n % 3); return nil }},
		victim{"postgres", func(int) error { postgres.Restart(); return nil }},
		victim{"clickhouse", func(int) error { click.Restart(); return nil }})
	var all count
	for _, v := range victims {
		load.sofar()
		for n := range kills {
			if err := v.kill(n); err != nil {
				t.Fatalf("kill %s: %v", v.kind, err)
			}
			testenv.Within(t, 2*time.Minute, "all serve after the death of "+v.kind, whole)
		}
		sum, said := load.sofar()
		all = count{all.Calls + sum.Calls, all.Refused + sum.Refused, all.Repeated + sum.Repeated, all.Failed + sum.Failed}
		t.Logf("%s killed %d times: %v\n%s", v.kind, kills, sum, said)
	}
	stop()
	if t.Logf("in all: %v", all); all.answered() < 0.999 {
		t.Error("want 99.9 % of the calls answered")
	}
	load.books(t, first.Bin)
}

// gateways are two stacks on the same stores: the first has two processes of each service that may have
// several, the second one.
func gateways(t *testing.T, stores []string) (first, second *stacktest.Stack) {
	t.Helper()
	var options []stacktest.Option
	for _, part := range topology.Of(topology.Service) {
		if part.Replicas {
			options = append(options, stacktest.Replicas(part.Name, 2))
		}
	}
	for i, to := range []**stacktest.Stack{&first, &second} {
		if i > 0 {
			options = []stacktest.Option{stacktest.Built(first.Bin)}
		}
		s, err := stacktest.New(t.Context(), testenv.Folder(t), 1, options...)
		if err != nil {
			t.Fatal(err)
		}
		*to = s
		plain(t, s, first)
		s.Env = append(s.Env, stores...)
	}
	return first, second
}

// processes are the kinds of processes that a supervisor runs, on both gateways.
func processes(t *testing.T, first, second *stacktest.Stack) (all []victim) {
	t.Helper()
	kinds := append(topology.Of(topology.Service), topology.Of(topology.Proxy)...)
	for _, part := range kinds {
		type process struct {
			of   *stacktest.Stack
			name string
		}
		where := []process{{first, part.Name}, {second, part.Name}}
		if part.Replicas {
			where = append(where, process{first, part.Name + "-2"})
		}
		all = append(all, victim{part.Name, func(n int) error {
			p := where[n%len(where)]
			out, err := p.of.Leaky(t.Context(), "kill", p.name)
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}})
	}
	return all
}
