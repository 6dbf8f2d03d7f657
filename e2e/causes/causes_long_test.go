//go:build long

package causes

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// world is a stack in which causes are planted.
type world struct {
	*stacktest.Stack
	t   *testing.T
	who stacktest.Account
}

// newWorld starts a stack with two processes of ratelimit and one user, who has tokens.
func newWorld(t *testing.T) world {
	t.Helper()
	dir, err := os.MkdirTemp("", "leaky")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil { // Postgres runs as another user below it
		t.Fatal(err)
	}
	s, err := stacktest.New(t.Context(), dir, 0, stacktest.Monitored, stacktest.Replicas(topology.RateLimit, 2))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := s.Leaky(context.WithoutCancel(t.Context()), "down"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	if out, err := s.Up(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w := world{Stack: s, t: t}
	if w.who, err = s.NewAccount(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// chat makes a call, and gives its id.
func (w world) chat(key, text string, header ...string) string {
	w.t.Helper()
	body := fmt.Sprintf(`{"model":"gpt-4o","messages":[{"role":"user","content":%q}]}`, text)
	_, headers, _, err := w.Send(w.t.Context(), "POST", "/v1/chat/completions", key, body, header...)
	if err != nil {
		w.t.Fatal(err)
	}
	return headers.Get("X-Request-Id")
}

// leaky runs a command and gives what it said, whatever its exit code.
func (w world) leaky(args ...string) string {
	w.t.Helper()
	out, _ := w.Leaky(w.t.Context(), args...)
	return out
}

// found runs the first command of a symptom until the page's table leads to the cause, which has a text of
// its own in the output, and gives the row.
func (w world) found(s section, cause string, args ...string) row {
	w.t.Helper()
	var out string
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("leaky %s\n%s", strings.Join(args, " "), out)
		}
	})
	var r row
	testenv.Within(w.t, 90*time.Second, cause, func() bool {
		out = w.leaky(args...)
		var led bool
		r, led = s.follow(out)
		return led && strings.Contains(strings.Join(r.says, " "), cause) && strings.Contains(out, cause)
	})
	return r
}

// busy makes calls of all kinds until the test ends.
func (w world) busy() {
	ctx, stop := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	for _, call := range []struct{ method, path, body string }{
		{"POST", "/v1/chat/completions", `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Hello"}]}`},
		{"GET", "/api/v1/tokens/quota?provider=openai", ""},
	} {
		running.Go(func() {
			pace := time.NewTicker(200 * time.Millisecond)
			defer pace.Stop()
			for ctx.Err() == nil {
				_, _, _, _ = w.Send(ctx, call.method, call.path, w.who.Key, call.body) // slow and refused ones are what is looked for
				<-pace.C
			}
		})
	}
	w.t.Cleanup(func() { stop(); running.Wait() })
}

// TestTheGatewayIsSlow plants what makes a gateway slow, one after the other.
func TestTheGatewayIsSlow(t *testing.T) {
	w, page := newWorld(t), symptom(t, "The gateway is slow")
	if strings.Join(page.command, " ") != "slow" {
		t.Fatalf("want the page to begin with leaky slow, got %q", page.command)
	}
	recent := []string{"slow", "--for", "30s"}
	for _, c := range []struct {
		name, says string
		plant      func(world) // and mends at the end of its test
		after      func(world, row)
	}{
		{"nothing", "Nothing is slower", func(world) {}, func(world, row) {}},
		{"a slow provider", "the provider is slow", slowProvider, func(w world, _ row) {
			if out := w.leaky(recent...); !strings.Contains(out, "provider-openai") {
				w.t.Errorf("want the provider named, got\n%s", out)
			}
		}},
		{"a slow Redis", "for a ping", slowRedis, func(w world, _ row) {
			if out := w.leaky(recent...); !strings.Contains(out, "redis took") {
				w.t.Errorf("want Redis named, got\n%s", out)
			}
		}},
		{"a row that is locked", "something holds its rows", lockedRow, func(w world, r row) {
			w.says(r, "logs postgres", "still waiting for")
		}},
		{"a limiter that hangs", "does not answer Prometheus", frozenLimiter, func(w world, r row) {
			w.says(r, "ps", "ratelimit-2")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := world{w.Stack, t, w.who}
			w.busy()
			c.plant(w)
			c.after(w, w.found(page, c.says, recent...))
		})
	}
}

// says runs a command of the row, which must say something.
func (w world) says(r row, command, text string) {
	w.t.Helper()
	for _, c := range r.commands {
		if c != command {
			continue
		}
		testenv.Eventually(w.t, "leaky "+command+" to say "+text, func() bool {
			return strings.Contains(w.leaky(strings.Fields(command)...), text)
		})
		return
	}
	w.t.Errorf("the page does not lead to leaky %s, but to %q", command, r.commands)
}

func slowProvider(w world) {
	const body = `{"model":"gpt-4o","messages":[{"role":"user","content":"slow"}]}`
	w.repeat(func(ctx context.Context) {
		_, _, _, _ = w.Send(ctx, "POST", "/v1/chat/completions", w.who.Key, body, "X-Stub-Delay-Ms", "2500")
	})
}

// repeat does something again and again, eight at once, until the test ends.
func (w world) repeat(do func(context.Context)) {
	ctx, stop := context.WithCancel(w.t.Context())
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for ctx.Err() == nil {
				do(ctx)
			}
		})
	}
	w.t.Cleanup(func() { stop(); running.Wait() })
}

// exported is a variable of `leaky env`.
func (w world) exported(name string) string {
	w.t.Helper()
	_, rest, _ := strings.Cut(w.leaky("env"), name+"='")
	value, _, _ := strings.Cut(rest, "'")
	return value
}

func slowRedis(w world) {
	at, err := redis.ParseURL(w.exported("LEAKY_REDIS_URL"))
	if err != nil {
		w.t.Fatal(err)
	}
	at.ReadTimeout = 10 * time.Second
	client := redis.NewClient(at)
	w.t.Cleanup(func() { _ = client.Close() })
	w.repeat(func(ctx context.Context) { _ = client.Do(ctx, "CLIENT", "PAUSE", "800", "ALL").Err() }) // answered by the next free moment
}

func lockedRow(w world) {
	conn, err := pgx.Connect(w.t.Context(), w.exported("LEAKY_POSTGRES_URL"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(w.t.Context())) })
	ctx, stop := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_, _ = conn.Exec(ctx, `BEGIN; LOCK TABLE tokensvc.token_pools; SELECT pg_sleep(1.5); COMMIT`) // the end of the test ends it
		}
	}()
	w.t.Cleanup(func() { stop(); <-done })
}

func frozenLimiter(w world) {
	var parts []struct {
		Name string
		PID  int
	}
	if err := json.Unmarshal([]byte(w.leaky("ps", "-o", "json")), &parts); err != nil {
		w.t.Fatal(err)
	}
	for _, p := range parts {
		if p.Name != "ratelimit-2" {
			continue
		}
		if err := syscall.Kill(p.PID, syscall.SIGSTOP); err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { _ = syscall.Kill(p.PID, syscall.SIGCONT) }) // the supervisor may have ended it
		return
	}
	w.t.Fatalf("leaky ps lists no ratelimit-2: %+v", parts)
}

// TestAUserWasChargedTwice plants what looks like a call that was charged twice.
func TestAUserWasChargedTwice(t *testing.T) {
	w, page := newWorld(t), symptom(t, "A user says they were charged twice")
	for _, c := range []struct {
		name, says string
		plant      func(world)
	}{
		{"an app that tries again", "by the same key", func(w world) {
			w.chat(w.who.Key, "what they want to know")
			w.chat(w.who.Key, "what they want to know")
		}},
		{"two keys", "by another key", func(w world) {
			var second struct{ APIKey string }
			if err := w.Must(w.t.Context(), 201, "POST", "/api/v1/auth/api-keys", w.who.JWT, map[string]any{"userId": w.who.ID, "name": "second"},
				&second); err != nil {
				w.t.Fatal(err)
			}
			w.chat(w.who.Key, "what two want to know")
			w.chat(second.APIKey, "what two want to know")
		}},
		{"two orders", "by another purchase", func(w world) {
			for range 2 {
				if err := w.Must(w.t.Context(), 202, "POST", "/api/v1/tokens/purchase", w.who.JWT, map[string]any{"provider": "openai", "tokens": 700},
					nil); err != nil {
					w.t.Fatal(err)
				}
			}
		}},
		{"a client that leaves", "client_disconnected", leave},
	} {
		t.Run(c.name, func(t *testing.T) {
			who, err := w.NewAccount(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			w := world{w.Stack, t, who}
			c.plant(w)
			args := strings.Split(strings.ReplaceAll(strings.Join(page.command, " "), "NAME", who.Name), " ")
			w.found(page, c.says, args...)
		})
	}
	t.Run("nothing of theirs", func(t *testing.T) {
		who, err := w.NewAccount(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		w := world{w.Stack, t, who}
		id := w.chat(who.Key, "once")
		args := strings.Split(strings.ReplaceAll(strings.Join(page.command, " "), "NAME", who.Name), " ")
		testenv.Eventually(t, "the call", func() bool { return strings.Contains(w.leaky(args...), id) })
		r, led := page.follow(w.leaky(args...))
		if !led || len(r.says) > 0 {
			t.Fatalf("want the page's last row, got %+v", r)
		}
		w.says(r, "reconcile --since 24h", " 0 differences")
	})
}

// leave begins a stream and ends it after its first line.
func leave(w world) {
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.Gateway+"/v1/chat/completions",
		strings.NewReader(`{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"a long story"}]}`))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.who.Key)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Stub-Chunk-Delay-Ms", "500")
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	if line, err := bufio.NewReader(io.LimitReader(res.Body, 1<<16)).ReadString('\n'); err != nil {
		w.t.Fatalf("%q, %v", line, err)
	}
}
