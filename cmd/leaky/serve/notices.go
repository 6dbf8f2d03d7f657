package serve

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/leaky-tokens/leaky-tokens/analytics"
	"github.com/leaky-tokens/leaky-tokens/analytics/watch"
	"github.com/leaky-tokens/leaky-tokens/analytics/webhook"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/notice"
)

// notices are the watch, which the first replica runs, and a sender for each webhook, which share the
// work with those of other replicas.
type notices struct {
	watch   *watch.Watch
	senders []*webhook.Sender
	limiter *grpc.ClientConn
}

func openNotices(s service, js jetstream.JetStream, store *analytics.Store) (n notices, err error) {
	metrics := webhook.NewMetrics(s.metrics)
	kinds := map[string]string{"threshold": notice.KindThreshold, "anomaly": notice.KindAnomaly}
	for i, w := range s.cfg.Webhooks {
		at := webhook.Endpoint{URL: w.URL}
		if at.Secret, err = s.secret(w.KeyEnv, w.KeyFile); err != nil {
			return n, fmt.Errorf("webhooks[%d]: %w", i, err)
		}
		for _, event := range w.Events {
			at.Kinds = append(at.Kinds, kinds[event])
		}
		sender, err := webhook.New(webhook.Config{Endpoint: at, JetStream: js, Metrics: metrics, Log: s.log})
		if err != nil {
			return n, err
		}
		n.senders = append(n.senders, sender)
	}
	if s.index > 0 {
		return n, nil
	}
	if n.limiter, err = dialLimiter(s); err != nil {
		return n, err
	}
	n.watch, err = watch.New(watch.Config{Store: store, Limiter: limitpb.NewLimiterClient(n.limiter), JetStream: js,
		Rules: s.first.Sets()[0].Rules(), Metrics: s.metrics, Log: s.log})
	return n, err
}

// secret reads what stands in an environment variable, or in a file beside leaky.yaml.
func (s service) secret(env, file string) ([]byte, error) {
	secret := []byte(os.Getenv(env))
	if file != "" {
		var err error
		if secret, err = os.ReadFile(s.files.Beside(file)); err != nil {
			return nil, fmt.Errorf("read secret: %w", err)
		}
	}
	if secret = bytes.TrimSpace(secret); len(secret) == 0 {
		return nil, fmt.Errorf("the secret in %s%s is empty", env, file)
	}
	return secret, nil
}

// Run watches and sends until ctx ends.
func (n notices) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if n.watch != nil {
		g.Go(func() error { return n.watch.Run(ctx) })
	}
	for _, sender := range n.senders {
		g.Go(func() error { return sender.Run(ctx) })
	}
	return g.Wait()
}

func (n notices) close() {
	if n.limiter != nil {
		_ = n.limiter.Close()
	}
}
