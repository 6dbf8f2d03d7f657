package meter

import (
	"context"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// Renew notes what was renewed.
func (l *limiter) Renew(_ context.Context, in *limitpb.RenewRequest) (*limitpb.RenewResponse, error) {
	if l.down.Load() {
		return nil, status.Error(codes.Unavailable, "down")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range in.GetRenewals() {
		l.renewed = append(l.renewed, r.GetAccount()+" "+r.GetRequestId())
	}
	return &limitpb.RenewResponse{Renewed: int64(len(in.GetRenewals()))}, nil
}

// TestSignsOfLifeRenew and settle, charge and publish nothing; the end of the request does.
func TestSignsOfLifeRenew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.start(nil)
	sign := strings.Replace(spoolLine("long", 10), `"flags"`, `"type":"DownstreamPeriodic","flags"`, 1)
	write(t, r.spool, sign+strings.Replace(sign, `"account":"user:u1"`, `"account":"-"`, 1)+sign)
	renewed := func() []string {
		r.limiter.mu.Lock()
		defer r.limiter.mu.Unlock()
		return slices.Clone(r.limiter.renewed)
	}
	testenv.Eventually(t, "renewals", func() bool { return len(renewed()) >= 2 })
	if got := renewed(); !slices.Equal(got, []string{"user:u1 long", "user:u1 long"}) {
		t.Errorf("want the request's hold renewed twice, got %v", got)
	}
	r.limiter.mu.Lock()
	if len(r.limiter.charged) != 0 {
		t.Errorf("want nothing settled, got %v", r.limiter.charged)
	}
	r.limiter.mu.Unlock()
	write(t, r.spool, strings.Replace(spoolLine("long", 10), `"flags"`, `"type":"DownstreamEnd","flags"`, 1))
	if e := r.events(1)["long"]; e.Charged != 22 {
		t.Errorf("want its end charged, got %+v", e)
	}
}
