package filelock

import (
	"errors"
	"path/filepath"
	"testing"
)

// TestOneHoldsAndSaysWho, until it lets go; who asks takes nothing.
func TestOneHoldsAndSaysWho(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	is := func(want string, wantHeld bool) {
		t.Helper()
		if text, held, err := Holder(path); text != want || held != wantHeld || err != nil {
			t.Errorf("want %q and held %t, got %q, %t, %v", want, wantHeld, text, held, err)
		}
	}
	is("", false)
	first, err := Take(path)
	if err != nil {
		t.Fatal(err)
	}
	is("", true)
	for _, text := range []string{"the first, with a long name", "first"} {
		if err := first.Say(text); err != nil {
			t.Fatal(err)
		}
		is(text, true)
	}
	if _, err := Take(path); !errors.Is(err, ErrHeld) {
		t.Errorf("want %v, got %v", ErrHeld, err)
	}
	is("first", true)
	first.Release()
	is("", false)
	second, err := Take(path)
	if err != nil {
		t.Fatal(err)
	}
	second.Release()
}
