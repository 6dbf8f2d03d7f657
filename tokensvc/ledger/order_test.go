package ledger_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
)

// TestBalancesAreInOrderOfVersions: whoever changes a pool, its states stand in the outbox
// under the pool's name and in the order of their versions, each version once.
func TestBalancesAreInOrderOfVersions(t *testing.T) {
	t.Parallel()
	db, user := database(t), uuid.New()
	account := ledger.Account(user, uuid.Nil)
	key := ledger.Key{Account: account, Provider: "openai"}
	var writers sync.WaitGroup
	for w := range 6 {
		writers.Go(func() {
			for n := range 15 {
				reference := fmt.Sprintf("credit-%d-%d", w, n)
				c := ledger.Purchase{UserID: user, Provider: "openai", Tokens: 10, Reference: reference}
				if n%3 == 0 {
					soon := time.Now().Add(-time.Second) // expires at once
					c.ExpiresAt = &soon
				}
				if err := credit(t, db, c); err != nil {
					t.Error(err)
				}
				charge := []ledger.Charge{{Request: uuid.NewString(), Account: account, Provider: "openai", Tokens: 1, Drawn: true, At: time.Now()}}
				if _, err := ledger.Apply(t.Context(), db, charge); err != nil {
					t.Error(err)
				}
				if _, err := ledger.Announce(t.Context(), db); err != nil {
					t.Error(err)
				}
				if err := ledger.Touch(t.Context(), db, []ledger.Key{key}, time.Time{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	rows, err := db.Query(t.Context(), `SELECT (payload->>'version')::bigint FROM token_outbox WHERE aggregate_id = $1 ORDER BY seq`, account+
		"/openai")
	if err != nil {
		t.Fatal(err)
	}
	versions, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	if len(versions) < 6*15 {
		t.Errorf("want a state for every credit, got %d", len(versions))
	}
	for i := 1; i < len(versions); i++ {
		if versions[i] <= versions[i-1] {
			t.Fatalf("version %d stands behind %d", versions[i], versions[i-1])
		}
	}
	var elsewhere int
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM token_outbox WHERE aggregate_id <> $1`, account+"/openai").Scan(&elsewhere); err != nil || elsewhere != 0 {
		t.Errorf("want every state under the pool's name, got %d elsewhere, %v", elsewhere, err)
	}
}
