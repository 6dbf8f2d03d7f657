package revocation_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
)

func TestWhatIsEncodedDecodes(t *testing.T) {
	t.Parallel()
	until := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, want := range []revocation.Revocation{
		{Kind: revocation.Key, ID: strings.Repeat("a", 64), Until: until},
		{Kind: revocation.Token, ID: "jti", Until: until},
		{Kind: revocation.Family, ID: "sid", Until: until},
		{Kind: revocation.Signer, ID: "kid", Until: until},
		{Kind: revocation.User, ID: "user", Generation: 7, Until: until},
	} {
		got, err := revocation.Decode(revocation.Encode(want))
		if err != nil || time.Since(got.At) > time.Minute || got.At.IsZero() {
			t.Fatalf("%s: got %+v, %v", want.Kind, got, err)
		}
		got.At = time.Time{}
		if got != want {
			t.Errorf("want %+v, got %+v", want, got)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"nothing":             ``,
		"no JSON":             `revoked`,
		"an array":            `[]`,
		"no kind":             `{"id":"a","until":"2030-01-01T00:00:00Z"}`,
		"unknown kind":        `{"kind":"org","id":"a","until":"2030-01-01T00:00:00Z"}`,
		"no id":               `{"kind":"key","until":"2030-01-01T00:00:00Z"}`,
		"no until":            `{"kind":"key","id":"a"}`,
		"until is no time":    `{"kind":"key","id":"a","until":"soon"}`,
		"negative generation": `{"kind":"user","id":"a","generation":-1,"until":"2030-01-01T00:00:00Z"}`,
		"generation is text":  `{"kind":"user","id":"a","generation":"1","until":"2030-01-01T00:00:00Z"}`,
		"a long id":           `{"kind":"key","id":"` + strings.Repeat("a", 257) + `","until":"2030-01-01T00:00:00Z"}`,
		"a tail":              `{"kind":"key","id":"a","until":"2030-01-01T00:00:00Z"}{}`,
	} {
		if got, err := revocation.Decode([]byte(text)); !errors.Is(err, revocation.ErrMalformed) || got != (revocation.Revocation{}) {
			t.Errorf("%s: want ErrMalformed and nothing, got %+v, %v", name, got, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"kind":"user","id":"a","generation":3,"until":"2030-01-01T00:00:00Z","at":"2029-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"kind":"key","id":"","until":"2030-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"KIND":"key","kind":"user"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := revocation.Decode(text)
		if err != nil {
			if !errors.Is(err, revocation.ErrMalformed) || r != (revocation.Revocation{}) {
				t.Fatalf("got %+v, %v", r, err)
			}
			return
		}
		if err := r.Check(); err != nil {
			t.Fatalf("decoded and not good: %v", err)
		}
		again, err := revocation.Decode(revocation.Encode(r))
		if err != nil || again.Kind != r.Kind || again.ID != r.ID || again.Generation != r.Generation || !again.Until.Equal(r.Until) {
			t.Fatalf("want %+v, got %+v, %v", r, again, err)
		}
	})
}
