//go:build long

package xds_test

import "testing"

// TestManyPushesUnderLoadLoseNothing prints its counts: -v shows them.
func TestManyPushesUnderLoadLoseNothing(t *testing.T) {
	pushUnderLoad(t, storm{pushes: 200, calls: 50_000, streams: 500, clients: 24, longest: 90})
}
