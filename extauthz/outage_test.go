package extauthz

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// wire is a stretch of network that a test can cut in silence: connections stay, new
// ones are taken, and nothing passes.
type wire struct {
	ln     net.Listener
	target string
	mu     sync.Mutex
	change *sync.Cond
	cut    bool
	done   bool
}

// newWire leads to the address of a URL; the URL through it is returned.
func newWire(t *testing.T, to string) (*wire, string) {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{ln: ln, target: u.Host}
	w.change = sync.NewCond(&w.mu)
	go w.serve()
	t.Cleanup(func() {
		ln.Close()
		w.set(func() { w.done, w.cut = true, false })
	})
	u.Host = ln.Addr().String()
	return w, u.String()
}

func (w *wire) serve() {
	for {
		near, err := w.ln.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", w.target)
		if err != nil {
			near.Close()
			continue
		}
		go w.carry(near, far)
		go w.carry(far, near)
	}
}

func (w *wire) carry(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		w.mu.Lock()
		for w.cut {
			w.change.Wait()
		}
		w.mu.Unlock()
		if _, err := io.Writer(to).Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (w *wire) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	w.change.Broadcast()
}

func (w *wire) cutOff() { w.set(func() { w.cut = true }) }
func (w *wire) mend()   { w.set(func() { w.cut = false }) }

// stands polls until the checks stand as wanted.
func stands(t *testing.T, s *Service, want standing, what string) {
	t.Helper()
	testenv.Eventually(t, what, func() bool { return s.fresh.at(time.Now()) == want })
}

// known is a replica that has met a token and a key, in front of a fake identity.
type known struct {
	*Service
	token, key string
}

func (k known) status(t *testing.T, credential string) int {
	t.Helper()
	return statusOf(t, k.Service, request("/v1/models", bearer(credential)))
}

// surely is status, asked again when a refusal may be for a follower that stood still: on a busy machine
// it does for longer than what was heard counts. A refusal is an answer when what counted before the
// call still did after it.
func (k known) surely(t *testing.T, credential string) int {
	t.Helper()
	for {
		until := max(k.fresh.fresh.Load(), k.fresh.offline.Load())
		got := k.status(t, credential)
		if got != http.StatusServiceUnavailable || k.fresh.moment(time.Now()) < until {
			return got
		}
		testenv.Eventually(t, "the follower goes on", func() bool { return k.fresh.at(time.Now()) != stale })
	}
}

func meet(t *testing.T, i *issuer, s *Service) known {
	t.Helper()
	user := uuid.NewString()
	k := known{ready(t, s), sign(t, claimsOf(user, "USER"), nil), i.newKey(user, nil, "USER")}
	testenv.Eventually(t, "the link is up", func() bool { return linkedUp(s) })
	for _, credential := range []string{k.token, k.key} {
		if got := k.surely(t, credential); got != http.StatusOK {
			t.Fatalf("at first: want 200, got %d", got)
		}
	}
	return k
}

func TestIdentityDownTheCachedGoOnForTheGrace(t *testing.T) {
	t.Parallel()
	i, nats := newIssuer(t), testenv.NATS(t)
	const grace = 20 * time.Second
	s := launch(t, i, nats, quick, func(c *Config) { c.Auth.KeyTTL, c.Auth.OfflineGrace = 100*time.Millisecond, grace })
	stop := beat(t, bus(t, nats))
	k := meet(t, i, s)
	unknown := i.newKey(uuid.NewString(), nil, "USER")
	stop()
	i.server.Close() // and with it its heart
	for s.fresh.at(time.Now()) == fresh {
		for _, credential := range []string{k.token, k.key} {
			if got := k.surely(t, credential); got != http.StatusOK {
				t.Fatalf("while nobody has noticed: want 200, got %d", got)
			}
		}
	}
	stands(t, s, offline, "identity is known to be down")
	for _, credential := range []string{k.token, k.key, sign(t, claimsOf(uuid.NewString(), "USER"), nil)} {
		if got := k.surely(t, credential); got != http.StatusOK {
			t.Errorf("what is known, and whatever its keys have signed: want 200, got %d", got)
		}
	}
	if got := k.status(t, unknown); got != http.StatusServiceUnavailable {
		t.Errorf("a key that nobody has met: want 503, got %d", got)
	}
	// Before that, what counts may end since NATS has not been asked in time whether it is there.
	testenv.Eventually(t, "the grace is over, and lasted", func() bool {
		return s.fresh.at(time.Now()) == stale && s.fresh.offline.Load()-s.fresh.heard.Load() == int64(grace)
	})
	for _, credential := range []string{k.token, k.key} {
		if got := k.status(t, credential); got != http.StatusServiceUnavailable {
			t.Errorf("after the grace: want 503, got %d", got)
		}
	}
}

func TestPostgresDownTheCachedGoOn(t *testing.T) {
	t.Parallel()
	i, nats := newIssuer(t), testenv.NATS(t)
	s := launch(t, i, nats, quick, func(c *Config) { c.Auth.KeyTTL = 50 * time.Millisecond })
	beat(t, bus(t, nats))
	k := meet(t, i, s)
	i.status.Store(http.StatusInternalServerError) // identity lives, and can answer nothing
	lookups := i.lookups.Load()
	testenv.Eventually(t, "the key's time is over and identity was asked", func() bool {
		if got := k.surely(t, k.key); got != http.StatusOK {
			t.Fatalf("the key: want 200, got %d", got)
		}
		return i.lookups.Load() > lookups
	})
	if got := k.surely(t, k.token); got != http.StatusOK {
		t.Errorf("the token: want 200, got %d", got)
	}
	if got := k.status(t, i.newKey(uuid.NewString(), nil, "USER")); got != http.StatusServiceUnavailable {
		t.Errorf("a key that nobody has met: want 503, got %d", got)
	}
}

func TestIdentityHangsTheCachedDoNotWait(t *testing.T) {
	t.Parallel()
	i, nats := newIssuer(t), testenv.NATS(t)
	way, url := newWire(t, i.url)
	s := launch(t, i, nats, quick, func(c *Config) { c.Identity, c.Auth.KeyTTL, c.LookupTimeout = url, 50*time.Millisecond, 30*time.Second })
	beat(t, bus(t, nats))
	k := meet(t, i, s)
	way.cutOff()
	found, _ := s.keys.cache.Peek(fingerprintOf(k.key))
	testenv.Eventually(t, "the key's time is over", func() bool { return time.Now().After(found.until) })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // before identity's time is up
	defer cancel()
	resp, err := s.Check(ctx, request("/v1/models", bearer(k.key)))
	if err != nil || resp.GetOkResponse() == nil {
		t.Errorf("want ok, got %v, %v", resp, err)
	}
}

func TestAReplicaCutFromNATSAsksIdentity(t *testing.T) {
	t.Parallel()
	i, nats := newIssuer(t), testenv.NATS(t)
	way, url := newWire(t, nats)
	s := launch(t, i, url, quick)
	conn := bus(t, nats)
	beat(t, conn)
	k := meet(t, i, s)
	way.cutOff()
	announce(t, conn, i.revoke(k.key)) // does not arrive
	testenv.Eventually(t, "the key is refused", func() bool { return k.status(t, k.key) == http.StatusUnauthorized })
	session := i.list(revocation.Revocation{Kind: revocation.User, ID: uuid.NewString(), Generation: 1, Until: time.Now().Add(time.Hour)})
	announce(t, conn, session)
	testenv.Eventually(t, "the list is followed", func() bool { return s.follower.denied.size() == 2 })
	if got := k.surely(t, k.token); got != http.StatusOK {
		t.Errorf("what was not revoked: want 200, got %d", got)
	}
	way.mend()
	testenv.Eventually(t, "the link is up again", func() bool { return linkedUp(s) })
}

func TestAReplicaCutFromEverythingRefuses(t *testing.T) {
	t.Parallel()
	i, nats := newIssuer(t), testenv.NATS(t)
	toNATS, natsURL := newWire(t, nats)
	toIdentity, identityURL := newWire(t, i.url)
	s := launch(t, i, natsURL, quick, func(c *Config) { c.Identity, c.Auth.OfflineGrace = identityURL, time.Hour })
	conn := bus(t, nats)
	beat(t, conn)
	k := meet(t, i, s)
	toNATS.cutOff()
	toIdentity.cutOff()
	cut := time.Now()
	announce(t, conn, i.revoke(k.key))
	stands(t, s, stale, "revocations may have been missed")
	if took := time.Since(cut); took > 10*time.Second+s.follower.pace.stale { // it sleeps in between, and the machine is shared
		t.Errorf("stale after %v, want %v", took, s.follower.pace.stale)
	}
	for _, credential := range []string{k.token, k.key} {
		if got := k.status(t, credential); got != http.StatusServiceUnavailable {
			t.Errorf("a grace of an hour is for an identity that is down: want 503, got %d", got)
		}
	}
	toIdentity.mend()
	toNATS.mend()
	testenv.Eventually(t, "the key is refused for good", func() bool { return k.status(t, k.key) == http.StatusUnauthorized })
	testenv.Eventually(t, "the token is good again", func() bool { return k.status(t, k.token) == http.StatusOK })
}

func TestANATSRestartIsNotNoticed(t *testing.T) {
	t.Parallel()
	i, server := newIssuer(t), testenv.NATSServer(t)
	s := launch(t, i, server.URL(), quick)
	conn := bus(t, server.URL())
	beat(t, conn)
	k := meet(t, i, s)
	server.Stop()
	testenv.Eventually(t, "the link is known to be down", func() bool { return !linkedUp(s) })
	i.revoke(k.key) // nobody can be told
	testenv.Eventually(t, "the key is refused", func() bool {
		if got := k.surely(t, k.token); got != http.StatusOK {
			t.Fatalf("meanwhile the token: want 200, got %d", got)
		}
		return k.status(t, k.key) == http.StatusUnauthorized
	})
	server.Start()
	testenv.Eventually(t, "the link is up again", func() bool { return linkedUp(s) })
	if got := k.surely(t, k.token); got != http.StatusOK {
		t.Errorf("afterwards: want 200, got %d", got)
	}
}

func TestWithoutNATSTheListIsFollowed(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, "", quick))
	key := i.newKey(uuid.NewString(), nil, "USER")
	if got := statusOf(t, s, request("/v1/models", bearer(key))); got != http.StatusOK {
		t.Fatalf("want 200, got %d", got)
	}
	i.revoke(key)
	testenv.Eventually(t, "the key is refused", func() bool { return statusOf(t, s, request("/v1/models", bearer(key))) == http.StatusUnauthorized })
	i.server.Close()
	stands(t, s, stale, "without NATS nobody knows that identity is down")
}
