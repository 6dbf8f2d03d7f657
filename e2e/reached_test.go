package e2e

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
	"github.com/leaky-tokens/leaky-tokens/stubs"
)

// reached counts the requests that came to a service or a provider, but for what extauthz asks of identity
// by itself. It reads each part once: what extauthz asks in between would be counted and not taken off.
func reached(t *testing.T) (sum uint64) {
	t.Helper()
	cfg, err := running.Loaded()
	if err != nil {
		t.Fatal(err)
	}
	own := func(l *dto.LabelPair) bool {
		return l.GetName() == "uri" && slices.Contains([]string{"/internal/revocations", "/oauth2/jwks", keysPath + "/validate"}, l.GetValue())
	}
	for _, part := range []string{"tokensvc", "analytics", "identity"} {
		for _, served := range exposed(t, cfg.Services.Named(part).HTTP)["http_server_requests_seconds"].GetMetric() {
			if !slices.ContainsFunc(served.GetLabel(), own) {
				sum += served.GetHistogram().GetSampleCount()
			}
		}
	}
	for _, stub := range running.Stub {
		res, err := http.Get(stub + "/__stub/requests")
		if err != nil {
			t.Fatal(err)
		}
		var got stubs.RequestsPage
		err = json.NewDecoder(res.Body).Decode(&got)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		sum += got.Counts.Total + uint64(got.Counts.Open)
	}
	return sum
}

// quiet is what reached counts once nothing comes any more of what earlier tests began: in many looks in
// a row, since on a busy machine some of it may still be on its way between two of them.
func quiet(t *testing.T) (before uint64) {
	t.Helper()
	const enough = 20
	same := 0
	testenv.Eventually(t, "nobody asks", func() bool {
		last := before
		if before = reached(t); before != last {
			same = 0
		}
		same++
		return same > enough
	})
	return before
}
