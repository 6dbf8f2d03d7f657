package meter

import (
	"context"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/spool"
)

// input is a line of a call with so many input tokens in so many bytes.
func input(tokens, bytes int64) *spool.Line {
	l := held(func(l *spool.Line) { l.Answer.In, l.Bytes = tokens, strconv.FormatInt(bytes, 10) })
	return &l
}

func TestInputRatioIsAnUpperPercentile(t *testing.T) {
	t.Parallel()
	e, rng := NewEstimator(nil), rand.New(rand.NewPCG(3, 4))
	for i := range 20_000 {
		bytes := 500 + rng.Int64N(5000)
		share := 0.2 + 0.1*rng.Float64()
		if i%5000 == 0 {
			share = 0.9 // one in five thousand is below what the percentile leaves out
		}
		e.learn(input(int64(share*float64(bytes)), bytes))
		if i == enoughSamples/2 && len(e.told()) != 0 {
			t.Error("told too early")
		}
	}
	path := filepath.Join(t.TempDir(), "estimates")
	if err := e.Save(path); err != nil {
		t.Fatal(err)
	}
	again := NewEstimator(nil)
	if err := again.Load(path); err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]*Estimator{"learned": e, "after a restart": again} {
		all := e.told()
		if len(all) != 2 || all[0].GetModel() != "" || all[1].GetModel() != "gpt-4o" || all[1].GetSamples() != 20_000 {
			t.Fatalf("%s: want the provider and its model, got %v", name, all)
		}
		for _, r := range all {
			if got := r.GetTokensPerByte(); got < 0.298 || got > 0.31 {
				t.Errorf("%s: want the upper end of what was seen, 0.3, got %v", name, got)
			}
		}
	}
}

func TestInputRatiosForgetAndStayInRange(t *testing.T) {
	t.Parallel()
	r := &ratios{}
	for range mostSamples {
		r.add(1000, 1000)
	}
	for range 12 * mostSamples {
		r.add(250, 1000)
	}
	if got, ok := r.upper(); !ok || got < 0.25 || got > 0.256 || r.total > mostSamples {
		t.Errorf("want the old ones forgotten, got %v of %d", got, r.total)
	}
	odd := &ratios{}
	for range enoughSamples {
		odd.add(1<<31, 1) // more tokens than bytes: nobody's tokenizer
		odd.add(1, 1<<31)
	}
	if got, ok := odd.upper(); !ok || got != 1 {
		t.Errorf("want the ceiling, got %v", got)
	}
	damaged := &ratios{}
	damaged.fill(map[int]uint32{-1: 5, 9999: 5, 3: 1 << 31, 4: 7})
	if damaged.total != 7 {
		t.Errorf("want only what can be, got %d", damaged.total)
	}
}

// listener hears what the meter tells.
type listener struct {
	Limiter
	heard []*limitpb.ReportRatiosRequest
}

func (l *listener) ReportRatios(_ context.Context, in *limitpb.ReportRatiosRequest, _ ...grpc.CallOption) (*limitpb.ReportRatiosResponse, error) {
	l.heard = append(l.heard, in)
	return &limitpb.ReportRatiosResponse{}, nil
}

func TestMeterTellsNowAndThen(t *testing.T) {
	t.Parallel()
	l := &listener{}
	m, err := New(Config{Spool: "unused", Limiter: l, Publisher: &stuck{}, Name: "edge-1"})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	m.tell(t.Context(), now)
	for range enoughSamples {
		m.estimator.learn(input(100, 400))
	}
	for _, after := range []time.Duration{time.Second, tellEvery, tellEvery + time.Second, 2 * tellEvery} {
		m.tell(t.Context(), now.Add(after))
	}
	if len(l.heard) != 2 || l.heard[0].GetMeter() != "edge-1" || len(l.heard[0].GetRatios()) != 2 {
		t.Errorf("want two reports, got %v", l.heard)
	}
}
