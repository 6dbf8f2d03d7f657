package storeuser_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/storeuser"
)

func TestEachPartHasItsOwnUser(t *testing.T) {
	t.Parallel()
	const owner = "nats://leaky:owners-secret@127.0.0.1:4222"
	seen := map[string]string{}
	for _, store := range []string{"nats", "postgres"} {
		for _, part := range []string{"identity", "tokensvc", "meter"} {
			text, err := storeuser.URL(owner, store, part)
			if err != nil {
				t.Fatal(err)
			}
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			password, _ := u.User.Password()
			if u.User.Username() != "leaky_"+part || u.Host != "127.0.0.1:4222" || len(password) != 48 {
				t.Errorf("%s at %s: want its user at the same address and 48 digits, got %s", part, store, text)
			}
			if strings.Contains(text, "owners-secret") || seen[password] != "" {
				t.Errorf("%s at %s: the password is the owner's, or that of %s", part, store, seen[password])
			}
			seen[password] = part + " at " + store
			if again, _ := storeuser.URL(owner, store, part); again != text {
				t.Errorf("%s at %s: want the same each time, got another", part, store)
			}
		}
	}
}

func TestWithoutAnOwnersPasswordThereIsNoUser(t *testing.T) {
	t.Parallel()
	for _, owner := range []string{"nats://h:1", "nats://leaky@h:1", "nats://leaky:@h:1", "nats://leaky:owners-secret@h:%zz"} {
		if text, err := storeuser.URL(owner, "nats", "meter"); err == nil || strings.Contains(err.Error(), "owners-secret") {
			t.Errorf("%s: want an error without the password, got %q, %v", owner, text, err)
		}
	}
}
