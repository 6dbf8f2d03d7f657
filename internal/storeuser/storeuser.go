// Package storeuser is beside the request path: it says who each part is at the stores that several
// parts share and that `leaky up` runs, Postgres and NATS. A part gets the password of its own user
// and not that of the owner, who may do everything; what its user may do, the stores are told.
//
// The passwords are derived from the owner's, which is in a file that only its user can read: there
// is nothing more to keep, and nobody finds the owner's password, or that of another part, by one of
// them (RFC 5869).
package storeuser

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
)

// passwordBytes is the length of a password before it is written in hexadecimal digits.
const passwordBytes = 24

// errNoOwner says that the store's URL lacks what the passwords are derived from.
var errNoOwner = errors.New("the store's URL has no user with a password")

// Name is the user of a part: "leaky_identity".
func Name(part string) string { return "leaky_" + part }

// Password is that of a part's user at a store, made from its owner's.
func Password(owner, store, part string) (string, error) {
	key, err := hkdf.Key(sha256.New, []byte(owner), nil, "leaky-tokens "+store+" "+part, passwordBytes)
	if err != nil {
		return "", fmt.Errorf("derive password of %s at %s: %w", part, store, err)
	}
	return hex.EncodeToString(key), nil
}

// URL is how a part reaches a store whose owner reaches it at the address given. Errors do not show
// it, as it holds the owner's password.
func URL(owner, store, part string) (string, error) {
	u, err := url.Parse(owner)
	if err != nil {
		return "", fmt.Errorf("user of %s at %s: the store's URL cannot be read", part, store)
	}
	secret, ok := u.User.Password()
	if !ok || secret == "" {
		return "", fmt.Errorf("user of %s at %s: %w", part, store, errNoOwner)
	}
	password, err := Password(secret, store, part)
	if err != nil {
		return "", err
	}
	u.User = url.UserPassword(Name(part), password)
	return u.String(), nil
}
