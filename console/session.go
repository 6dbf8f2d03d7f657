package console

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Cookies. The prefix makes browsers take them from this host alone, over https (or on loopback), for
// all of its paths (RFC 6265bis section 4.1.3.2).
const (
	sessionCookie = "__Host-leaky-console"
	signInCookie  = "__Host-leaky-sign-in"

	sessionLife = 12 * time.Hour
	signInLife  = 10 * time.Minute
	// longestCookie is what browsers keep of one (RFC 6265 section 6.1), in bytes.
	longestCookie = 4096
)

// session is what the console remembers of who is signed in: nothing but their tokens, sealed in
// their own browser, so that any replica can go on and none has anything to lose.
type session struct {
	Access  string    `json:"a"`
	Refresh string    `json:"r,omitzero"`
	Ends    time.Time `json:"e"` // of Access
	Until   time.Time `json:"u"` // of the session, however often it is refreshed
}

// attempt is what must be the same when the answer of a sign-in comes.
type attempt struct {
	State    string    `json:"s"`
	Verifier string    `json:"v"`
	Next     string    `json:"n"`
	Until    time.Time `json:"u"`
}

// sealer encrypts what browsers keep for us, each kind for itself.
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (*sealer, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("key of the console: want 32 bytes, got %d", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("key of the console: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("key of the console: %w", err)
	}
	return &sealer{aead: aead}, nil
}

// put sets a cookie with content that nobody else can read, change or move to another name.
func (s *sealer) put(w http.ResponseWriter, name string, content any, life time.Duration) error {
	text, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("seal cookie %s: %w", name, err)
	}
	c := cookie(name) //nolint:gosec // cookie sets all three attributes
	c.Value = base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, text, []byte(name)))
	c.MaxAge = int(life.Seconds())
	if len(c.String()) > longestCookie {
		return fmt.Errorf("cookie %s has %d bytes, at most %d", name, len(c.String()), longestCookie)
	}
	http.SetCookie(w, c)
	return nil
}

var errNoCookie = errors.New("no such cookie of ours")

// get reads what put wrote; errNoCookie for everything else that a browser may send.
func (s *sealer) get(r *http.Request, name string, content any) error {
	c, err := r.Cookie(name)
	if err != nil || len(c.Value) > longestCookie {
		return errNoCookie
	}
	raw, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil {
		return errNoCookie
	}
	text, err := s.aead.Open(nil, nil, raw, []byte(name))
	if err != nil || json.Unmarshal(text, content) != nil {
		return errNoCookie
	}
	return nil
}

func (s *sealer) drop(w http.ResponseWriter, name string) {
	c := cookie(name) //nolint:gosec // cookie sets all three attributes
	c.MaxAge = -1
	http.SetCookie(w, c)
}

func cookie(name string) *http.Cookie {
	return &http.Cookie{Name: name, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode}
}
