package extauthz

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/grpc/codes"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/counted"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/errorbody"
)

// routeFailures is what the rule for failed authentication calls its route: a path
// "count: requests, route: failed-auth, remote_address" in the limits.
const routeFailures = "failed-auth"

const (
	maxWaiting   = 1024 // failures that wait to be counted; more are not counted
	countTimeout = time.Second
)

// guesses makes guessing credentials expensive: an address that failed too often gets no
// credential checked that is not remembered as good. Counting is off the way of requests,
// and what can't be counted is let be: a credential cannot be guessed, but each try costs
// identity a look-up.
type guesses struct {
	limiter counted.Limiter // nil: nobody counts
	waiting chan string
	barred  *lru.Cache[string, time.Time] // addresses, until when
	log     *slog.Logger
}

func newGuesses(limiter counted.Limiter, log *slog.Logger) *guesses {
	barred, err := lru.New[string, time.Time](cacheSize)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	return &guesses{limiter: limiter, waiting: make(chan string, maxWaiting), barred: barred, log: log}
}

// failed takes a failure down; it never blocks.
func (g *guesses) failed(address string) {
	if g.limiter == nil || address == "" {
		return
	}
	select {
	case g.waiting <- strings.Clone(address): // the request it came with is read in place
	default:
	}
}

// wait is how long the address has to wait, 0 when it need not.
func (g *guesses) wait(address string, now time.Time) time.Duration {
	until, ok := g.barred.Get(address)
	if !ok || !now.Before(until) {
		return 0
	}
	return until.Sub(now)
}

// run counts until ctx ends.
func (g *guesses) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case address := <-g.waiting:
			g.count(ctx, address)
		}
	}
}

func (g *guesses) count(ctx context.Context, address string) {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	wait, err := counted.Request(ctx, g.limiter, routeFailures, "remote_address", address)
	if err != nil {
		g.log.LogAttrs(ctx, slog.LevelDebug, "failed authentication is not counted", slog.Any("error", err))
		return
	}
	if wait > 0 {
		g.barred.Add(address, time.Now().Add(wait))
	}
}

// denyGuessing refuses an address that has to wait.
func denyGuessing(wait time.Duration) *denial {
	return &denial{status: http.StatusTooManyRequests, grpc: codes.ResourceExhausted, kind: errorbody.TypeRateLimit,
		code:    errorbody.CodeRateLimit,
		message: "too many invalid credentials came from this address", retry: int((wait + time.Second - 1) / time.Second)}
}
