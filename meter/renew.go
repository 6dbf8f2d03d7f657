package meter

import (
	"context"
	"fmt"
	"time"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
)

const renewTimeout = 2 * time.Second

// renew lets the holds of requests that go on live on. It is tried once: their next lines
// ask again, long before the holds are due.
func (m *Meter) renew(ctx context.Context) {
	if len(m.renewals) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	answer, err := m.cfg.Limiter.Renew(ctx, &limitpb.RenewRequest{Renewals: m.renewals})
	m.renewals = nil
	if err != nil {
		m.metrics.retries.WithLabelValues("renew").Inc()
		m.said.Warn(ctx, "holds of long calls are not renewed", fmt.Errorf("renew: %w", err))
		return
	}
	m.metrics.renewed.Add(float64(answer.GetRenewed()))
}
