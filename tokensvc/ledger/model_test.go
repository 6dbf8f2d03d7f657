package ledger

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/migrations"
)

// model keeps every single token, which the ledger never does: it only counts.
type model struct {
	window  time.Duration // 0: prepaid
	anchor  time.Time
	ends    time.Time
	tokens  []*token
	debt    int64
	rests   []int64          // free tokens at the end of each window
	undone  map[string]bool  // credits that are reversed
	forever map[string]int64 // tokens of credits that never expire
}

type token struct {
	credit  string
	expires time.Time // zero: never
	spent   bool
	gone    bool
}

func (t *token) free() bool { return !t.spent && !t.gone }

// advance lets time pass: every window ends, one by one, and every token expires.
func (m *model) advance(now time.Time) {
	for {
		next, expiry := now.Add(1), false
		for _, t := range m.tokens {
			if t.free() && !t.expires.IsZero() && t.expires.Before(next) {
				next, expiry = t.expires, true
			}
		}
		switch {
		case m.window > 0 && !m.ends.After(now) && (!expiry || m.ends.Before(next)):
			m.endWindow()
		case expiry:
			for _, t := range m.tokens {
				if t.free() && t.expires.Equal(next) {
					t.gone = true
				}
			}
		default:
			return
		}
	}
}

func (m *model) endWindow() {
	m.rests = append(m.rests, int64(len(m.inOrder())))
	for _, t := range m.tokens {
		if t.spent && !t.expires.IsZero() && !t.expires.After(m.ends) {
			t.gone = true
		}
		t.spent = false
	}
	m.pay(m.inOrder()) // what was overdrawn
	m.ends = m.ends.Add(m.window)
}

// inOrder are the free tokens, soonest expiry first.
func (m *model) inOrder() []*token {
	var free []*token
	for _, t := range m.tokens {
		if t.free() {
			free = append(free, t)
		}
	}
	slices.SortStableFunc(free, func(a, b *token) int { return cmp.Compare(a.rank(), b.rank()) })
	return free
}

func (t *token) rank() int64 {
	if t.expires.IsZero() {
		return math.MaxInt64
	}
	return t.expires.UnixMicro()
}

func (m *model) pay(free []*token) {
	for _, t := range free {
		if m.debt == 0 {
			return
		}
		t.spent = true
		m.debt--
	}
}

func (m *model) spend(n int64) {
	m.debt += n
	m.pay(m.inOrder())
}

// spendLate is a charge of the window so many ago: what that one and those after it had left
// pays, and then the present.
func (m *model) spendLate(n int64, ago int) {
	for i := max(0, len(m.rests)-ago); i < len(m.rests); i++ {
		part := min(n, m.rests[i])
		m.rests[i] -= part
		n -= part
	}
	m.spend(n)
}

func (m *model) credit(name string, n int64, expires time.Time) {
	for range n {
		m.tokens = append(m.tokens, &token{credit: name, expires: expires})
	}
	if expires.IsZero() {
		m.forever[name] = n
	}
	m.pay(m.inOrder())
}

// reverse takes a credit's tokens back. Those that never expire are all alike: free ones
// go before spent ones.
func (m *model) reverse(name string) {
	if m.undone[name] {
		return
	}
	m.undone[name] = true
	var mine []*token
	for _, t := range m.tokens {
		if !t.gone && t.expires.IsZero() == (m.forever[name] > 0) && (t.credit == name || m.forever[name] > 0) {
			mine = append(mine, t)
		}
	}
	if n := m.forever[name]; n > 0 {
		slices.SortStableFunc(mine, func(a, b *token) int { return cmp.Compare(b2i(a.spent), b2i(b.spent)) })
		mine = mine[:n]
	}
	for _, t := range mine {
		if t.spent {
			m.debt++
		}
		t.gone, t.spent = true, false
	}
	free := m.inOrder()
	slices.SortStableFunc(free, func(a, b *token) int { return cmp.Compare(b2i(b.expires.IsZero()), b2i(a.expires.IsZero())) })
	m.pay(free)
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (m *model) numbers() (total, remaining int64) {
	for _, t := range m.tokens {
		if !t.gone {
			total++
		}
		if t.free() {
			remaining++
		}
	}
	return total, remaining - m.debt
}

func modelDB(t *testing.T) *pgxpool.Pool {
	t.Helper()
	db := testenv.Postgres(t)
	if err := migrations.Up(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	return db
}

// TestLedgerAgainstModel does random credits, charges, refunds, reversals and waits, over
// expiries and ends of windows, and wants the model's numbers after each.
func TestLedgerAgainstModel(t *testing.T) {
	t.Parallel()
	db := modelDB(t)
	rapid.Check(t, func(rt *rapid.T) {
		h := newHistory(t, rt, db)
		rt.Repeat(map[string]func(*rapid.T){
			"credit":        h.credit(false),
			"lot":           h.credit(true),
			"refund":        h.refund,
			"charge":        h.charge,
			"late charge":   h.lateCharge,
			"charged again": h.chargeAgain,
			"reverse":       h.reverse,
			"wait":          h.wait,
			"touch":         h.touch,
			"":              h.check,
		})
	})
	h, err := Verify(t.Context(), db)
	if err != nil || len(h) > 0 {
		t.Errorf("want books without differences, got %v, %v", h, err)
	}
}

// history drives the ledger and the model side by side.
type history struct {
	t       *testing.T
	db      *pgxpool.Pool
	model   model
	key     Key
	user    uuid.UUID
	policy  Policy
	now     time.Time
	made    bool
	credits []string
	charges []Charge
	n       int
}

func newHistory(t *testing.T, rt *rapid.T, db *pgxpool.Pool) *history {
	h := &history{t: t, db: db, user: uuid.New(), model: model{undone: map[string]bool{}, forever: map[string]int64{}},
		now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	h.key = Key{Account: Account(h.user, uuid.Nil), Provider: "openai"}
	h.policy = Policy{Window: time.Hour}
	if rapid.Bool().Draw(rt, "prepaid") {
		h.policy = Policy{Prepaid: true}
	}
	return h
}

func (h *history) name(kind string) string {
	h.n++
	return fmt.Sprintf("%s-%s-%d", kind, h.user, h.n)
}

func (h *history) do(rt *rapid.T, f func(tx pgx.Tx) error) {
	if err := pgx.BeginFunc(h.t.Context(), h.db, f); err != nil {
		rt.Fatal(err)
	}
}

func (h *history) begin() {
	if !h.made {
		h.made = true
		if !h.policy.Prepaid {
			h.model.window, h.model.anchor, h.model.ends = h.policy.Window, h.now, h.now.Add(h.policy.Window)
		}
	}
	h.model.advance(h.now)
}

func (h *history) credit(expires bool) func(*rapid.T) {
	return func(rt *rapid.T) {
		c := Purchase{UserID: h.user, Provider: h.key.Provider, Tokens: rapid.Int64Range(1, 12).Draw(rt, "tokens"), Reference: h.name("credit"),
			Policy: h.policy, At: h.now}
		var end time.Time
		if expires {
			end = h.now.Add(time.Duration(rapid.IntRange(1, 12).Draw(rt, "quarters")) * 15 * time.Minute)
			c.ExpiresAt = &end
		}
		h.do(rt, func(tx pgx.Tx) error { return Credit(h.t.Context(), tx, c) })
		h.do(rt, func(tx pgx.Tx) error { return Credit(h.t.Context(), tx, c) }) // the same again
		h.begin()
		h.model.credit(c.Reference, c.Tokens, end)
		h.credits = append(h.credits, c.Reference)
	}
}

func (h *history) refund(rt *rapid.T) {
	c := Purchase{UserID: h.user, Provider: h.key.Provider, Tokens: rapid.Int64Range(1, 5).Draw(rt, "tokens"), Reference: h.name("refund"),
		Kind: KindRefund, Reason: "sorry",
		Policy: h.policy, At: h.now}
	h.do(rt, func(tx pgx.Tx) error { return Credit(h.t.Context(), tx, c) })
	h.begin()
	h.model.credit(c.Reference, c.Tokens, h.model.ends) // zero where it is prepaid
	h.credits = append(h.credits, c.Reference)
}

func (h *history) apply(rt *rapid.T, charges ...Charge) {
	if _, err := applyAt(h.t.Context(), h.db, charges, h.now); err != nil {
		rt.Fatal(err)
	}
}

func (h *history) charge(rt *rapid.T) {
	if !h.made {
		rt.Skip()
	}
	h.begin()
	var batch []Charge
	for range rapid.IntRange(1, 3).Draw(rt, "calls") {
		c := Charge{Request: h.name("call"), Account: h.key.Account, Provider: h.key.Provider, Tokens: rapid.Int64Range(1, 8).Draw(rt,
			"tokens"), Drawn: true, At: h.now}
		batch = append(batch, c)
		h.model.spend(c.Tokens)
	}
	h.apply(rt, batch...)
	h.charges = append(h.charges, batch...)
}

// lateCharge is of a call of an earlier window.
func (h *history) lateCharge(rt *rapid.T) {
	if !h.made || h.policy.Prepaid {
		rt.Skip()
	}
	h.begin()
	ago := rapid.IntRange(1, 4).Draw(rt, "windows ago")
	var batch []Charge
	for range rapid.IntRange(1, 3).Draw(rt, "calls") {
		c := Charge{Request: h.name("late"), Account: h.key.Account, Provider: h.key.Provider, Tokens: rapid.Int64Range(1, 9).Draw(rt, "tokens"),
			Drawn: true, At: h.model.ends.Add(-time.Duration(ago)*h.model.window - 1)}
		batch = append(batch, c)
		h.model.spendLate(c.Tokens, ago)
	}
	h.apply(rt, batch...)
	h.charges = append(h.charges, batch...)
}

func (h *history) chargeAgain(rt *rapid.T) {
	if len(h.charges) == 0 {
		rt.Skip()
	}
	c := rapid.SampledFrom(h.charges).Draw(rt, "charge")
	h.apply(rt, c, c)
}

func (h *history) reverse(rt *rapid.T) {
	if len(h.credits) == 0 {
		rt.Skip()
	}
	name := rapid.SampledFrom(h.credits).Draw(rt, "credit")
	for range 2 {
		h.do(rt, func(tx pgx.Tx) error { return reverse(h.t.Context(), tx, name, "mistake", h.now) })
	}
	h.begin()
	h.model.reverse(name)
}

func (h *history) wait(rt *rapid.T) {
	h.now = h.now.Add(time.Duration(rapid.IntRange(1, 14).Draw(rt, "quarters")) * 15 * time.Minute)
}

func (h *history) touch(rt *rapid.T) {
	if err := Touch(h.t.Context(), h.db, []Key{h.key}, h.now); err != nil {
		rt.Fatal(err)
	}
}

func (h *history) check(rt *rapid.T) {
	if !h.made {
		return
	}
	h.model.advance(h.now)
	total, remaining := h.model.numbers()
	got, err := findAt(h.t.Context(), h.db, h.key, h.now)
	if err != nil {
		rt.Fatal(err)
	}
	if got.Total != total || got.Remaining != remaining {
		rt.Fatalf("want total %d and remaining %d, got %d and %d", total, remaining, got.Total, got.Remaining)
	}
	if state := got.State(h.now); state.Check() != nil || state.Credits-state.Spent != remaining {
		rt.Fatalf("want a state of the pool, got %+v", state)
	}
}
