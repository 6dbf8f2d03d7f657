// Package webhook is beside the request path: it delivers notices to addresses that leaky.yaml names,
// signed as Standard Webhooks say (webhook-id, webhook-timestamp, webhook-signature), again and again
// with growing pauses until the receiver takes them, and keeps as dead letters what it never took.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/notice"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// Endpoint is where notices go.
type Endpoint struct {
	URL    string
	Secret []byte   // signs them
	Kinds  []string // of notices; none: all
}

// Config is what New needs.
type Config struct {
	Endpoint  Endpoint
	JetStream jetstream.JetStream
	Metrics   *Metrics
	Log       *slog.Logger

	Pauses retry.Policy // between tries; zero: a second at first, half an hour at most
	Tries  int          // in all; 0: 14, which take some three hours
}

// Metrics are shared by the endpoints.
type Metrics struct{ deliveries *prometheus.CounterVec }

// Outcomes of a delivery.
const (
	delivered = "delivered"
	failed    = "failed"
	dead      = "dead"
)

// NewMetrics registers the series.
func NewMetrics(to prometheus.Registerer) *Metrics {
	m := &Metrics{prometheus.NewCounterVec(prometheus.CounterOpts{Name: "leaky_webhook_deliveries_total",
		Help: "Tries to deliver a notice by webhook, by outcome; dead: given up and kept as a dead letter."}, []string{"outcome"})}
	for _, outcome := range []string{delivered, failed, dead} {
		m.deliveries.WithLabelValues(outcome)
	}
	to.MustRegister(m.deliveries)
	return m
}

const (
	defaultTries = 14
	sendWait     = 15 * time.Second // one try
	ackWait      = time.Minute      // longer than one try: it comes again when the process dies meanwhile
	fetchWait    = 500 * time.Millisecond
	mostAnswer   = 64 << 10 // bytes of an answer that are read
)

// Sender delivers to one endpoint. Replicas share the work.
type Sender struct {
	cfg     Config
	durable string
	http    *http.Client
	said    *retry.Troubles
}

// New makes a sender; Run starts it.
func New(cfg Config) (*Sender, error) {
	if cfg.JetStream == nil || cfg.Metrics == nil || cfg.Log == nil || cfg.Endpoint.URL == "" || len(cfg.Endpoint.Secret) == 0 {
		return nil, errors.New("make webhook: Endpoint with URL and Secret, JetStream, Metrics and Log are needed")
	}
	if cfg.Pauses.First == 0 {
		cfg.Pauses = retry.Policy{First: time.Second, Most: 30 * time.Minute, Spread: true}
	}
	if cfg.Tries == 0 {
		cfg.Tries = defaultTries
	}
	name := sha256.Sum256([]byte(cfg.Endpoint.URL))
	return &Sender{cfg: cfg, said: retry.NewTroubles(cfg.Log),
		durable: "webhook-" + hex.EncodeToString(name[:8]), http: &http.Client{Timeout: sendWait,
			// A redirect would take the notice to where nobody configured.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

// undelivered is said while NATS does not give what there is to deliver.
const undelivered = "webhooks wait for NATS"

// Run delivers until ctx ends. An endpoint that is new hears of what comes from now on.
func (s *Sender) Run(ctx context.Context) error {
	_ = retry.Away().Do(ctx, s.deliver, func(_ int, err error) { // until ctx ends
		if ctx.Err() == nil {
			s.said.Warn(ctx, undelivered, err)
		}
	})
	return nil
}

func (s *Sender) deliver(ctx context.Context) error {
	if _, err := notice.EnsureStream(ctx, s.cfg.JetStream); err != nil {
		return err
	}
	consumer, err := s.cfg.JetStream.CreateOrUpdateConsumer(ctx, notice.Stream, jetstream.ConsumerConfig{Durable: s.durable,
		FilterSubject: notice.Subjects, AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverNewPolicy, AckWait: ackWait,
		MaxDeliver: -1, Description: "deliver notices by webhook"})
	if err != nil {
		return fmt.Errorf("make consumer %s: %w", s.durable, err)
	}
	s.said.Over(ctx, undelivered, "webhooks are delivered again")
	for ctx.Err() == nil {
		batch, err := consumer.Fetch(1, jetstream.FetchMaxWait(fetchWait))
		if err != nil {
			return fmt.Errorf("fetch notices: %w", err)
		}
		for m := range batch.Messages() {
			s.one(ctx, m)
		}
	}
	return nil
}

// one tries one notice once.
func (s *Sender) one(ctx context.Context, m jetstream.Msg) {
	var n notice.Notice
	if err := json.Unmarshal(m.Data(), &n); err != nil {
		s.giveUp(ctx, m, fmt.Errorf("no notice: %w", err))
		return
	}
	if len(s.cfg.Endpoint.Kinds) > 0 && !slices.Contains(s.cfg.Endpoint.Kinds, n.Type) {
		_ = m.Ack()
		return
	}
	err := s.send(ctx, n.ID, m.Data(), time.Now())
	if err == nil {
		s.cfg.Metrics.deliveries.WithLabelValues(delivered).Inc()
		_ = m.Ack() // lost: it comes again, under the same id
		return
	}
	s.cfg.Metrics.deliveries.WithLabelValues(failed).Inc()
	tries := 1
	if meta, known := m.Metadata(); known == nil {
		tries = int(meta.NumDelivered)
	}
	if tries >= s.cfg.Tries {
		s.giveUp(ctx, m, err)
		return
	}
	s.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "webhook failed, it is sent again", slog.String("id", n.ID), slog.Int("try", tries),
		slog.Any("error", err))
	_ = m.NakWithDelay(s.cfg.Pauses.After(tries - 1))
}

// giveUp keeps a notice as a dead letter.
func (s *Sender) giveUp(ctx context.Context, m jetstream.Msg, why error) {
	sequence := uint64(0)
	if meta, err := m.Metadata(); err == nil {
		sequence = meta.Sequence.Stream
	}
	if err := usage.DeadLetter(ctx, s.cfg.JetStream, m, sequence, fmt.Sprintf("dead:%s:%d", s.durable, sequence), why); err != nil {
		s.said.Warn(ctx, "publish dead letter failed, it will come again", err)
		_ = m.NakWithDelay(ackWait)
		return
	}
	_ = m.TermWithReason("webhook given up")
	s.cfg.Metrics.deliveries.WithLabelValues(dead).Inc()
	s.cfg.Log.LogAttrs(ctx, slog.LevelError, "webhook given up and kept as a dead letter", slog.Uint64("sequence", sequence),
		slog.String("reason", usage.Printable(why.Error())))
}

// send posts a notice. Errors do not show the address, which may hold a secret.
func (s *Sender) send(ctx context.Context, id string, body []byte, now time.Time) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), sendWait)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.cfg.Endpoint.URL, bytes.NewReader(body))
	if err != nil {
		return errors.New("the address is no URL")
	}
	at := strconv.FormatInt(now.Unix(), 10)
	r.Header.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
	r.Header.Set("Webhook-Id", id)
	r.Header.Set("Webhook-Timestamp", at)
	r.Header.Set("Webhook-Signature", Sign(s.cfg.Endpoint.Secret, id, at, body))
	res, err := s.http.Do(r)
	if err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), s.cfg.Endpoint.URL, "(url)"))
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, mostAnswer)) // so that the connection serves again
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("the receiver answered %d", res.StatusCode)
	}
	return nil
}

// Sign is a webhook-signature: v1 and HMAC-SHA256 of id.timestamp.body. A secret that begins with
// whsec_ is base64 after that.
func Sign(secret []byte, id, timestamp string, body []byte) string {
	if text, is := bytes.CutPrefix(secret, []byte("whsec_")); is {
		if raw, err := base64.StdEncoding.DecodeString(string(text)); err == nil {
			secret = raw
		}
	}
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "%s.%s.", id, timestamp)
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
