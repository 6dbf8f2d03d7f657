package keyring

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// keySet is the public keys as JSON (RFC 7517).
func keySet(keys []loaded) ([]byte, error) {
	type jwk struct {
		Type string `json:"kty"`
		Use  string `json:"use"`
		Alg  string `json:"alg"`
		ID   string `json:"kid"`
		N    string `json:"n"`
		E    string `json:"e"`
	}
	set := struct {
		Keys []jwk `json:"keys"`
	}{}
	for _, k := range keys {
		set.Keys = append(set.Keys, jwk{Type: "RSA", Use: "sig", Alg: "RS256", ID: k.kid,
			N: base64.RawURLEncoding.EncodeToString(k.key.N.Bytes()), E: base64.RawURLEncoding.EncodeToString(big.NewInt(int64(k.key.E)).Bytes())})
	}
	text, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encode key set: %w", err)
	}
	return text, nil
}

// JWKS is the key set as it is published.
func (r *Ring) JWKS() ([]byte, error) {
	if s := r.state.Load(); s != nil {
		return s.jwks, nil
	}
	return nil, ErrNoKey
}

// Sign makes a JWT with RS256. typ is TypeAccess, TypeID or TypeLogout.
func (r *Ring) Sign(typ string, claims jwt.Claims) (string, error) {
	s := r.state.Load()
	if s == nil {
		return "", ErrNoKey
	}
	now := time.Now()
	signer := s.keys[len(s.keys)-1]
	for _, k := range s.keys {
		if !k.activeAt.After(now) {
			signer = k
			break
		}
	}
	t := jwt.NewWithClaims(jwt.SigningMethodRS256, claims)
	t.Header["kid"], t.Header["typ"] = signer.kid, typ
	signed, err := t.SignedString(signer.key)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return signed, nil
}

// Keyfunc finds the public key of a token that this ring signed, for checking it.
func (r *Ring) Keyfunc(t *jwt.Token) (any, error) {
	s := r.state.Load()
	if s == nil {
		return nil, ErrNoKey
	}
	kid, _ := t.Header["kid"].(string)
	for _, k := range s.keys {
		if k.kid == kid {
			return &k.key.PublicKey, nil
		}
	}
	return nil, ErrUnknownKey
}
