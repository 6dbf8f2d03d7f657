package limits

import (
	"crypto/sha256"
	"encoding/hex"
)

// digest stands for a value that is too long for a bucket's key.
func digest(value string) string {
	sum := sha256.Sum256([]byte(value))
	return "sha256:" + hex.EncodeToString(sum[:])
}
