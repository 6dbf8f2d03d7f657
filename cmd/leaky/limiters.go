package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/cmd/leaky/serve"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

const (
	// limitersTimeout bounds what a command asks of ratelimit.
	limitersTimeout = 30 * time.Second
	// limiterTimeout bounds a short question to one process.
	limiterTimeout = 3 * time.Second
)

// errNoLimiter says that no process of ratelimit answered.
var errNoLimiter = errors.New("no process of ratelimit answers; is the stack up (leaky up, leaky ps)?")

// peers is how the command line calls services.
func (l local) peers() serve.Peers {
	return serve.Peers{Mutual: l.cfg.TLS.Mutual(), Dir: l.dir, Part: topology.Supervisor}
}

// eachLimiter asks every process of ratelimit in turn until one says that it is enough,
// and then gives its error. Else the error tells of those that did not answer.
func (l local) eachLimiter(ctx context.Context, ask func(ctx context.Context, part string, limiter limitpb.LimiterClient) (enough bool,
	err error)) error {
	var errs []error
	for i, at := range l.cfg.Services.RateLimit.All() {
		part := config.PartName(topology.RateLimit, i)
		conn, err := l.peers().DialLimiter(at.GRPC)
		if err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
		enough, err := ask(ctx, part, limitpb.NewLimiterClient(conn))
		conn.Close()
		if enough {
			return err
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", part, err))
		}
	}
	return errors.Join(errs...)
}

// someLimiter asks until one process answers.
func (l local) someLimiter(ctx context.Context, ask func(context.Context, limitpb.LimiterClient) error) error {
	err := l.eachLimiter(ctx, func(ctx context.Context, _ string, limiter limitpb.LimiterClient) (bool, error) {
		err := ask(ctx, limiter)
		if status.Code(err) == codes.InvalidArgument { // the next one would say the same
			return true, errors.New(status.Convert(err).Message())
		}
		return err == nil, err
	})
	if status.Code(err) == codes.Unavailable {
		return fmt.Errorf("%w: %w", errNoLimiter, err)
	}
	return err
}
