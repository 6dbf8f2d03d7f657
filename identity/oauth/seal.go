package oauth

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// formLife is how long a page may stay open before its answer.
const formLife = 10 * time.Minute

var (
	// errForeignForm says that a form was not made here, or was changed.
	errForeignForm = errors.New("the form is not ours")
	// errLateForm says that a form of ours stayed open too long; its content was read all the same.
	errLateForm = errors.New("the form was open too long")
)

// forms keeps what a page must remember until it is answered, sealed in the page
// itself: no cookie, no row, any replica that knows the key can go on. A sealed form
// grants nothing: who answers it must also know a password.
type forms struct{ aead cipher.AEAD }

func newForms(key []byte) (*forms, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("form key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("form key: %w", err)
	}
	return &forms{aead: aead}, nil
}

type sealedForm struct {
	Expires int64           `json:"exp"` // Unix seconds
	Content json.RawMessage `json:"c"`
}

// seal writes content for one kind of page, which is authenticated with it.
func (f *forms) seal(kind string, content any, now time.Time) (string, error) {
	inner, err := json.Marshal(content)
	if err != nil {
		return "", fmt.Errorf("seal form: %w", err)
	}
	text, err := json.Marshal(sealedForm{Expires: now.Add(formLife).Unix(), Content: inner})
	if err != nil {
		return "", fmt.Errorf("seal form: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(f.aead.Seal(nil, nil, text, []byte(kind))), nil
}

// open gives back what seal took. The only errors are errForeignForm and errLateForm.
func (f *forms) open(kind, text string, now time.Time, content any) error {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return errForeignForm
	}
	inner, err := f.aead.Open(nil, nil, raw, []byte(kind))
	if err != nil {
		return errForeignForm
	}
	var sealed sealedForm
	if json.Unmarshal(inner, &sealed) != nil || json.Unmarshal(sealed.Content, content) != nil {
		return errForeignForm
	}
	if now.Unix() > sealed.Expires {
		return errLateForm
	}
	return nil
}
