package extauthz

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"

	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
)

// LoadSigningKey reads <folder>/identity-signing.key (PEM, PKCS 8, Ed25519), which it
// makes at first start. Replicas that share the folder share the key.
func LoadSigningKey(folder string) (ed25519.PrivateKey, error) {
	path := filepath.Join(folder, "identity-signing.key")
	text, err := secretfile.LoadOrCreate(path, func() ([]byte, error) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
	})
	if err != nil {
		return nil, fmt.Errorf("load signing key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("load signing key: %s is not PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("load signing key: %s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("load signing key: %s holds a %T, want Ed25519", path, parsed)
	}
	return key, nil
}
