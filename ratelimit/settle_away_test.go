package ratelimit_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
)

// TestWhatAServerOfAClusterHasIsSettledLater: the others at once, also beside a call that was admitted
// because the server is away. Who does not know AWAY is told of the batch.
func TestWhatAServerOfAClusterHasIsSettledLater(t *testing.T) {
	t.Parallel()
	url, servers := testenv.RedisOfThree(t)
	for _, server := range servers {
		if err := server.Client().ConfigSet(t.Context(), "cluster-require-full-coverage", "no").Err(); err != nil {
			t.Fatal(err)
		}
	}
	e := start(t, thousand, func(c *ratelimit.Config) {
		c.RedisURL, c.Prefix = url, ""
		c.Outage = config.Outage{Default: config.OutageOpen, DialTimeout: 10 * time.Second, Timeout: 10 * time.Second}
	})
	of := func(key string) int {
		return int(servers[0].Client().ClusterKeySlot(t.Context(), key).Val()) * len(servers) / 16384
	}
	gone := (of("{*}") + 1) % len(servers)
	var batch []*limitpb.Settlement
	var away []bool
	call := func(user string) {
		t.Helper()
		id := uuid.NewString()
		e.ask(t, ask{id: id, user: user, maxTokens: "10"})
		batch = append(batch, &limitpb.Settlement{RequestId: id, Account: "user:" + user, Charged: 7})
		away = append(away, of("{user:"+user+"}") == gone)
	}
	users := []string{"ann", "bob", "cyd", "dan", "eve", "fay", "gus", "hal"} // on all of the servers
	for _, user := range users {
		call(user)
	}
	servers[gone].Kill()
	for i, user := range users {
		if away[i] {
			call(user)
			break
		}
	}
	if len(batch) == len(users) {
		t.Fatal("want an account on the server that is away")
	}
	if _, err := e.limiter.Settle(t.Context(), &limitpb.SettleRequest{Settlements: batch}); status.Code(err) != codes.Unavailable {
		t.Errorf("want a caller that does not know AWAY to come again, got %v", err)
	}
	settle := func() []*limitpb.Settled {
		t.Helper()
		r, err := e.limiter.Settle(t.Context(), &limitpb.SettleRequest{Settlements: batch, Some: true})
		if err != nil {
			t.Fatal(err)
		}
		return r.GetSettled()
	}
	for i, one := range settle() {
		want := limitpb.Settled_DUPLICATE // by the first try, which told nothing
		if away[i] {
			want = limitpb.Settled_AWAY
		}
		if one.GetStatus() != want {
			t.Errorf("call of %s: want %s, got %v", batch[i].GetAccount(), want, one)
		}
	}
	servers[gone].Restart()
	testenv.Eventually(t, "all are settled", func() bool {
		for i, one := range settle() {
			switch one.GetStatus() {
			case limitpb.Settled_AWAY:
				return false
			case limitpb.Settled_SETTLED, limitpb.Settled_DUPLICATE:
				if one.GetCharged() == 7 {
					continue
				}
			}
			t.Fatalf("call of %s: got %v", batch[i].GetAccount(), one)
		}
		return true
	})
}
