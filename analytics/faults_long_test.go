//go:build long

package analytics

import "testing"

func TestAMillionEventsSurvive(t *testing.T) {
	t.Parallel()
	survive(t, 1_000_000, 500, 60)
}
