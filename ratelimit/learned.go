package ratelimit

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
)

const (
	// learnedMargin is kept above what was seen, and leastLearned is the share of
	// tokens_per_byte that is held whatever was seen: so nobody can teach holds down to
	// nothing, and an input never takes more than 1/leastLearned of what is held for it.
	learnedMargin = 1.25
	leastLearned  = 0.25
	// enoughLearned is how many requests a ratio must come from.
	enoughLearned = 1000

	maxRatios    = 2000
	maxMeters    = 64
	maxName      = 128
	learnedEvery = 10 * time.Second
	// learnedFor is how long a meter's report counts that does not report again.
	learnedFor = 7 * 24 * time.Hour
)

// inputs are the tokens per byte that were learned, margin included, by provider and
// model; an empty model stands for all of the provider's.
type inputs struct {
	now atomic.Pointer[map[[2]string]float64]
}

// bound is the most tokens that so many bytes of a body may be, of which most was
// promised per byte.
func (l *inputs) bound(provider, model string, bytes int64, most float64) int64 {
	all := l.now.Load()
	if all == nil {
		return math.MaxInt64
	}
	ratio, ok := (*all)[[2]string{provider, model}]
	if !ok {
		if ratio, ok = (*all)[[2]string{provider, ""}]; !ok {
			return math.MaxInt64
		}
	}
	return int64(math.Ceil(float64(bytes) * max(ratio, most*leastLearned)))
}

// ReportRatios is leaky.limit.v1.Limiter's.
func (s *Service) ReportRatios(ctx context.Context, r *limitpb.ReportRatiosRequest) (*limitpb.ReportRatiosResponse, error) {
	if m := r.GetMeter(); m == "" || len(m) > maxName || len(r.GetRatios()) > maxRatios {
		return nil, status.Errorf(codes.InvalidArgument, "a report has the name of its meter, up to %d bytes, and at most %d ratios", maxName,
			maxRatios)
	}
	for i, one := range r.GetRatios() {
		if v := one.GetTokensPerByte(); !(v > 0) || math.IsInf(v, 0) || len(one.GetModel()) > maxName || !providerName(one.GetProvider()) {
			return nil, status.Errorf(codes.InvalidArgument, "ratio %d, %v of %q at %q, makes no sense", i, v, one.GetModel(), one.GetProvider())
		}
	}
	report, err := proto.MarshalOptions{}.MarshalAppend(binary.LittleEndian.AppendUint64(nil, uint64(time.Now().UnixMicro())), r)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.store.SetLearned(ctx, r.GetMeter(), report); err != nil {
		return nil, unavailable(err)
	}
	return &limitpb.ReportRatiosResponse{}, s.takeLearned(ctx)
}

// takeLearned reads what all meters told. Of one model the highest ratio counts.
func (s *Service) takeLearned(ctx context.Context) error {
	reports, err := s.store.Learned(ctx)
	if err != nil {
		return unavailable(err)
	}
	all, meters := map[[2]string]float64{}, 0
	for meter, text := range reports {
		var r limitpb.ReportRatiosRequest
		old := len(text) < 8 || time.Since(time.UnixMicro(int64(binary.LittleEndian.Uint64([]byte(text[:8]))))) > learnedFor
		if meters++; old || meters > maxMeters || proto.Unmarshal([]byte(text[8:]), &r) != nil {
			if err := s.store.Unlearn(ctx, meter); err != nil {
				return unavailable(err)
			}
			continue
		}
		for _, one := range r.GetRatios() {
			if key := [2]string{one.GetProvider(), one.GetModel()}; one.GetSamples() >= enoughLearned && len(all) < maxRatios {
				all[key] = max(all[key], min(1, one.GetTokensPerByte()*learnedMargin))
			}
		}
	}
	s.inputs.now.Store(&all)
	s.metrics.learned.Set(float64(len(all)))
	return nil
}

// learnLoop takes over what other replicas heard, and at first what was told before.
func (s *Service) learnLoop(ctx context.Context) {
	ticker := time.NewTicker(learnedEvery)
	defer ticker.Stop()
	for {
		if err := s.takeLearned(ctx); err != nil && ctx.Err() == nil {
			s.log.LogAttrs(ctx, slog.LevelDebug, "what inputs take is not read anew", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
