package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/leaky-tokens/leaky-tokens/internal/secretfile"
)

// ErrForeignSecret says that something was sealed with another secret.
var ErrForeignSecret = errors.New("sealed with another secret")

// minSecret is the fewest bytes a secret from the environment may have.
const minSecret = 16

// Sealer encrypts private keys at rest with AES-256-GCM.
type Sealer struct {
	aead     cipher.AEAD
	material []byte
}

// NewSealer takes the secret as given, else that of <secrets>/keys.secret, which is
// made at first start. The key is derived from it for this one purpose.
func NewSealer(secret, folder string) (*Sealer, error) {
	material := []byte(secret)
	if secret == "" {
		var err error
		material, err = secretfile.LoadOrCreate(filepath.Join(folder, "keys.secret"), func() ([]byte, error) {
			raw := make([]byte, 32)
			_, err := rand.Read(raw)
			return []byte(base64.RawURLEncoding.EncodeToString(raw)), err
		})
		if err != nil {
			return nil, fmt.Errorf("load key secret: %w", err)
		}
	}
	if len(material) < minSecret {
		return nil, fmt.Errorf("the secret that seals signing keys (LEAKY_KEYS_SECRET) has %d bytes: at least %d are needed", len(material),
			minSecret)
	}
	sealer := &Sealer{material: material}
	key, err := sealer.Derive("leaky-tokens signing keys at rest v1")
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make cipher: %w", err)
	}
	if sealer.aead, err = cipher.NewGCMWithRandomNonce(block); err != nil {
		return nil, fmt.Errorf("make cipher: %w", err)
	}
	return sealer, nil
}

// Derive gives 32 bytes for another purpose (HKDF, RFC 5869), the same on every replica.
func (s *Sealer) Derive(purpose string) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, s.material, nil, purpose, 32)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return key, nil
}

// seal encrypts for one row: label, its id, is authenticated with it.
func (s *Sealer) seal(plain []byte, label string) []byte {
	return s.aead.Seal(nil, nil, plain, []byte(label))
}

// open decrypts; ErrForeignSecret when the secret or the row is another.
func (s *Sealer) open(sealed []byte, label string) ([]byte, error) {
	plain, err := s.aead.Open(nil, nil, sealed, []byte(label))
	if err != nil {
		return nil, errors.Join(ErrForeignSecret, err)
	}
	return plain, nil
}
