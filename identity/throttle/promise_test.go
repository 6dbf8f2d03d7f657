package throttle

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// model is a counter in memory whose clock the test sets.
type model struct {
	*memory
	clock time.Time
}

func newModel() *model {
	m := &model{clock: time.Unix(1_800_000_000, 0)}
	m.memory = newMemory(rules{Longest: time.Minute, Window: time.Hour}, func() time.Time { return m.clock })
	return m
}

// try is one attempt on an account from an address, as Enter makes it but for waiting.
func (m *model) try(t *rapid.T, account, address string) (verdict, []subject) {
	all := []subject{{"account:" + account, address, 5}, {"address:" + address, account, 20}}
	v, err := m.take(context.Background(), all)
	if err != nil {
		t.Fatal(err)
	}
	return v, all
}

// Whoever is right is refused at most once for what others do, and let through at the time that they
// were told, whatever the others did before, meanwhile and in the same instant. The others are those
// who have guessed before: somebody whom nobody has seen yet is like the one who is right.
func TestWhoIsRightWaitsAtMostOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel()
		guess := func(account, address string) {
			if v, all := m.try(t, account, address); v.wait == 0 {
				_ = m.fail(t.Context(), all)
			}
		}
		step := func() {
			m.clock = m.clock.Add(time.Duration(rapid.IntRange(0, 20_000).Draw(t, "ms")) * time.Millisecond)
		}
		accounts := []string{"ada", "bob", "cid", "dan", "eve"}
		addresses := []string{"198.51.100.1", "198.51.100.2", "198.51.100.3", "192.0.2.1"}
		// Everybody who will guess has guessed: at the account of ada from elsewhere, and from the
		// address of ada at other accounts.
		for _, address := range addresses[:3] {
			m.clock = m.clock.Add(2 * time.Minute)
			guess("ada", address)
		}
		for _, account := range accounts[1:] {
			m.clock = m.clock.Add(2 * time.Minute)
			guess(account, "192.0.2.1")
		}
		others := func() {
			for range rapid.IntRange(0, 30).Draw(t, "guesses") {
				step()
				if rapid.Bool().Draw(t, "elsewhere") {
					guess("ada", rapid.SampledFrom(addresses[:3]).Draw(t, "address"))
				} else {
					guess(rapid.SampledFrom(accounts[1:]).Draw(t, "account"), "192.0.2.1")
				}
			}
		}
		for range rapid.IntRange(1, 5).Draw(t, "logins") {
			others()
			v, all := m.try(t, "ada", "192.0.2.1")
			if v.wait > 0 {
				told := m.clock.Add(v.wait)
				for range rapid.IntRange(0, 50).Draw(t, "meanwhile") {
					m.clock = m.clock.Add(time.Duration(rapid.IntRange(0, int(max(0, told.Sub(m.clock)).Milliseconds())).Draw(t, "ms")) * time.Millisecond)
					guess("ada", addresses[0])
					guess("bob", "192.0.2.1")
				}
				m.clock = told
				guess("ada", addresses[1])
				guess("cid", "192.0.2.1")
				if v, all = m.try(t, "ada", "192.0.2.1"); v.wait > 0 {
					t.Fatalf("refused twice: %+v", v)
				}
			}
			_ = m.release(t.Context(), all)
		}
	})
}

// Guesses at one account from any number of addresses stay as few as from one: the free ones, then
// one for each wait, which doubles.
func TestGuessesStayBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel()
		networks, checked := rapid.IntRange(1, 200).Draw(t, "networks"), 0
		for end := m.clock.Add(30 * time.Minute); m.clock.Before(end); {
			m.clock = m.clock.Add(time.Duration(rapid.IntRange(1, 30_000).Draw(t, "ms")) * time.Millisecond)
			for range 20 {
				if v, all := m.try(t, "ada", fmt.Sprint("net", rapid.IntRange(0, networks-1).Draw(t, "network"))); v.wait == 0 {
					checked++
					_ = m.fail(t.Context(), all)
				}
			}
		}
		// 5 free, waits of 1, 2, 4, ... 32 seconds and then a minute each in half an hour.
		if most := 5 + 6 + 30; checked > most {
			t.Fatalf("%d guesses were checked, want at most %d", checked, most)
		}
	})
}

// A success leaves wait and end of what others did as they were.
func TestASuccessRestoresWaitAndEnd(t *testing.T) {
	t.Parallel()
	m := newModel()
	for i := range 20 {
		all := []subject{{"account:" + fmt.Sprint(i), "net", 5}, {"address:net", fmt.Sprint(i), 20}}
		if v, _ := m.take(t.Context(), all); v.wait != 0 {
			t.Fatalf("guess %d waits", i)
		}
		_ = m.fail(t.Context(), all)
	}
	before := *m.tally("address:net", m.clock)
	m.clock = m.clock.Add(6 * time.Second)
	for i := range 1000 {
		all := []subject{{"account:right" + fmt.Sprint(i), "net", 5}, {"address:net", "right" + fmt.Sprint(i), 20}}
		if v, _ := m.take(t.Context(), all); v.wait != 0 {
			t.Fatalf("right login %d: %+v", i, v)
		}
		_ = m.forget(t.Context(), all[0])
		_ = m.release(t.Context(), all[1:])
	}
	if after := m.tally("address:net", m.clock); after.failures != before.failures || after.until != before.until ||
		after.expires != before.expires {
		t.Errorf("want %+v, got %+v", before, after)
	}
}

// Fifty logins at once with the right password all succeed, and of fifty guesses at once five are
// checked, though all fifty stood in line.
func TestFiftyAtOnce(t *testing.T) {
	t.Parallel()
	for name, right := range map[string]bool{"right": true, "wrong": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				th := New(Config{Settings: config.Throttle{Failures: 5, Addresses: 20, Longest: time.Minute, Window: time.Minute},
					Log: slog.New(slog.DiscardHandler)})
				var through atomic.Int64
				var wg sync.WaitGroup
				for range 50 {
					wg.Go(func() {
						ctx := from("192.0.2.1")
						a, wait := th.Enter(ctx, "ann")
						if wait > 0 {
							return
						}
						through.Add(1)
						time.Sleep(60 * time.Millisecond) // the hash
						if right {
							a.Succeed(ctx)
						} else {
							a.Fail(ctx)
						}
					})
				}
				wg.Wait()
				if want := map[bool]int64{true: 50, false: 5}[right]; through.Load() != want {
					t.Errorf("want %d checked, got %d", want, through.Load())
				}
			})
		})
	}
}

// What Lua does in Redis is what tally does in memory, step by step.
func TestBothCountersAgree(t *testing.T) {
	t.Parallel()
	client, prefix := testenv.Redis(t)
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := newModel()
		s := &shared{client: client, prefix: fmt.Sprint(prefix, run, ":"), rules: m.rules, now: func() time.Time { return m.clock }}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			m.clock = m.clock.Add(time.Duration(rapid.IntRange(0, 9000).Draw(t, "ms")) * time.Millisecond)
			all := []subject{{rapid.SampledFrom([]string{"a", "b"}).Draw(t, "first"), rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "who"), 2},
				{"c", rapid.SampledFrom([]string{"x", "y"}).Draw(t, "other"), 3}}
			var inMemory, inRedis verdict
			var errs [2]error
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0, 1:
				inMemory, errs[0] = m.take(t.Context(), all)
				inRedis, errs[1] = s.take(t.Context(), all)
			case 2:
				errs = [2]error{m.fail(t.Context(), all), s.fail(t.Context(), all)}
			case 3:
				errs = [2]error{m.release(t.Context(), all), s.release(t.Context(), all)}
			case 4:
				errs = [2]error{m.forget(t.Context(), all[0]), s.forget(t.Context(), all[0])}
			}
			if errs[0] != nil || errs[1] != nil || inMemory != inRedis {
				t.Fatalf("memory says %+v, Redis %+v, %v", inMemory, inRedis, errs)
			}
		}
	})
}
