package payment_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/stubs/payment"
)

type client struct {
	t   *testing.T
	url string
}

func newStub(t *testing.T) (client, *payment.Server) {
	t.Helper()
	stub, err := payment.New(payment.Config{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), APIKey: "sk"})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(stub.Handler())
	t.Cleanup(server.Close)
	return client{t, server.URL}, stub
}

// send answers the status and the body; status 0: the connection was cut.
func (c client) send(method, path, kind, body string, headers ...string) (int, map[string]any) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.url+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer sk")
	r.Header.Set("Content-Type", kind)
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, nil
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil && len(text) > 0 {
		c.t.Fatalf("%s %s: want JSON, got %d %q", method, path, res.StatusCode, text)
	}
	if res.Header.Get("Idempotent-Replayed") != "" {
		got["replayed"] = true
	}
	return res.StatusCode, got
}

const (
	jsonKind = "application/json"
	formKind = "application/x-www-form-urlencoded"
	body     = `{"reference":"p1","account":"user:a","amount":500,"currency":"usd"}`
)

func form(pairs ...string) string {
	v := url.Values{"amount": {"500"}, "currency": {"usd"}, "capture_method": {"manual"}, "metadata[purchase_id]": {"p1"},
		"metadata[account]": {"user:a"}}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return v.Encode()
}

func TestPlain(t *testing.T) {
	t.Parallel()
	c, stub := newStub(t)
	for _, step := range []struct {
		method, path, body string
		status             int
		payment            string
	}{
		{"GET", "/v1/payments/p1", "", 404, ""},
		{"POST", "/v1/payments/p1/capture", "{}", 404, ""},
		{"POST", "/v1/payments", body, 201, "authorized"},
		{"POST", "/v1/payments", body, 201, "authorized"},
		{"POST", "/v1/payments/p1/capture", "{}", 200, "captured"},
		{"POST", "/v1/payments/p1/capture", "{}", 200, "captured"},
		{"POST", "/v1/payments/p1/void", "{}", 409, "captured"},
		{"POST", "/v1/payments/p1/refund", "{}", 200, "voided"},
		{"POST", "/v1/payments/p1/capture", "{}", 409, "voided"},
		{"POST", "/v1/payments", body, 201, "voided"},
		{"GET", "/v1/payments/p1", "", 200, "voided"},
		{"POST", "/v1/payments", `{"reference":"","amount":1,"currency":"usd"}`, 400, ""},
		{"POST", "/v1/payments", `{"reference":"x","amount":0,"currency":"usd"}`, 400, ""},
	} {
		status, got := c.send(step.method, step.path, jsonKind, step.body)
		if state, _ := got["status"].(string); status != step.status || state != step.payment {
			t.Errorf("%s %s: want %d %q, got %d %v", step.method, step.path, step.status, step.payment, status, got)
		}
	}
	if all := stub.Payments(); len(all) != 1 || all[0].Captures != 1 || all[0].Voids != 1 || all[0].Captured != 0 {
		t.Errorf("want one payment, taken and given back once, got %+v", all)
	}
	if status, _ := c.send("GET", "/v1/payments/p1", jsonKind, "", "Authorization", "Bearer wrong"); status != 401 {
		t.Errorf("wrong key: want 401, got %d", status)
	}
}

func TestStripeShape(t *testing.T) {
	t.Parallel()
	c, _ := newStub(t)
	_, first := c.send("POST", "/v1/payment_intents", formKind, form(), "Idempotency-Key", "k1")
	id, _ := first["id"].(string)
	if first["status"] != "requires_capture" || first["amount_capturable"] != 500. || first["object"] != "payment_intent" {
		t.Fatalf("want an intent, got %v", first)
	}
	if status, got := c.send("POST", "/v1/payment_intents/"+id+"/capture", formKind, "amount_to_capture=500"); status != 200 ||
		got["status"] != "succeeded" || got["amount_received"] != 500. {
		t.Errorf("capture: got %d %v", status, got)
	}
	// As Stripe does, the first answer is given again although the intent has changed since.
	if _, got := c.send("POST", "/v1/payment_intents", formKind, form(), "Idempotency-Key", "k1"); got["status"] != "requires_capture" ||
		got["replayed"] != true || got["id"] != id {
		t.Errorf("want the first answer, marked, got %v", got)
	}
	if status, got := c.send("POST", "/v1/payment_intents", formKind, form("amount", "501"), "Idempotency-Key", "k1"); status != 400 ||
		got["error"].(map[string]any)["type"] != "idempotency_error" {
		t.Errorf("same key, other payload: got %d %v", status, got)
	}
	if _, got := c.send("GET", "/v1/payment_intents/"+id, formKind, ""); got["status"] != "succeeded" {
		t.Errorf("want the truth, got %v", got)
	}
	if status, got := c.send("POST", "/v1/payment_intents/"+id+"/cancel", formKind, ""); status != 400 ||
		got["error"].(map[string]any)["payment_intent"] == nil {
		t.Errorf("cancel of a captured one: got %d %v", status, got)
	}
	if _, got := c.send("GET", "/v1/payment_intents/search?query="+url.QueryEscape("metadata['purchase_id']:'p1'"), formKind,
		""); len(got["data"].([]any)) != 1 {
		t.Errorf("search: got %v", got)
	}
	if status, got := c.send("POST", "/v1/payment_intents", formKind, form("metadata[purchase_id]", "p2"), "X-Stub-Decline",
		"1"); status != 402 || got["error"].(map[string]any)["type"] != "card_error" {
		t.Errorf("declined: got %d %v", status, got)
	}
	for name, bad := range map[string]string{"no manual capture": form("capture_method", "automatic"), "no amount": form("amount", ""),
		"no purchase": form("metadata[purchase_id]", ""), "no form": "%zz"} {
		if status, _ := c.send("POST", "/v1/payment_intents", formKind, bad); status != 400 {
			t.Errorf("%s: want 400, got %d", name, status)
		}
	}
	if status, _ := c.send("GET", "/v1/payment_intents/pi_none", formKind, ""); status != 404 {
		t.Errorf("unknown: want 404, got %d", status)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		faults, amount string
		status         int
		done           string // what the payment is afterwards; empty: there is none
	}{
		"declines":         {`{"decline":1}`, "500", 402, "declined"},
		"other amount":     {`{"otherAmount":1}`, "500", 201, "authorized"},
		"refuses":          {`{"refuse":1}`, "500", 0, ""},
		"loses the answer": {`{"lose":1}`, "500", 0, "authorized"},
		"late":             {`{"late":1,"lateMs":1}`, "500", 201, "authorized"},
		"fails":            {`{"status":503}`, "500", 503, ""},
		"rule: declined":   {`{"amountRules":true}`, "1402", 402, "declined"},
		"rule: no answer":  {`{"amountRules":true}`, "1408", 0, "authorized"},
		"rule: fails":      {`{"amountRules":true}`, "1503", 503, ""},
		"rule: none":       {`{"amountRules":true}`, "1500", 201, "authorized"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, stub := newStub(t)
			if status, got := c.send("PUT", "/__stub/config", jsonKind, tc.faults); status != 200 {
				t.Fatalf("config: got %d %v", status, got)
			}
			// One connection each, so that the client does not repeat a call by itself.
			status, got := c.send("POST", "/v1/payments", jsonKind, strings.Replace(body, "500", tc.amount, 1), "Connection", "close")
			if status != tc.status {
				t.Errorf("want %d, got %d %v", tc.status, status, got)
			}
			all := stub.Payments()
			if (tc.done != "") != (len(all) == 1) || tc.done != "" && string(all[0].Status) != tc.done {
				t.Errorf("want %q, got %+v", tc.done, all)
			}
		})
	}
	c, _ := newStub(t)
	for _, bad := range []string{`{"decline":2}`, `{"decline":-1}`, `{"lateMs":-1}`, `{"status":200}`, `{"nosuch":1}`, `[]`, ``} {
		if status, _ := c.send("PUT", "/__stub/config", jsonKind, bad); status != 400 {
			t.Errorf("%s: want 400, got %d", bad, status)
		}
	}
}

func FuzzParseFaults(f *testing.F) {
	f.Add([]byte(`{"decline":0.5,"lateMs":10,"status":503}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		faults, err := payment.ParseFaults(text)
		if err == nil && (faults.Decline < 0 || faults.Decline > 1 || faults.LateMS < 0) {
			t.Errorf("%s: accepted %+v", text, faults)
		}
	})
}
