package purchases

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	stub "github.com/leaky-tokens/leaky-tokens/stubs/payment"
)

// ways are all that the stream may tell of a purchase: the paths of the state diagram in
// docs/purchases.md, each step once.
func ways() []string {
	return []string{
		"TOKEN_PURCHASE_STARTED TOKEN_PAYMENT_RESERVED TOKEN_ALLOCATED TOKEN_PURCHASE_COMPLETED",
		"TOKEN_PURCHASE_STARTED TOKEN_PURCHASE_FAILED",
		"TOKEN_PURCHASE_STARTED TOKEN_PAYMENT_RESERVED TOKEN_PURCHASE_FAILED PAYMENT_RELEASE_REQUESTED",
		"TOKEN_PURCHASE_STARTED TOKEN_PAYMENT_RESERVED TOKEN_ALLOCATED TOKEN_PURCHASE_FAILED PAYMENT_RELEASE_REQUESTED",
	}
}

// TestStepsKeepTheirOrder drives purchases through every ending while both replicas are
// killed wherever they are, and holds the stream against the state diagram: whoever
// listens to it sees each purchase's steps in their order, each once.
func TestStepsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	const clients, each, kills = 10, 50, 40
	seed := number("LEAKY_SEED", rand.Uint64N(1_000_000_000))
	t.Logf("LEAKY_SEED=%d", seed)
	w := newWorld(t)
	if err := w.payment.SetFaults(stub.Faults{Seed: seed, Decline: .15, DeclineCapture: .3, Refuse: .15}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*patience)
	defer cancel()
	running, stop := context.WithCancel(ctx)
	replicas := []*slot{{w: w, socket: w.socket(0)}, {w: w, socket: w.socket(1)}}
	var workers, buyers, trouble sync.WaitGroup
	for _, replica := range replicas {
		workers.Go(func() { replica.keep(running, t) })
	}
	done := make(chan struct{})
	trouble.Go(func() {
		luck := rand.New(rand.NewPCG(seed, 1))
		for range kills {
			select {
			case <-done:
				return
			case <-time.After(time.Duration(50+luck.IntN(350)) * time.Millisecond):
				replicas[luck.IntN(2)].kill()
			}
		}
	})
	trouble.Go(func() { w.age(ctx, t, done) })
	ids := make([][]string, clients)
	for c := range clients {
		buyers.Go(func() { ids[c] = w.buy(ctx, t, c, each) })
	}
	buyers.Wait()
	all := slices.Concat(ids...)
	settled := w.settled(ctx, t, all)
	close(done)
	trouble.Wait()
	stop()
	workers.Wait()
	if !settled {
		return
	}
	w.checkEvents(t)
	w.checkEndings(t)
	t.Logf("%d purchases, %d worker processes", len(all), replicas[0].starts+replicas[1].starts)
	if starts := replicas[0].starts + replicas[1].starts; starts < 4 {
		t.Errorf("want replicas killed in the middle, got %d worker processes", starts)
	}
}

// buy orders so many purchases one after the other, and cancels every fifth at once.
func (w *world) buy(ctx context.Context, t *testing.T, buyer, times int) []string {
	user := uuid.NewString()
	ids := make([]string, 0, times)
	for n := range times {
		sockets := []string{w.socket((buyer + n) % 2), w.socket((buyer + n + 1) % 2)}
		answer, err := w.post(ctx, sockets, user, uuid.NewString(), fmt.Sprintf(`{"provider":"gemini","tokens":%d}`, 1000+n))
		if err != nil {
			t.Errorf("order %d of buyer %d was never taken: %v", n, buyer, err)
			return ids
		}
		id := sagaID(answer)
		if ids = append(ids, id); n%5 == 0 {
			for i := 0; ctx.Err() == nil; i++ { // until a replica answers; 409: it is finished already
				status, err := w.cancel(ctx, sockets[i%2], id)
				if err == nil && (status == http.StatusOK || status == http.StatusConflict) {
					break
				}
				pause(ctx, 10*time.Millisecond)
			}
		}
	}
	return ids
}

// cancel is an administrator's word.
func (w *world) cancel(ctx context.Context, socket, id string) (int, error) {
	ctx, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://worker/api/v1/admin/sagas/"+id+"/cancel", http.NoBody)
	if err != nil {
		return 0, err
	}
	r.Header.Set("X-Test-User", uuid.NewString())
	r.Header.Set("X-Test-Role", "ADMIN")
	res, err := client(socket).Do(r)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}

// age makes some purchases look as if they had stood still for too long, so that the recovery
// job takes those of them that no worker has at that moment.
func (w *world) age(ctx context.Context, t *testing.T, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-time.After(50 * time.Millisecond):
		}
		_, err := w.pool.Exec(ctx, `UPDATE token_purchase_saga SET updated_at = now() - interval '1 hour' WHERE next_at IS NOT NULL AND NOT recovered
			AND tokens % 3 = 0 AND updated_at < now() - interval '100 milliseconds'`)
		if err != nil {
			t.Errorf("age purchases: %v", err)
			return
		}
	}
}

// checkEndings wants some purchases at each end, or the test would prove less than it says.
func (w *world) checkEndings(t *testing.T) {
	t.Helper()
	for ending, where := range map[string]string{
		"completed":               `status = 'COMPLETED'`,
		"declined":                `status = 'FAILED' AND failure LIKE 'payment declined%'`,
		"declined at the capture": `status = 'FAILED' AND failure LIKE 'capture declined%'`,
		"recovered":               `recovered`,
		"cancelled":               `status = 'FAILED' AND failure LIKE 'cancelled%'`,
	} {
		var n int
		if err := w.pool.QueryRow(t.Context(), `SELECT count(*) FROM token_purchase_saga WHERE `+where).Scan(&n); err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d", ending, n)
		if n == 0 {
			t.Errorf("want purchases that are %s, got none", ending)
		}
	}
}

// checkOrder holds what the stream tells of each purchase against the ways.
func checkOrder(t *testing.T, orders map[string][]string) {
	t.Helper()
	wrong := 0
	for purchase, types := range orders {
		if got := strings.Join(types, " "); !slices.Contains(ways(), got) {
			if wrong++; wrong <= 10 {
				t.Errorf("events of %s are no way through the state diagram: %s", purchase, got)
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d purchases are out of order", wrong, len(orders))
	}
}
