package retry_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

var errAway = errors.New("away")

func TestPausesDoubleToTheMost(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		policy retry.Policy
		want   []time.Duration // in ms
	}{
		{"doubling", retry.Policy{First: 100, Most: 3000}, []time.Duration{100, 200, 400, 800, 1600, 3000, 3000}},
		{"a most that is no double", retry.Policy{First: 200, Most: 10000}, []time.Duration{200, 400, 800, 1600, 3200, 6400, 10000, 10000}},
		{"always the same", retry.Policy{First: 250}, []time.Duration{250, 250, 250}},
		{"a first above the most", retry.Policy{First: 50, Most: 10}, []time.Duration{50, 50}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := retry.Policy{First: tc.policy.First * time.Millisecond, Most: tc.policy.Most * time.Millisecond}
			pauses := p.Pauses()
			for i, want := range tc.want {
				want *= time.Millisecond
				if got := pauses.NextBackOff(); got != want {
					t.Errorf("pause %d: want %v, got %v", i, want, got)
				}
				if got := p.After(i); got != want {
					t.Errorf("after %d failures: want %v, got %v", i, want, got)
				}
			}
			if got := p.After(1000); got != max(p.First, p.Most) {
				t.Errorf("after 1000 failures: want the most, got %v", got)
			}
		})
	}
}

func TestSpreadPausesStayBetweenHalfAndWhole(t *testing.T) {
	t.Parallel()
	p := retry.Policy{First: 100 * time.Millisecond, Most: 3 * time.Second, Spread: true}
	for before, whole := range []time.Duration{100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond,
		1600 * time.Millisecond, 3 * time.Second, 3 * time.Second} {
		drawn := map[time.Duration]bool{}
		for range 200 {
			got := p.After(before)
			if drawn[got] = true; got < whole/2 || got > whole+1 {
				t.Fatalf("after %d failures: want %v to %v, got %v", before, whole/2, whole, got)
			}
		}
		if len(drawn) < 10 {
			t.Errorf("after %d failures: want pauses that differ, got %d of 200", before, len(drawn))
		}
	}
}

func TestDo(t *testing.T) {
	t.Parallel()
	p := retry.Policy{First: 100 * time.Millisecond, Most: time.Second}
	for _, tc := range []struct {
		name    string
		answers []error // of each call; the last one is repeated
		within  time.Duration
		took    time.Duration
		want    []error // that the error is, none for success
		not     error
	}{
		{name: "at once", answers: []error{nil}},
		{name: "the third time", answers: []error{errAway, errAway, nil}, took: 300 * time.Millisecond},
		{name: "never, with a reason", answers: []error{errAway, retry.Permanent(errAway)}, took: 100 * time.Millisecond, want: []error{errAway}},
		{name: "until the end of the context", answers: []error{errAway}, within: time.Second, took: time.Second,
			want: []error{errAway, context.DeadlineExceeded}},
		{name: "after the end of the context", answers: []error{errAway}, within: -1, want: []error{context.DeadlineExceeded}, not: errAway},
		{name: "for longer than a quarter of an hour", answers: slices.Repeat([]error{errAway}, 2000), within: 30 * time.Minute,
			took: 30 * time.Minute, want: []error{errAway}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if tc.within != 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tc.within)
					defer cancel()
				}
				calls, heard, begun := 0, 0, time.Now()
				err := p.Do(ctx, func(context.Context) error {
					calls++
					return tc.answers[min(calls, len(tc.answers))-1]
				}, func(before int, err error) {
					if before != heard || !errors.Is(err, errAway) {
						t.Errorf("heard %v after %d failures, want %d", err, before, heard)
					}
					heard++
				})
				if took := time.Since(begun); took != tc.took {
					t.Errorf("want it to take %v, took %v", tc.took, took)
				}
				if (err == nil) != (len(tc.want) == 0) || tc.not != nil && errors.Is(err, tc.not) {
					t.Errorf("want %v, got %v", tc.want, err)
				}
				for _, want := range tc.want {
					if !errors.Is(err, want) {
						t.Errorf("want %v in %v", want, err)
					}
				}
			})
		})
	}
}

func TestForeverSaysWhatWaitsInFewLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		calls := 0
		retry.Policy{First: time.Second}.Forever(t.Context(), retry.NewTroubles(plain(&out)), "open store", func(context.Context) error {
			if calls++; calls > 21 {
				return nil
			}
			return errAway
		}, retry.Waiting(func() int64 { return 5 }))
		want := `level=WARN msg="open store failed, trying again" error=away times=1 waiting=5
level=WARN msg="open store failed, trying again" error=away times=10 waiting=5
level=WARN msg="open store failed, trying again" error=away times=10 waiting=5
level=INFO msg="open store goes on" lasted=21s times=21
`
		if out.String() != want {
			t.Errorf("want\n%s, got\n%s", want, out.String())
		}
	})
}
