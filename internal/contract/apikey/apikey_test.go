package apikey

import (
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestNewKeysParse(t *testing.T) {
	t.Parallel()
	user := uuid.New()
	key := New(user)
	if len(key) != MaxLen {
		t.Fatalf("length: want %d, got %d", MaxLen, len(key))
	}
	got, err := Parse(key)
	if err != nil || got != user {
		t.Fatalf("want %v, got %v, %v", user, got, err)
	}
	if key == New(user) {
		t.Fatal("two keys of one user are the same")
	}
}

func TestMalformedKeysAreRefused(t *testing.T) {
	t.Parallel()
	good := New(uuid.New())
	for name, key := range map[string]string{
		"empty":           "",
		"prefix only":     "leaky_",
		"one short":       good[:len(good)-1],
		"one long":        good + "0",
		"upper-case id":   strings.ToUpper(good[:42]) + good[42:],
		"upper-case hex":  good[:43] + strings.ToUpper("abcdefabcdefabcdefabcdefabcdefabcdefabcdefabcdef"),
		"injected quotes": good[:43] + "' OR pg_sleep(8)--" + good[61:],
		"NUL":             good[:len(good)-1] + "\x00",
		"other prefix":    "l3aky_" + good[6:],
	} {
		if _, err := Parse(key); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(New(uuid.New()))
	f.Add("leaky_")
	f.Fuzz(func(t *testing.T, key string) {
		user, err := Parse(key)
		if err == nil && !strings.HasPrefix(key, "leaky_"+user.String()+"_") {
			t.Fatalf("parsed %q as the key of %v", key, user)
		}
	})
}
