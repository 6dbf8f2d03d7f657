package oauth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"math/big"
	"strings"
)

// token is 256 random bits as 43 characters of base64url: codes, device codes and
// client secrets. They are kept as SHA-256, which is enough for what nobody can guess.
func token() string {
	raw := make([]byte, 32)
	rand.Read(raw)
	return base64.RawURLEncoding.EncodeToString(raw)
}

func hashed(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// sameSecret compares in constant time.
func sameSecret(hash []byte, given string) bool {
	return subtle.ConstantTimeCompare(hash, hashed(given)) == 1
}

// verifies checks a PKCE verifier by S256 (RFC 7636 section 4.6).
func verifies(challenge, verifier string) bool {
	sum := base64.RawURLEncoding.EncodeToString(hashed(verifier))
	return subtle.ConstantTimeCompare([]byte(sum), []byte(challenge)) == 1
}

// unreserved are the characters of a PKCE verifier and challenge (RFC 7636 section 4.1).
func unreserved(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-._~", c))
	})
}

// userAlphabet has no vowels, so that no word appears, and nothing that looks like
// something else (RFC 8628 section 6.1): 20^8 codes are 34 bits.
const userAlphabet = "BCDFGHJKLMNPQRSTVWXZ"

const userCodeLen = 8

// userCode is what a person types in, without its hyphen.
func userCode() string {
	code := make([]byte, userCodeLen)
	for i := range code {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(userAlphabet))))
		if err != nil {
			panic(err) // crypto/rand never fails since Go 1.24
		}
		code[i] = userAlphabet[n.Int64()]
	}
	return string(code)
}

func shownUserCode(code string) string { return code[:4] + "-" + code[4:] }

// readUserCode takes a code as people type it: any case, with spaces or hyphens. It
// is empty when it cannot be one.
func readUserCode(text string) string {
	if len(text) > 64 {
		return ""
	}
	code := strings.Map(func(c rune) rune {
		if c == '-' || c == ' ' {
			return -1
		}
		return c
	}, strings.ToUpper(text))
	if len(code) != userCodeLen || strings.ContainsFunc(code, func(c rune) bool { return !strings.ContainsRune(userAlphabet, c) }) {
		return ""
	}
	return code
}
