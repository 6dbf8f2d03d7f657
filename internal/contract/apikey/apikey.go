// Package apikey is the format of an API key, shared by identity, which issues
// keys, and extauthz, which checks them: leaky_<user id>_<48 hex digits>.
package apikey

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/google/uuid"
)

const (
	prefix    = "leaky_"
	secretLen = 48
	// MaxLen is the length of every key in bytes.
	MaxLen = len(prefix) + 36 + 1 + secretLen
)

// Expired is what identity says of a key that was good once.
const Expired = "api key expired"

// ErrMalformed says a text is not shaped like an API key. It never holds the text.
var ErrMalformed = errors.New("malformed API key")

// New makes a key for the user from 24 random bytes.
func New(user uuid.UUID) string {
	var secret [secretLen / 2]byte
	rand.Read(secret[:]) // never fails: crypto/rand aborts the process instead
	return prefix + user.String() + "_" + hex.EncodeToString(secret[:])
}

// Parse tells whose key it says it is. It proves nothing: only a lookup by Hash does.
func Parse(key string) (uuid.UUID, error) {
	if len(key) != MaxLen || !strings.HasPrefix(key, prefix) || key[len(prefix)+36] != '_' {
		return uuid.UUID{}, ErrMalformed
	}
	for _, c := range []byte(key[len(prefix)+37:]) {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return uuid.UUID{}, ErrMalformed
		}
	}
	text := key[len(prefix) : len(prefix)+36]
	user, err := uuid.Parse(text)
	if err != nil || user.String() != text {
		return uuid.UUID{}, ErrMalformed
	}
	return user, nil
}

// Hash is what is stored and looked up: the SHA-256 of the key in hex. A key has
// 192 random bits, so a slow hash would protect nothing more.
func Hash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// Looks reports whether a text claims to be an API key rather than a JWT.
func Looks(s string) bool { return strings.HasPrefix(s, prefix) }
