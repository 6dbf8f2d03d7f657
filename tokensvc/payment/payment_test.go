package payment_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/tokensvc/payment"
)

type client interface {
	Authorize(ctx context.Context, o payment.Order) (payment.State, error)
	Capture(ctx context.Context, o payment.Order) (payment.State, error)
	Void(ctx context.Context, o payment.Order) (payment.State, error)
	Find(ctx context.Context, o payment.Order) (payment.State, error)
}

// answering makes both clients of a server that gives one answer.
func answering(t *testing.T, status int, body string) map[string]client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	return clients(t, server.URL)
}

func clients(t *testing.T, url string) map[string]client {
	t.Helper()
	cfg := payment.Config{URL: url, APIKey: "sk_test", Timeout: time.Minute}
	plain, err := payment.NewPlain(cfg)
	if err != nil {
		t.Fatal(err)
	}
	stripe, err := payment.NewStripe(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]client{"plain": plain, "stripe": stripe}
}

func order() payment.Order {
	return payment.Order{Purchase: uuid.MustParse("0e8b1c1a-0000-4000-8000-000000000001"), Account: "user:x", Amount: 500, Currency: "usd",
		ID: "pi_1"}
}

func TestUnclearAnswersDecideNothing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status int
		body   string
		want   error
	}{
		"server error":      {500, `{"status":"captured"}`, payment.ErrUndecided},
		"bad gateway":       {502, `<html>`, payment.ErrUndecided},
		"too many requests": {429, `{}`, payment.ErrUndecided},
		"request timeout":   {408, `{}`, payment.ErrUndecided},
		"no JSON":           {200, `ok`, payment.ErrUndecided},
		"empty":             {200, ``, payment.ErrUndecided},
		"another payment":   {200, `{"id":"pi_9","reference":"other","status":"captured","amount":500,"captured":500,"currency":"usd","metadata":{"purchase_id":"other"}}`, payment.ErrUndecided},
		"unknown status":    {200, `{"id":"pi_1","reference":"0e8b1c1a-0000-4000-8000-000000000001","status":"perhaps","metadata":{"purchase_id":"0e8b1c1a-0000-4000-8000-000000000001"}}`, payment.ErrUndecided},
		"amount is no integer": {200, `{"id":"pi_1","reference":"0e8b1c1a-0000-4000-8000-000000000001","status":"captured","amount":5.5}`,
			payment.ErrUndecided},
		"wrong key":             {401, `{}`, payment.ErrRefused},
		"forbidden":             {403, `{}`, payment.ErrRefused},
		"redirect":              {302, ``, payment.ErrRefused},
		"call not understood":   {400, `{"error":{"type":"invalid_request_error"}}`, payment.ErrRefused},
		"call not understood 2": {422, `no JSON at all`, payment.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for kind, c := range answering(t, tc.status, tc.body) {
				for step, call := range map[string]func(context.Context, payment.Order) (payment.State, error){"authorize": c.Authorize,
					"capture": c.Capture, "void": c.Void, "find": c.Find} {
					if got, err := call(t.Context(), order()); !errors.Is(err, tc.want) {
						t.Errorf("%s %s: want %v, got %+v, %v", kind, step, tc.want, got, err)
					}
				}
			}
		})
	}
}

func TestNoAnswerDecidesNothing(t *testing.T) {
	t.Parallel()
	hang := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { close(hang); server.Close() })
	for kind, c := range clients(t, server.URL) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := c.Capture(ctx, order()); !errors.Is(err, payment.ErrUndecided) {
			t.Errorf("%s: want ErrUndecided, got %v", kind, err)
		}
		cancel()
	}
	for kind, c := range clients(t, "http://127.0.0.1:1") {
		if _, err := c.Authorize(t.Context(), order()); !errors.Is(err, payment.ErrUndecided) {
			t.Errorf("%s, nobody there: want ErrUndecided, got %v", kind, err)
		}
	}
}

func TestStripeOnTheWire(t *testing.T) {
	t.Parallel()
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		got = append(got, r.Method+" "+r.URL.Path+" "+r.PostForm.Encode()+" "+r.Header.Get("Idempotency-Key")+" "+r.Header.Get("Authorization"))
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/capture") {
			w.Header().Set("Idempotent-Replayed", "true") // an old answer: the truth is asked for
			_, _ = w.Write([]byte(`{"id":"pi_1","status":"requires_capture","amount":500,"currency":"usd","metadata":{"purchase_id":"0e8b1c1a-0000-4000-8000-000000000001"}}`))
			return
		}
		_, _ = w.Write([]byte(`{"id":"pi_1","status":"succeeded","amount":500,"amount_received":500,"currency":"usd","metadata":{"purchase_id":"0e8b1c1a-0000-4000-8000-000000000001"}}`))
	}))
	t.Cleanup(server.Close)
	state, err := clients(t, server.URL)["stripe"].Capture(t.Context(), order())
	if err != nil || state.Status != payment.Captured || !state.Matches(order()) {
		t.Errorf("want it captured, got %+v, %v", state, err)
	}
	want := []string{"POST /v1/payment_intents/pi_1/capture amount_to_capture=500&expand%5B%5D=latest_charge 0e8b1c1a-0000-4000-8000-000000000001:capture Bearer sk_test",
		"GET /v1/payment_intents/pi_1   Bearer sk_test"}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("want\n%s\ngot\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	t.Parallel()
	for _, cfg := range []payment.Config{{URL: "ftp://x", Timeout: 1}, {URL: "http://", Timeout: 1}, {URL: "http://x"},
		{URL: ":", Timeout: 1}} {
		if _, err := payment.NewPlain(cfg); err == nil {
			t.Errorf("%+v: want an error", cfg)
		}
		if _, err := payment.NewStripe(cfg); err == nil {
			t.Errorf("%+v: want an error", cfg)
		}
	}
}

func TestStripeRefundIsAVoid(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]payment.Status{
		`"latest_charge":{"refunded":true,"amount_refunded":501}`:  payment.Voided,
		`"latest_charge":{"refunded":false,"amount_refunded":100}`: payment.Captured,
		`"latest_charge":"ch_1"`:                                   payment.Captured,
	} {
		intent := `{"id":"pi_1","status":"succeeded","amount":500,"amount_received":501,"currency":"usd","metadata":{"purchase_id":"0e8b1c1a-0000-4000-8000-000000000001"},` + body + `}`
		got, err := answering(t, 200, intent)["stripe"].Find(t.Context(), order())
		if err != nil || got.Status != want {
			t.Errorf("%s: want %s, got %+v, %v", body, want, got, err)
		}
	}
}

// FuzzAnswers: whatever a provider says, a client gives a state it knows or an error.
func FuzzAnswers(f *testing.F) {
	f.Add(200, []byte(`{"id":"pi_1","status":"succeeded","amount":500,"amount_received":500,"currency":"usd","metadata":{"purchase_id":"0e8b1c1a-0000-4000-8000-000000000001"}}`))
	f.Add(402, []byte(`{"error":{"type":"card_error","payment_intent":{"id":"pi_1","status":"requires_payment_method"}}}`))
	f.Add(200, []byte(`{"data":[null]}`))
	f.Add(409, []byte(`{"reference":"0e8b1c1a-0000-4000-8000-000000000001","status":"voided"}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 || !json.Valid(body) && status%2 == 0 {
			return
		}
		for kind, c := range answering(t, status, string(body)) {
			for _, call := range []func(context.Context, payment.Order) (payment.State, error){c.Authorize, c.Find} {
				got, err := call(t.Context(), order())
				known := got.Status == payment.Absent || got.Status == payment.Authorized || got.Status == payment.Captured ||
					got.Status == payment.Voided || got.Status == payment.Declined
				if (err == nil) != known {
					t.Errorf("%s: want a known state or an error, got %+v, %v", kind, got, err)
				}
			}
		}
	})
}
