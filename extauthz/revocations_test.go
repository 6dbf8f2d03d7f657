package extauthz

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/apikey"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func linkedUp(s *Service) bool { return gauge(s.metrics.linked) == 1 }

// quick makes a follower that notices within a second what takes five in service.
func quick(c *Config) {
	c.pace = pace{tick: 50 * time.Millisecond, silence: 200 * time.Millisecond, relist: time.Minute, stale: time.Second}
	c.LookupTimeout = 5 * time.Second // identity answers at once, but on a busy machine
}

// bus connects the fake identity to NATS.
func bus(t *testing.T, url string) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// beat sends heartbeats until the test or stop ends them.
func beat(t *testing.T, conn *nats.Conn) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				_ = conn.Publish(revocation.SubjectHeartbeat, nil)
			}
		}
	})
	stop = func() { cancel(); group.Wait() }
	t.Cleanup(stop)
	return stop
}

func announce(t *testing.T, conn *nats.Conn, r revocation.Revocation) {
	t.Helper()
	if err := conn.Publish(revocation.Subject, revocation.Encode(r)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestEveryKindOfRevocationReachesEveryReplica(t *testing.T) {
	t.Parallel()
	i, url := newIssuer(t), testenv.NATS(t)
	replicas := []*Service{launch(t, i, url), launch(t, i, url)}
	conn := bus(t, url)
	beat(t, conn)
	ann, soon := uuid.NewString(), time.Now().Add(time.Hour)
	token := func(jti, sid string, ver int) string {
		c := claimsOf(ann, "USER")
		c["jti"], c["sid"], c["ver"] = jti, sid, ver
		return sign(t, c, nil)
	}
	first, sibling, other, later := token("a", "family", 1), token("b", "family", 1), token("c", "another", 1), token("d", "another", 2)
	key, kept := i.newKey(ann, nil, "USER"), i.newKey(ann, nil, "USER")
	all := []string{first, sibling, other, later, key, kept}
	check := func(s *Service, credential string) int {
		return statusOf(t, s, request("/v1/models", bearer(credential)))
	}
	for _, s := range replicas {
		ready(t, s)
		testenv.Eventually(t, "the link is up", func() bool { return linkedUp(s) })
		for _, credential := range all {
			if got := check(s, credential); got != http.StatusOK {
				t.Fatalf("at first: want 200, got %d", got)
			}
		}
	}
	for _, c := range []struct {
		name    string
		revoke  revocation.Revocation
		refused []string
		spared  []string
	}{
		{"a token", revocation.Revocation{Kind: revocation.Token, ID: "a", Until: soon}, []string{first}, []string{sibling, other, later, key,
			kept}},
		{"a family", revocation.Revocation{Kind: revocation.Family, ID: "family", Until: soon}, []string{first, sibling},
			[]string{other, later, key, kept}},
		{"a key", i.revoke(key), []string{key}, []string{other, later, kept}},
		{"a generation", revocation.Revocation{Kind: revocation.User, ID: ann, Generation: 2, Until: soon}, []string{first, sibling, other,
			key}, []string{later, kept}},
		{"a signing key", revocation.Revocation{Kind: revocation.Signer, ID: issuerKID, Until: soon}, []string{later}, []string{kept}},
	} {
		announce(t, conn, c.revoke)
		for _, s := range replicas {
			for _, credential := range c.refused {
				testenv.Eventually(t, c.name+" is refused", func() bool { return check(s, credential) == http.StatusUnauthorized })
			}
			for _, credential := range c.spared {
				if got := check(s, credential); got != http.StatusOK {
					t.Errorf("%s: what it does not concern: want 200, got %d", c.name, got)
				}
			}
		}
	}
}

func TestAChangedUserIsAskedForAgain(t *testing.T) {
	t.Parallel()
	i, url := newIssuer(t), testenv.NATS(t)
	s := ready(t, launch(t, i, url))
	conn := bus(t, url)
	user := uuid.NewString()
	key := i.newKey(user, nil, "USER")
	req := request("/v1/models", bearer(key), "rule", "role:BOSS")
	testenv.Eventually(t, "the link is up", func() bool { return linkedUp(s) })
	if got := statusOf(t, s, req); got != http.StatusForbidden {
		t.Fatalf("want 403, got %d", got)
	}
	for n, roles := range [][]string{{"BOSS", "USER"}, {"USER"}} { // the second time the generation is no news
		i.mu.Lock()
		v := i.keys[key]
		v.Roles = roles
		i.keys[key] = v
		i.mu.Unlock()
		announce(t, conn, revocation.Revocation{Kind: revocation.User, ID: user, Generation: 1, Until: time.Now().Add(time.Hour +
			time.Duration(n)*time.Minute)})
		want := map[int]int{2: http.StatusOK, 1: http.StatusForbidden}[len(roles)]
		testenv.Eventually(t, "the new roles count", func() bool { return statusOf(t, s, req) == want })
	}
}

// TestRevokingUnderLoad measures from the moment identity has announced a revocation to
// the first refusal on each of two replicas that are checking all the time.
func TestRevokingUnderLoad(t *testing.T) {
	t.Parallel()
	i, url := newIssuer(t), testenv.NATS(t)
	replicas := []*Service{launch(t, i, url), launch(t, i, url)}
	conn := bus(t, url)
	beat(t, conn)
	user := uuid.NewString()
	claims := claimsOf(user, "USER")
	claims["sid"] = "session"
	token, key := sign(t, claims, nil), i.newKey(user, nil, "USER")
	for _, s := range replicas {
		ready(t, s)
		testenv.Eventually(t, "the link is up", func() bool { return linkedUp(s) })
	}
	for name, c := range map[string]struct {
		credential string
		revoke     func() revocation.Revocation
	}{
		"API key": {key, func() revocation.Revocation { return i.revoke(key) }},
		"session": {token, func() revocation.Revocation {
			return revocation.Revocation{Kind: revocation.Family, ID: "session", Until: time.Now().Add(time.Hour)}
		}},
	} {
		var load sync.WaitGroup
		ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
		var revoked atomic.Int64 // nanoseconds since the epoch; 0: not yet
		var busy [2]atomic.Int64 // calls so far
		for n, s := range replicas {
			client := dial(t, s.Serve)
			load.Go(func() {
				req, calls, after := request("/v1/models", bearer(c.credential)), 0, 0
				for ctx.Err() == nil {
					before, began := revoked.Load(), time.Now()
					resp, err := client.Check(ctx, req)
					if err != nil {
						t.Errorf("%s, replica %d: %v", name, n, err)
						return
					}
					calls++
					busy[n].Add(1)
					if denied := resp.GetDeniedResponse(); denied != nil {
						at := revoked.Load()
						if at == 0 || denied.GetStatus().GetCode() != http.StatusUnauthorized {
							t.Errorf("%s, replica %d: refused before it was revoked: %v", name, n, denied)
							return
						}
						t.Logf("%s, replica %d: first refusal %v after the announcement; %d calls before, %d of them after it", name, n,
							time.Since(time.Unix(0, at)).Round(10*time.Microsecond), calls-1, after)
						return
					}
					if before == 0 {
						continue
					}
					after++
					// How long an answer takes is the machine's; when a call began that was allowed is ours.
					if late := began.Sub(time.Unix(0, before)); late > time.Second {
						t.Errorf("%s, replica %d: allowed a call that began %v after the announcement", name, n, late)
						return
					}
				}
				t.Errorf("%s, replica %d: never refused", name, n)
			})
		}
		testenv.Eventually(t, "both replicas are under load", func() bool { return busy[0].Load() > 200 && busy[1].Load() > 200 })
		r := c.revoke()
		revoked.Store(time.Now().UnixNano())
		announce(t, conn, r)
		load.Wait()
		stop()
	}
}

func TestALookupThatARevocationOvertakesIsRefused(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	key := i.newKey(uuid.NewString(), nil, "USER")
	i.before = func() { // identity has read the key; before its answer arrives the key is revoked
		s.follower.denied.add(i.revoke(key), time.Now())
	}
	req := request("/v1/models", map[string]string{"x-api-key": key})
	for range 2 {
		if got := statusOf(t, s, req); got != http.StatusUnauthorized {
			t.Fatalf("want 401, got %d", got)
		}
	}
}

func TestUntilTheListIsThereNoTokenCounts(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	i.status.Store(http.StatusInternalServerError)
	s := launch(t, i, "")
	i.list(revocation.Revocation{Kind: revocation.Token, ID: "bad", Until: time.Now().Add(time.Hour)})
	claims := claimsOf(uuid.NewString(), "USER")
	token := sign(t, claims, nil)
	claims["jti"] = "bad"
	ended := sign(t, claims, nil)
	if got := statusOf(t, s, request("/v1/models", bearer(token))); got != http.StatusServiceUnavailable || s.Ready(t.Context()) == nil {
		t.Fatalf("before the list: want 503 and not ready, got %d", got)
	}
	i.status.Store(0)
	ready(t, s)
	if got := statusOf(t, s, request("/v1/models", bearer(token))); got != http.StatusOK {
		t.Errorf("with the list: want 200, got %d", got)
	}
	if got := statusOf(t, s, request("/v1/models", bearer(ended))); got != http.StatusUnauthorized {
		t.Errorf("on the list: want 401, got %d", got)
	}
}

func TestAListThatCannotBeReadIsNone(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	i.list(revocation.Revocation{Kind: "org", ID: "x", Until: time.Now().Add(time.Hour)})
	d := &directory{base: i.url, timeout: time.Second, client: newClient(nil)}
	if _, err := d.revocations(t.Context()); err == nil {
		t.Error("want an error, got none")
	}
}

func TestDenylist(t *testing.T) {
	t.Parallel()
	now := time.Now()
	hour := now.Add(time.Hour)
	token := func(jti string, ver int64) *caller {
		return &caller{names: names{token: nameOf(revocation.Token, jti), family: nameOf(revocation.Family, "s"), user: nameOf(revocation.User,
			"u"), ver: ver, issued: now}}
	}
	d := newDenylist(time.Minute)
	for _, nonsense := range []revocation.Revocation{
		{Kind: revocation.Key, ID: "zz", Until: hour}, {Kind: revocation.Key, ID: apikey.Hash("x") + "00", Until: hour},
		{Kind: revocation.Token, ID: "over", Until: now.Add(-time.Hour)},
	} {
		if d.add(nonsense, now) {
			t.Errorf("%+v was taken", nonsense)
		}
	}
	before := token("a", 1)
	if d.judge(before) != good {
		t.Fatal("an empty list denies")
	}
	if r := (revocation.Revocation{Kind: revocation.Token, ID: "a", Until: hour}); !d.add(r, now) || d.add(r, now) {
		t.Error("want one addition")
	}
	if d.judge(before) != revoked || d.judge(token("b", 1)) != good {
		t.Error("a token: want it and no other revoked")
	}
	d.add(revocation.Revocation{Kind: revocation.User, ID: "u", Generation: 3, Until: hour}, now)
	d.add(revocation.Revocation{Kind: revocation.User, ID: "u", Generation: 2, Until: hour.Add(time.Minute)},
		now) // late, and must not turn it back
	if d.judge(token("b", 2)) != revoked || d.judge(token("b", 3)) != good {
		t.Error("a generation: want those below revoked")
	}
	d.drop(now.Add(30 * time.Minute))
	if d.size() != 2 {
		t.Errorf("before their end: want 2, got %d", d.size())
	}
	d.drop(now.Add(2 * time.Hour))
	if d.size() != 0 {
		t.Errorf("after their end: want none, got %d", d.size())
	}
	d.most = 2
	for _, jti := range []string{"1", "2", "3"} {
		d.add(revocation.Revocation{Kind: revocation.Token, ID: jti, Until: hour}, now.Add(time.Second))
	}
	if d.size() > 2 || d.judge(token("1", 9)) != revoked || d.judge(token("fine", 9)) != revoked {
		t.Errorf("full: want everything older refused, and %d kept at most; got %d", d.most, d.size())
	}
	forged := token("forged", 9) // by who holds a withdrawn key, and so with any time
	forged.names.signer, forged.names.issued = nameOf(revocation.Signer, "kid"), now.Add(time.Hour)
	d.most = 3
	d.add(revocation.Revocation{Kind: revocation.Signer, ID: "kid", Until: hour}, now.Add(time.Second))
	for _, jti := range []string{"4", "5", "6", "7"} {
		d.add(revocation.Revocation{Kind: revocation.Token, ID: jti, Until: hour}, now.Add(time.Second))
	}
	if d.judge(forged) != revoked {
		t.Error("full: a withdrawn key was forgotten")
	}
	younger := token("new", 9)
	younger.names.issued = now.Add(time.Minute)
	if d.judge(younger) != good {
		t.Error("full: what is issued later must pass")
	}
}
