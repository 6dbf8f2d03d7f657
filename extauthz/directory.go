package extauthz

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/apikey"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
)

const (
	// maxValidity is the longest answer about a key, in bytes.
	maxValidity = 64 << 10
	// maxList is the longest list of revocations, in bytes.
	maxList = 256 << 20
)

// directory is identity as extauthz sees it.
type directory struct {
	base    string
	timeout time.Duration
	client  *http.Client
}

func newClient(transport http.RoundTripper) *http.Client {
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// validity is identity's answer about a key.
type validity struct {
	UserID    string     `json:"userId"`
	KeyID     string     `json:"keyId"`
	OrgID     string     `json:"orgId,omitzero"` // the organisation that the key acts for
	Team      string     `json:"team,omitzero"`  // its owner's within that
	ExpiresAt *time.Time `json:"expiresAt"`
	Roles     []string   `json:"roles"`
	Message   string     `json:"message"` // why it is none
}

// find asks GET /api/v1/auth/api-keys/validate. It gives errInvalid only when identity
// says so; whatever else goes wrong is errUnreachable.
func (d *directory) find(ctx context.Context, key string) (v validity, err error) {
	status, err := d.get(ctx, "/api/v1/auth/api-keys/validate", key, maxValidity, &v)
	if err != nil {
		return v, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	switch status {
	case http.StatusOK:
	case http.StatusUnauthorized:
		if v.Message == apikey.Expired {
			return v, errExpired
		}
		return v, errInvalid
	default:
		return v, fmt.Errorf("%w: status %d", errUnreachable, status)
	}
	claimed, _ := apikey.Parse(key)
	if v.UserID != claimed.String() || v.KeyID == "" || !plausible(v.OrgID, v.Team) {
		return v, fmt.Errorf("%w: the answer is about another key", errUnreachable)
	}
	return v, nil
}

// revocations asks for the list of what still counts.
func (d *directory) revocations(ctx context.Context) (list revocation.List, err error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	status, err := d.get(ctx, revocation.Path, "", maxList, &list)
	if err != nil {
		return list, fmt.Errorf("fetch revocations: %w", err)
	}
	if status != http.StatusOK {
		return list, fmt.Errorf("fetch revocations: status %d", status)
	}
	for _, r := range list.Revocations {
		if err := r.Check(); err != nil { // one that cannot be read may be any: better none than all but one
			return list, fmt.Errorf("fetch revocations: %w", err)
		}
	}
	return list, nil
}

// get reads a JSON answer of at most so many bytes. Of an answer that is no 200 into has what it
// says, if anything.
func (d *directory) get(ctx context.Context, path, key string, most int64, into any) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.base+path, http.NoBody)
	if err != nil {
		return 0, err
	}
	if key != "" {
		req.Header.Set("X-Api-Key", key)
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, most)
	defer func() { _, _ = io.Copy(io.Discard, io.LimitReader(body, maxValidity)) }() // so that the connection serves again
	if err = json.NewDecoder(body).Decode(into); resp.StatusCode != http.StatusOK {
		err = nil
	}
	return resp.StatusCode, err
}

// maxTeam is the longest name of a team, in bytes.
const maxTeam = 128

// plausible checks what names a caller's account: it ends up in keys and counters.
func plausible(org, team string) bool {
	if org != "" {
		if id, err := uuid.Parse(org); err != nil || id.String() != org {
			return false
		}
	}
	if len(team) > maxTeam || team != "" && org == "" {
		return false
	}
	for _, c := range team {
		if c < ' ' || c == 0x7f || c == '\uFFFD' {
			return false
		}
	}
	return true
}
