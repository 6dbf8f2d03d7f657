package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const (
	pathChat     = "/v1/chat/completions"
	pathPurchase = "/api/v1/tokens/purchase"
	pathQuota    = "/api/v1/tokens/quota?provider=openai"

	// Of the tier NARROW, in tokens and tokens a second.
	narrowBurst, narrowLeak = 1000, 10
	callHolds               = 60 // or less does a call
	// What who is rich buys at first and who is poor, and both now and then.
	riches, pittance, more = 1_000_000, 600, 200

	patience = 15 * time.Second // with one answer: what is frozen gives none
	pause    = 20 * time.Millisecond
)

// buyer is an account that calls with what it has bought.
type buyer struct {
	stacktest.Account
	bought int64
}

// traffic is the clients of one schedule.
type traffic struct {
	*world
	rich, poor *buyer
	narrow     stacktest.Account // with a limit and no pool

	mu    sync.Mutex
	saw   map[string]int    // answers by who got them
	last  map[string]latest // by account
	wrong []string          // answers that must not be
	end   chan struct{}
	group sync.WaitGroup
}

// newTraffic registers who calls, and has them buy.
func newTraffic(t *testing.T, w *world) *traffic {
	t.Helper()
	c := &traffic{world: w, saw: map[string]int{}, last: map[string]latest{}, end: make(chan struct{})}
	account := func(tier string) stacktest.Account {
		who, err := w.NewAccount(t.Context(), tier)
		if err != nil {
			t.Fatal(err)
		}
		return who
	}
	c.rich, c.poor, c.narrow = &buyer{Account: account("PREPAID")}, &buyer{Account: account("PREPAID")}, account("NARROW")
	for who, tokens := range map[*buyer]int64{c.rich: riches, c.poor: pittance} {
		c.buy(t.Context(), who, tokens)
		testenv.Eventually(t, "what was bought is there", func() bool {
			q, ok := c.quota(t.Context(), who)
			return ok && q.RemainingTokens == tokens
		})
	}
	return c
}

// flow has everybody call until stop is called.
func (c *traffic) flow(ctx context.Context) (stop func()) {
	forever := func(one func(n int)) {
		c.group.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-c.end:
					return
				case <-time.After(pause):
					one(n)
				}
			}
		})
	}
	for range 2 {
		forever(func(n int) {
			if answer := c.call(ctx, c.rich.Account, n%3 == 0); answer.refused() {
				c.fail("who paid %d and spent little was refused: %s", c.rich.bought, answer)
			}
		})
	}
	forever(func(int) { c.call(ctx, c.poor.Account, false) })
	forever(func(int) { c.call(ctx, c.narrow, false) })
	forever(func(n int) {
		if n%50 == 49 { // each waits for its order to be taken
			c.buy(ctx, c.poor, more)
			c.buy(ctx, c.rich, more)
		}
	})
	return sync.OnceFunc(func() { close(c.end); c.group.Wait() })
}

// answer of one call.
type answer struct {
	status int
	id     string // of the call
	code   string
	text   string
	err    error
}

func (a answer) refused() bool {
	return a.status == http.StatusPaymentRequired || a.status == http.StatusTooManyRequests
}

func (a answer) String() string {
	return fmt.Sprintf("%d %s %v %.300s (%s)", a.status, a.code, a.err, a.text, a.id)
}

// latest is how it goes for an account.
type latest struct {
	answer   answer    // the last one
	admitted time.Time // when the last call that was admitted began
}

func (c *traffic) latest(who stacktest.Account) latest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last[who.ID]
}

// call asks for some words, in a stream or not.
func (c *traffic) call(ctx context.Context, who stacktest.Account, stream bool) answer {
	body := map[string]any{"model": "gpt-4o-mini", "max_tokens": 40,
		"messages": []any{map[string]any{"role": "user", "content": "[[tokens=20]] " + uuid.NewString()}}}
	if stream {
		body["stream"] = true
	}
	begun := time.Now()
	a := c.ask(ctx, http.MethodPost, pathChat, who, body, "")
	c.count(who, a, begun)
	return a
}

// buy orders tokens, and asks again under the same key until the order is taken.
func (c *traffic) buy(ctx context.Context, who *buyer, tokens int64) {
	for key := uuid.NewString(); ctx.Err() == nil; {
		a := c.ask(ctx, http.MethodPost, pathPurchase, who.Account, map[string]any{"provider": "openai", "tokens": tokens}, key)
		if a.status == http.StatusAccepted {
			c.mu.Lock()
			who.bought += tokens
			c.mu.Unlock()
			return
		}
		if a.err == nil && a.status < http.StatusInternalServerError {
			c.fail("an order was refused: %s", a)
			return
		}
		<-time.After(10 * pause)
	}
}

// quota of a pool, as users see it.
type quota struct{ TotalTokens, RemainingTokens, HeldTokens, BookedTokens int64 }

func (c *traffic) quota(ctx context.Context, who *buyer) (q quota, ok bool) {
	a := c.ask(ctx, http.MethodGet, pathQuota, who.Account, nil, "")
	return q, a.status == http.StatusOK && json.Unmarshal([]byte(a.text), &q) == nil
}

func (c *traffic) ask(ctx context.Context, method, path string, who stacktest.Account, body any, key string) (a answer) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var text []byte
	var header http.Header
	a.status, header, text, a.err = c.Send(ctx, method, path, who.Key, body, "Idempotency-Key", key)
	a.text, a.id = string(text), header.Get("X-Request-Id")
	var told struct {
		Error struct{ Code string }
	}
	if json.Unmarshal(text, &told) == nil {
		a.code = told.Error.Code
	}
	return a
}

func (c *traffic) count(who stacktest.Account, a answer, begun time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := map[string]string{c.rich.ID: "rich", c.poor.ID: "poor", c.narrow.ID: "narrow"}[who.ID]
	c.saw[strings.TrimSpace(fmt.Sprintf("%s %d %s", name, a.status, a.code))]++
	now := latest{answer: a, admitted: c.last[who.ID].admitted}
	if a.status == http.StatusOK {
		now.admitted = begun
	}
	c.last[who.ID] = now
}

func (c *traffic) fail(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wrong = append(c.wrong, time.Now().Format(time.StampMilli)+" "+fmt.Sprintf(format, args...)); len(c.wrong) > 20 {
		c.wrong = c.wrong[:20]
	}
}

// told is what everybody got, and what they must not get.
func (c *traffic) told() (saw string, wrong []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, what := range slices.Sorted(maps.Keys(c.saw)) {
		all = append(all, fmt.Sprintf("%s: %d", what, c.saw[what]))
	}
	return strings.Join(all, ", "), slices.Clone(c.wrong)
}
