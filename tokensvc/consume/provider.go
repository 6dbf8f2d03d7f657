package consume

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/egress"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
)

const (
	// maxAnswer is the most of a provider's answer that is passed on, in bytes.
	maxAnswer = 1 << 20
	// longestCall is above every deadline that Envoy can be given; Envoy ends a call first.
	longestCall = 6 * time.Minute
)

// Envoy calls providers through the egress listener: Envoy holds their keys, retries, cuts
// off and gives up.
type Envoy struct{ client *http.Client }

// NewEnvoy calls through the listener at addr. spans may put something before the connections; nil:
// nothing.
func NewEnvoy(addr netaddr.Addr, spans func(http.RoundTripper) http.RoundTripper) *Envoy {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		if addr.Network == "unix" {
			return d.DialContext(ctx, addr.Network, addr.Path)
		}
		return d.DialContext(ctx, addr.Network, addr.String())
	}
	var transport http.RoundTripper = &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute}
	if spans != nil {
		transport = spans(transport)
	}
	return &Envoy{client: &http.Client{Timeout: longestCall, Transport: transport}}
}

// Call implements Provider. Every failure is an ErrProvider: it says what Envoy said of it,
// and nothing of the provider's answer, which may hold anything.
func (e *Envoy) Call(ctx context.Context, provider, correlationID string, prompt *string) (json.RawMessage, error) {
	body, err := json.Marshal(struct {
		Prompt *string `json:"prompt"`
	}{prompt})
	if err != nil {
		return nil, fmt.Errorf("encode prompt: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://egress"+egress.Path(provider), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make provider call: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if correlationID != "" {
		req.Header.Set(httpapi.HeaderCorrelation, correlationID)
	}
	res, err := e.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProvider, err)
	}
	defer res.Body.Close()
	if reason := res.Header.Get(egress.Header); reason != "" {
		return nil, fmt.Errorf("%w: %s", ErrProvider, reason)
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: status %d", ErrProvider, res.StatusCode)
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: read answer: %w", ErrProvider, err)
	case len(answer) > maxAnswer:
		return nil, fmt.Errorf("%w: answer over %d bytes", ErrProvider, maxAnswer)
	}
	answer = bytes.TrimSpace(answer)
	if !bytes.HasPrefix(answer, []byte("{")) || !json.Valid(answer) {
		return nil, fmt.Errorf("%w: the answer is no JSON object", ErrProvider)
	}
	return answer, nil
}
