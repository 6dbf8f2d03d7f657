package analytics

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func TestOnlyEnoughWeeksJudge(t *testing.T) {
	t.Parallel()
	r := DefaultRobust()
	steady := []int64{10_000, 10_200, 9_900, 10_100, 9_800, 10_000, 10_100, 9_900}
	for name, tc := range map[string]struct {
		value  int64
		before []int64
		want   bool
		up     bool
	}{
		"as always":                 {10_050, steady, false, false},
		"three times as much":       {30_000, steady, true, true},
		"nothing at all":            {0, steady, true, false},
		"one week was wild":         {10_050, []int64{10_000, 90_000, 9_900, 10_100, 9_800, 10_000, 10_100, 9_900}, false, false},
		"wild after a wild week":    {30_000, []int64{10_000, 90_000, 9_900, 10_100, 9_800, 10_000, 10_100, 9_900}, true, true},
		"three weeks are too few":   {30_000, []int64{10_000, 10_000, 10_000, 0, 0, 0, 0, 0}, false, false},
		"four weeks":                {30_000, []int64{10_000, 10_000, 10_000, 10_000, 0, 0, 0, 0}, true, true},
		"never seen":                {30_000, make([]int64, 8), false, false},
		"a handful more of nothing": {900, []int64{0, 0, 0, 0, 0, 0, 0, 1}, false, false},
		"much of nothing":           {50_000, []int64{0, 0, 0, 0, 0, 0, 0, 1}, true, true},
		"the same to the token":     {10_500, []int64{10_000, 10_000, 10_000, 10_000}, false, false},
	} {
		a, got := r.judge(tc.value, tc.before)
		if got != tc.want || got && (a.Score > 0) != tc.up || math.IsNaN(a.Score) || math.IsInf(a.Score, 0) {
			t.Errorf("%s: want %t, got %t, %+v", name, tc.want, got, a)
		}
	}
}

// TestPlantedAnomaliesAreFound generates nine weeks of an hour of accounts that differ in size and in
// how steady they are, plants spikes, drops and noise, and prints how many are found.
func TestPlantedAnomaliesAreFound(t *testing.T) {
	t.Parallel()
	const accounts, spikes, drops, weeks = 120, 12, 8, 8
	seed := rand.Uint64()
	rng, store := rand.New(rand.NewPCG(seed, 5)), openStore(t, testenv.ClickHouse(t))
	hour := time.Now().UTC().Truncate(time.Hour).Add(-2 * time.Hour)
	planted := map[string]bool{}
	var events []usage.Event
	for n := range accounts {
		user := fmt.Sprintf("%08d-0000-4000-8000-000000000000", n)
		size, noise := 5000*math.Exp(2*rng.Float64()), 0.02+0.1*rng.Float64()
		for w := range weeks + 1 {
			tokens := size * (1 + noise*rng.NormFloat64())
			switch {
			case w == 0 && n < spikes:
				tokens, planted["user:"+user] = size*(2.5+2*rng.Float64()), true
			case w == 0 && n < spikes+drops:
				tokens, planted["user:"+user] = size*0.1*rng.Float64(), true
			case w > 0 && rng.IntN(20) == 0: // an earlier anomaly, which must not hide or make one
				tokens *= 5
			}
			at := hour.AddDate(0, 0, -7*w)
			for part := range 3 {
				e := event(fmt.Sprintf("%d-%d-%d", n, w, part), user, "openai", at.Add(time.Duration(part)*time.Minute), max(1, int64(tokens/3)))
				events = append(events, e)
			}
			other := event(fmt.Sprintf("%d-%d-other", n, w), user, "openai", at.Add(3*time.Hour), int64(20*size)) // another hour of the week
			events = append(events, other)
		}
	}
	insert(t, store, events...)
	rolled(t, store)
	found, err := store.Unusual(t.Context(), DefaultRobust(), hour.Add(17*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	right, wrong := 0, 0
	for _, a := range found {
		switch {
		case a.Dimension == "account" && planted[a.Name]:
			right++
		case a.Dimension == "account":
			wrong++
		}
		if !a.Hour.Equal(hour) || a.Support < 4 {
			t.Errorf("want the hour and enough weeks, got %+v", a)
		}
	}
	precision, recall := float64(right)/float64(max(1, right+wrong)), float64(right)/float64(len(planted))
	t.Logf("seed %d: %d accounts, %d planted: precision %.2f, recall %.2f", seed, accounts, len(planted), precision, recall)
	if precision < 0.9 || recall < 0.9 {
		t.Errorf("seed %d: want precision and recall of 0.9 at least, got %.2f and %.2f of %+v", seed, precision, recall, found)
	}
}
