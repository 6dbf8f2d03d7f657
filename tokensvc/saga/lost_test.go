package saga

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/leaky-tokens/leaky-tokens/tokensvc/payment"
)

// losing is a connection to Postgres that is cut after the next COMMIT took effect, before its
// answer has come.
type losing struct {
	net.Conn
	next      *atomic.Bool // the next COMMIT of any connection is the one
	committed bool
}

func (c *losing) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("commit\x00")) && c.next.CompareAndSwap(true, false) {
		c.committed = true
	}
	return c.Conn.Write(b)
}

func (c *losing) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.committed {
		_ = c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// losingCommits makes replicas on the world's database whose COMMIT is not answered after next is set.
func (w *world) losingCommits() *atomic.Bool {
	w.t.Helper()
	next := new(atomic.Bool)
	cfg := w.pool.Config().Copy()
	dial := cfg.ConnConfig.DialFunc
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &losing{Conn: conn, next: next}, nil
	}
	own, err := pgxpool.NewWithConfig(w.t.Context(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(own.Close)
	w.pool = own
	return next
}

// TestAnswerToCommitLost: a step is written, and nobody hears of it. Whatever the worker still has in
// mind, what is written holds: the payment's id (a provider's search may not have the payment yet),
// and that this was no failed try.
func TestAnswerToCommitLost(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		step     Action
		failures int // before, of 5 tries
	}{{Authorize, 0}, {Authorize, 4}, {Allocate, 0}, {Capture, 0}, {Capture, 4}} {
		t.Run(fmt.Sprintf("%s after %d failures", tc.step, tc.failures), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			next, left, began, lost := w.losingCommits(), tc.failures, false, 0
			w.payments.fault = func(at string, o payment.Order, s *payment.State) error {
				if began = began || at == string(tc.step); began && left > 0 {
					left--
					return errLost1
				}
				if at != string(Authorize) && o.ID == "" && tc.failures == 0 { // the search does not have it yet
					*s = payment.State{Status: payment.Absent}
				}
				return nil
			}
			w.attach(func(c *Config) {
				c.Boundary = func(at string) {
					if at == string(tc.step)+" uncommitted" && lost == 0 {
						lost++
						next.Store(true)
					}
				}
			})
			w.run()
			row := w.until(w.buy(user(alice), order1(alice, "")), func(r Saga) bool { return final(r) || parked(r) })
			if row.Status != "COMPLETED" || row.PaymentID != "pay-"+row.ID.String() || lost != 1 || next.Load() {
				t.Errorf("want it completed with its payment's id, after a lost answer, got %+v", row)
			}
			if n := w.number(`SELECT count(*) FROM token_purchase_step`); n != 3 {
				t.Errorf("want each step once, got %d", n)
			}
		})
	}
}

// TestTurnedBackWhileItsWorkerStood: the worker of a purchase says nothing for longer than its lease,
// and the purchase is turned back. What the worker writes then does not turn it forward again.
func TestTurnedBackWhileItsWorkerStood(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *Config) { c.Timing.Stale = time.Minute })
	id := w.buy(user(alice), order1(alice, ""))
	rows, err := w.service.claim(t.Context(), 1)
	if err != nil || len(rows) != 1 {
		t.Fatalf("want it claimed, got %+v, %v", rows, err)
	}
	if _, err := w.pool.Exec(t.Context(), `UPDATE token_purchase_saga SET updated_at = now() - interval '61 seconds', lease_until = now() - interval '1 second'`); err != nil {
		t.Fatal(err)
	}
	if err := w.service.recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.step(t.Context(), rows[0], Authorize); !errors.Is(err, errLost) {
		t.Errorf("want its lease lost, got %v", err)
	}
	w.run()
	if row := w.until(id, final); row.Status != "FAILED" || !row.Recovered || w.payments.book[row.ID].Status != payment.Voided {
		t.Errorf("want it failed and the payment voided, got %+v", row)
	}
}
