package ratelimit

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
)

const (
	// learnedMargin is kept above what was seen.
	learnedMargin = 1.25
	// enoughLearned is how many requests a ratio must come from.
	enoughLearned = 1000

	maxRatios    = 2000
	maxMeters    = 64
	maxName      = 128
	learnedEvery = 10 * time.Second
	// learnedFor is how long a meter's report counts that does not report again.
	learnedFor = 7 * 24 * time.Hour
)

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
	if err := s.store.SetRatios(ctx, r.GetMeter(), report); err != nil {
		return nil, unavailable(err)
	}
	return &limitpb.ReportRatiosResponse{}, s.loadRatios(ctx)
}

// loadRatios reads what all meters told. Of one model the highest ratio counts.
func (s *Service) loadRatios(ctx context.Context) error {
	reports, err := s.store.Ratios(ctx)
	if err != nil {
		return unavailable(err)
	}
	all, meters := map[[2]string]float64{}, 0
	for meter, text := range reports {
		var r limitpb.ReportRatiosRequest
		old := len(text) < 8 || time.Since(time.UnixMicro(int64(binary.LittleEndian.Uint64([]byte(text[:8]))))) > learnedFor
		if meters++; old || meters > maxMeters || proto.Unmarshal([]byte(text[8:]), &r) != nil {
			if err := s.store.DeleteRatios(ctx, meter); err != nil {
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
	s.matching.Ratios.Replace(all)
	s.metrics.learned.Set(float64(len(all)))
	return nil
}

// ratiosLoop takes over what other replicas heard, and at first what was told before.
func (s *Service) ratiosLoop(ctx context.Context) {
	ticker := time.NewTicker(learnedEvery)
	defer ticker.Stop()
	for {
		if err := s.loadRatios(ctx); err != nil && ctx.Err() == nil {
			s.log.LogAttrs(ctx, slog.LevelDebug, "what inputs take is not read anew", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
