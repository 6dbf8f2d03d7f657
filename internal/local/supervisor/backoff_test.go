package supervisor

import (
	"slices"
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		ready []time.Duration // how long each run was ready
		want  []time.Duration
	}{
		{"doubles to the most", make([]time.Duration, 8), []time.Duration{200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond,
			1600 * time.Millisecond, 3200 * time.Millisecond, 6400 * time.Millisecond, 10 * time.Second, 10 * time.Second}},
		{"begins again after a healthy run", []time.Duration{0, 0, 30 * time.Second, 29 * time.Second},
			[]time.Duration{200 * time.Millisecond, 400 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var b restarts
			var got []time.Duration
			for _, ready := range tc.ready {
				got = append(got, b.next(ready))
			}
			if !slices.Equal(tc.want, got) {
				t.Errorf("want %v, got %v", tc.want, got)
			}
		})
	}
}
