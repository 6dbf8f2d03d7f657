package saga

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// A replica that stops gives its purchases back, and another one hears of it: the next poll
// is an hour away.
func TestReleasedPurchaseWakesAnotherReplica(t *testing.T) {
	t.Parallel()
	quiet := func(c *Config) { c.Timing.Poll, c.Timing.Recover = time.Hour, time.Hour }
	claimed, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w := newWorld(t, func(c *Config) {
		quiet(c)
		c.Boundary = func(at string) {
			if at == "claimed" {
				once.Do(func() { close(claimed); <-goOn })
			}
		}
	})
	id := w.buy(user(alice), order1(alice, ""))
	ctx, stop := context.WithCancel(t.Context())
	var first sync.WaitGroup
	first.Go(func() { _ = w.service.Run(ctx) })
	<-claimed
	w.attach(quiet)
	w.run()
	testenv.Eventually(t, "the second replica listens", func() bool {
		return w.number(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
			AND query = 'LISTEN leaky_sagas' AND state = 'idle'`) >= 2
	})
	stop()
	close(goOn)
	first.Wait()
	if row := w.until(id, final); row.Status != "COMPLETED" {
		t.Errorf("want it completed by the other replica, got %+v", row)
	}
}
