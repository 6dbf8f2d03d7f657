package webhook_test

import (
	"context"
	"crypto/hmac"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/analytics/webhook"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/notice"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

const secret = "whsec_c2VjcmV0LW9mLXRoZS1yZWNlaXZlcg=="

// receiver remembers what it took; it refuses the first tries of each notice.
type receiver struct {
	mu      sync.Mutex
	refuses int
	tries   map[string]int
	taken   map[string]notice.Notice
	wrong   []string
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	id, at := q.Header.Get("Webhook-Id"), q.Header.Get("Webhook-Timestamp")
	if want := webhook.Sign([]byte(secret), id, at, body); err != nil || !hmac.Equal([]byte(want), []byte(q.Header.Get("Webhook-Signature"))) {
		r.wrong = append(r.wrong, string(body))
	}
	if r.tries[id]++; r.tries[id] <= r.refuses {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	var n notice.Notice
	if json.Unmarshal(body, &n) != nil || n.ID != id {
		r.wrong = append(r.wrong, string(body))
	}
	r.taken[id] = n
	w.WriteHeader(http.StatusNoContent)
}

func (r *receiver) count() (taken, tries int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.tries {
		tries += n
	}
	return len(r.taken), tries
}

func stream(t *testing.T) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(testenv.NATS(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := notice.EnsureStream(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	if _, err := usage.EnsureStream(t.Context(), js); err != nil { // and that of dead letters
		t.Fatal(err)
	}
	return js
}

func sending(t *testing.T, js jetstream.JetStream, url string, kinds ...string) {
	t.Helper()
	s, err := webhook.New(webhook.Config{Endpoint: webhook.Endpoint{URL: url, Secret: []byte(secret), Kinds: kinds}, JetStream: js,
		Metrics: webhook.NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler), Pauses: retry.Policy{First: 10 * time.Millisecond},
		Tries: 4})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("want a clean stop, got %v", err)
		}
	})
	testenv.Eventually(t, "the sender listens", func() bool {
		info, err := js.Stream(t.Context(), notice.Stream)
		return err == nil && info.CachedInfo().State.Consumers > 0
	})
}

func tell(t *testing.T, js jetstream.JetStream, kind, about string, want bool) {
	t.Helper()
	told, err := notice.Publish(t.Context(), js, notice.New(kind, time.Now(), notice.Threshold{Account: about, Percent: 80}, about))
	if err != nil || told != want {
		t.Fatalf("%s: want told %t, got %t, %v", about, want, told, err)
	}
}

func TestNoticesAreSentSignedAndAgainUntilTheyAreTaken(t *testing.T) {
	t.Parallel()
	js, to := stream(t), &receiver{refuses: 2, tries: map[string]int{}, taken: map[string]notice.Notice{}}
	server := httptest.NewServer(to)
	t.Cleanup(server.Close)
	sending(t, js, server.URL, notice.KindThreshold)
	tell(t, js, notice.KindThreshold, "user:a", true)
	tell(t, js, notice.KindThreshold, "user:a", false) // the same window
	tell(t, js, notice.KindAnomaly, "user:a", true)    // nobody asked for these
	tell(t, js, notice.KindThreshold, "user:b", true)
	testenv.Eventually(t, "both taken", func() bool { taken, _ := to.count(); return taken == 2 })
	if taken, tries := to.count(); taken != 2 || tries != 6 || len(to.wrong) > 0 {
		t.Errorf("want two notices after three tries each, got %d after %d, wrong: %q", taken, tries, to.wrong)
	}
}

func TestWhatIsNeverTakenIsADeadLetter(t *testing.T) {
	t.Parallel()
	elsewhere := &receiver{tries: map[string]int{}, taken: map[string]notice.Notice{}}
	other := httptest.NewServer(elsewhere)
	t.Cleanup(other.Close)
	for name, answer := range map[string]http.HandlerFunc{
		"a receiver that fails": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"one that is gone":      func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"one that sends on": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			js, server := stream(t), httptest.NewServer(answer)
			t.Cleanup(server.Close)
			sending(t, js, server.URL+"/token-of-the-receiver")
			tell(t, js, notice.KindAnomaly, "key:k", true)
			var letter *jetstream.RawStreamMsg
			testenv.Eventually(t, "a dead letter", func() bool {
				dead, err := js.Stream(t.Context(), usage.StreamDead)
				if err != nil {
					return false
				}
				letter, err = dead.GetLastMsgForSubject(t.Context(), usage.SubjectDead)
				return err == nil
			})
			if reason := letter.Header.Get(usage.HeaderDeadReason); strings.Contains(reason, "token-of-the-receiver") || reason == "" {
				t.Errorf("want a reason without the address, got %q", reason)
			}
			if taken, _ := elsewhere.count(); taken > 0 {
				t.Error("want no notice sent to where nobody configured")
			}
		})
	}
}
