package e2e

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/rawprovider"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
)

const (
	chatPath  = "/v1/chat/completions"
	rawGemini = "/v1beta/models/rawg1:generateContent"
)

// raw sends what each request tells it, to every test. TestMain serves it.
var raw rawprovider.Provider

// serveRaw serves it until the process ends.
func serveRaw(at string) error {
	ln, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	go func() { _ = http.Serve(ln, &raw) }()
	return nil
}

// delivered is what reached the provider of the call with the correlation id.
func delivered(id string) []rawprovider.Call {
	var mine []rawprovider.Call
	for _, c := range raw.Calls() {
		if c.Header.Get("X-Correlation-Id") == id {
			mine = append(mine, c)
		}
	}
	return mine
}

// rawAnswer is what a client of the provider got before it left or the answer ended.
type rawAnswer struct {
	correlation, request string // ids
	status               int
	header               http.Header
	text                 string
	err                  error
}

// callRaw calls, and closes its connection when it has read what until wants, or everything.
// header's pairs replace what it sends.
func callRaw(ctx context.Context, t *testing.T, who stacktest.Account, path, body, script string, until func(text string) bool, header ...string) rawAnswer {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, running.Gateway+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	got := rawAnswer{correlation: uuid.NewString()}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+who.Key)
	req.Header.Set("X-Correlation-Id", got.correlation)
	req.Header.Set(rawprovider.Header, script)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true}
	defer transport.CloseIdleConnections()
	res, err := patiently(&http.Client{Transport: transport}, req)
	if err != nil {
		got.err = err
		return got
	}
	defer res.Body.Close()
	got.status, got.header, got.request = res.StatusCode, res.Header, res.Header.Get("X-Request-Id")
	var text strings.Builder
	for piece := make([]byte, 32<<10); until == nil || !until(text.String()); {
		n, err := res.Body.Read(piece)
		text.Write(piece[:n])
		if err != nil {
			got.err = err
			break
		}
	}
	got.text = text.String()
	return got
}

// patiently repeats a call as SDKs do, once after Retry-After, where the gateway could not decide
// about it: nothing was held and no provider heard of it.
func patiently(over *http.Client, req *http.Request) (*http.Response, error) {
	res, err := over.Do(req)
	if err != nil || res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("x-leaky-hold") != "" {
		return res, err
	}
	seconds, err := strconv.Atoi(res.Header.Get("Retry-After"))
	if err != nil {
		return res, nil
	}
	res.Body.Close()
	if req.Body, err = req.GetBody(); err != nil {
		return nil, err
	}
	select {
	case <-time.After(time.Duration(seconds) * time.Second):
		return over.Do(req)
	case <-req.Context().Done():
		return nil, req.Context().Err()
	}
}

// reading is an until that ends a call when the text was read; empty: never.
func reading(text string) func(string) bool {
	if text == "" {
		return nil
	}
	return func(got string) bool { return strings.Contains(got, text) }
}
