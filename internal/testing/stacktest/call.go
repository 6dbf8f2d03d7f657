package stacktest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// Through sends what Send and those below send through a transport; New takes the usual one. Call
// it before any of them.
func (s *Stack) Through(t http.RoundTripper) (err error) {
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	s.client, err = client.New(client.Config{Gateway: s.Gateway, HTTP: &http.Client{Transport: t, CheckRedirect: stay}, Attempts: 1})
	return err
}

// Send sends one request to the gateway and gives the answer as it is. body is nil, a text as it is,
// or anything for JSON; the last of header's pairs with the same name wins, an empty value removes it.
func (s *Stack) Send(ctx context.Context, method, path, credential string, body any, header ...string) (status int, headers http.Header,
	text []byte, err error) {
	var req *http.Request
	if plain, ok := body.(string); ok {
		if req, err = http.NewRequestWithContext(ctx, method, s.Gateway+path, strings.NewReader(plain)); err == nil {
			req.Header.Set("Content-Type", "application/json")
		}
	} else {
		req, err = s.client.Request(ctx, method, path, body)
	}
	if err != nil {
		return 0, nil, nil, err
	}
	if credential != "" {
		req.Header.Set("Authorization", "Bearer "+credential)
	}
	for i := 0; i+1 < len(header); i += 2 {
		if req.Header.Set(header[i], header[i+1]); header[i+1] == "" {
			req.Header.Del(header[i])
		}
	}
	res, err := s.client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer res.Body.Close()
	text, err = io.ReadAll(res.Body)
	return res.StatusCode, res.Header, text, err
}

// Call sends one JSON request to the gateway and decodes the answer into dst, if given.
func (s *Stack) Call(ctx context.Context, method, path, credential string, body, dst any) (int, error) {
	status, _, answer, err := s.Send(ctx, method, path, credential, body)
	if err == nil && dst != nil && status < 300 {
		if err := json.Unmarshal(answer, dst); err != nil {
			return status, fmt.Errorf("%s %s answered %d %q: %w", method, path, status, answer, err)
		}
	}
	return status, err
}

// Must is Call for a status that has to come.
func (s *Stack) Must(ctx context.Context, want int, method, path, credential string, body, dst any) error {
	status, err := s.Call(ctx, method, path, credential, body, dst)
	if err == nil && status != want {
		err = &statusError{method + " " + path, want, status}
	}
	return err
}

// statusError is a call that got another status.
type statusError struct {
	call      string
	want, got int
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: want %d, got %d", e.call, e.want, e.got)
}

func (s *Stack) loginAdmin() (string, error) {
	text, err := os.ReadFile(filepath.Join(s.Dir, "secrets", "admin.json"))
	if err != nil {
		return "", err
	}
	var got struct{ Token string }
	err = patiently(context.Background(), func(ctx context.Context) error {
		return s.Must(ctx, 200, "POST", "/api/v1/auth/login", "", json.RawMessage(text), &got)
	})
	return got.Token, err
}

// Account is one user with a key.
type Account struct {
	ID, Name, JWT, Key, KeyID string
}

// Password is that of every account.
const Password = "correct horse 9"

// patience bounds how long an account is waited for: the machine may have much else to do, and the
// test before may have had a part stop.
const patience = time.Minute

// patiently repeats a call that is answered with 503, as clients do.
func patiently(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return retry.Policy{First: 100 * time.Millisecond, Most: time.Second}.Do(ctx, func(ctx context.Context) error {
		err := call(ctx)
		if status, ok := errors.AsType[*statusError](err); ok && status.got == http.StatusServiceUnavailable {
			return err
		}
		if err != nil {
			return retry.Permanent(err)
		}
		return nil
	}, nil)
}

// NewAccount registers a user, gives it roles beside USER, and makes a key.
func (s *Stack) NewAccount(ctx context.Context, roles ...string) (Account, error) {
	must := func(want int, method, path, credential string, body, dst any) error {
		return patiently(ctx, func(ctx context.Context) error { return s.Must(ctx, want, method, path, credential, body, dst) })
	}
	var name string
	var user struct{ UserID, Token string }
	if err := patiently(ctx, func(ctx context.Context) error {
		name = "u" + strings.ReplaceAll(uuid.NewString(), "-", "")[:20] // the one before may be taken
		return s.Must(ctx, 201, "POST", "/api/v1/auth/register", "",
			map[string]string{"username": name, "email": name + "@example.com", "password": Password}, &user)
	}); err != nil {
		return Account{}, err
	}
	if len(roles) > 0 {
		admin, err := s.admin()
		if err != nil {
			return Account{}, err
		}
		if err := must(200, "PUT", "/api/v1/admin/users/"+user.UserID+"/roles", admin, map[string]any{"roles": append(roles, "USER")},
			nil); err != nil {
			return Account{}, err
		}
		// Their first token names the roles they had, and ended with them.
		if err := must(200, "POST", "/api/v1/auth/login", "", map[string]string{"username": name, "password": Password}, &user); err != nil {
			return Account{}, err
		}
	}
	var key struct{ APIKey, ID string }
	err := must(201, "POST", "/api/v1/auth/api-keys", user.Token, map[string]string{"userId": user.UserID, "name": "sandbox"}, &key)
	return Account{ID: user.UserID, Name: name, JWT: user.Token, Key: key.APIKey, KeyID: key.ID}, err
}
