package difftest_test

import (
	"testing"

	"google.golang.org/protobuf/types/known/wrapperspb"
)

// TestRefundsCharge: a negative hits_addend gives back; upstream does not know the word
// and charges it once more.
func TestRefundsCharge(t *testing.T) {
	t.Parallel()
	back := one("wide")
	back.HitsAddend, back.IsNegativeHits = wrapperspb.UInt64(3), true
	newPair(t, two).steps(t,
		step{request(5, one("wide")), left("5"), left("5")},
		step{request(0, back), left("2"), left("8")},
		step{request(0, one("wide")), left("1"), left("7")})
}

// TestZeroHitsCheck: an addend of zero asks and takes nothing, at both.
func TestZeroHitsCheck(t *testing.T) {
	t.Parallel()
	check := one("narrow")
	check.HitsAddend = wrapperspb.UInt64(0)
	newPair(t, two).steps(t,
		step{request(0, check), left("2"), left("2")},
		step{request(0, one("narrow")), left("1"), left("1")},
		step{request(0, check), left("1"), left("1")})
}

// TestOwnHitsOfADescriptor: a descriptor's own addend goes before the request's.
func TestOwnHitsOfADescriptor(t *testing.T) {
	t.Parallel()
	own := one("wide")
	own.HitsAddend = wrapperspb.UInt64(7)
	newPair(t, two).steps(t,
		step{request(2, own, one("narrow")), left("0"), left("0")},
		step{request(1, one("wide")), left("2"), left("2")})
}
