package extauthz

import (
	"net/http"
	"testing"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/apikey"
	"github.com/leaky-tokens/leaky-tokens/internal/testenv"
	"github.com/leaky-tokens/leaky-tokens/internal/usage"
)

func announce(t *testing.T, url, subject, payload string) {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Publish(subject, []byte(payload)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

func TestRevocationReachesEveryReplica(t *testing.T) {
	t.Parallel()
	i, bus := newIssuer(t), testenv.NATS(t)
	replicas := []*Service{launch(t, i, bus), launch(t, i, bus)}
	user := uuid.NewString()
	key, kept := i.newKey(user, nil, "USER"), i.newKey(user, nil, "USER")
	req, other := request("/v1/models", map[string]string{"x-api-key": key}), request("/v1/models", map[string]string{"x-api-key": kept})
	for _, s := range replicas {
		ready(t, s)
		eventually(t, "the link is up and the keys are cached", func() bool {
			return linked(s) && statusOf(t, s, req) == http.StatusOK && statusOf(t, s, other) == http.StatusOK && s.keys.cache.lru.Len() == 2
		})
	}
	i.revoke(key)
	announce(t, bus, usage.SubjectRevokedKey, apikey.Hash(key))
	for _, s := range replicas {
		eventually(t, "the key is refused", func() bool { return statusOf(t, s, req) == http.StatusUnauthorized })
		if n := s.keys.cache.lru.Len(); n != 1 {
			t.Errorf("want the other key still cached, got %d entries", n)
		}
	}
	for _, payload := range []string{"", "zz", apikey.Hash(key) + "00", "\x00"} {
		announce(t, bus, usage.SubjectRevokedKey, payload) // nonsense must not hurt
	}
	announce(t, bus, usage.SubjectRevokedUser, user)
	for _, s := range replicas {
		eventually(t, "all keys of the user are forgotten", func() bool { return s.keys.cache.lru.Len() == 0 })
		if got := statusOf(t, s, other); got != http.StatusOK {
			t.Errorf("the other key: want 200 after another lookup, got %d", got)
		}
	}
}

func linked(s *Service) bool { return gauge(s.metrics.linked) == 1 }

func TestAMissedRevocationIsForgottenOnReconnect(t *testing.T) {
	t.Parallel()
	i, bus := newIssuer(t), testenv.NATSServer(t)
	s := ready(t, launch(t, i, bus.URL()))
	key := i.newKey(uuid.NewString(), nil, "USER")
	req := request("/v1/models", map[string]string{"x-api-key": key})
	eventually(t, "the link is up", func() bool { return linked(s) && statusOf(t, s, req) == http.StatusOK && s.keys.cache.lru.Len() == 1 })
	bus.Stop()
	eventually(t, "the link is known to be down", func() bool { return !linked(s) })
	i.revoke(key) // nobody can be told
	if got := statusOf(t, s, req); got != http.StatusOK {
		t.Fatalf("while the link is down the time to live bounds it: want 200, got %d", got)
	}
	bus.Start()
	eventually(t, "the key is refused", func() bool { return statusOf(t, s, req) == http.StatusUnauthorized })
}

func TestALookupThatARevocationOvertakesIsNotKept(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	key := i.newKey(uuid.NewString(), nil, "USER")
	i.before = func() { // identity has read the key; before its answer arrives the key is revoked
		i.revoke(key)
		s.forgetKey(apikey.Hash(key))
	}
	req := request("/v1/models", map[string]string{"x-api-key": key})
	if got := statusOf(t, s, req); got != http.StatusOK {
		t.Fatalf("the overtaken call: want 200, got %d", got)
	}
	if got := statusOf(t, s, req); got != http.StatusUnauthorized {
		t.Fatalf("the next call: want 401, got %d", got)
	}
}
