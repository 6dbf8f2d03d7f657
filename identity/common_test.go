package identity

import (
	"slices"
	"strings"
	"testing"
)

func TestCommonPasswords(t *testing.T) {
	t.Parallel()
	for _, p := range []string{"password", "Password1", "P@ssw0rd!", "PASSWORD123", "passw0rd", "p4$$w0rd2024", "12345678", "123456789",
		"11111111", "qwertyuiop", "Qwerty123!",
		"1q2w3e4r", "1qaz2wsx", "abcd1234", "iloveyou", "!!Sunshine99", "monkey123", "dragon2020", "football1", "letmein!", "Welcome1",
		"trustno1", "asdfghjkl", "asdfasdf",
		"passwordpassword", "abababab", "aaaaaaaaaaaa", "20240131", "starwars7", "changeme1", "Summer2026!"} {
		if !common(p) {
			t.Errorf("%q is not found common", p)
		}
	}
	for _, p := range []string{"correct horse", "battery staple", "correct horse 9", "kG7-pR2x-vQ9m", "monkey business at noon",
		"пароль которого нет", "Dunkelgrüne Wiese", "4f9a1c77e2b0d5386", "hunter of the lost tokens",
		"90817263540918273645"} {
		if common(p) {
			t.Errorf("%q is found common", p)
		}
	}
}

func TestTheListIsSorted(t *testing.T) {
	t.Parallel()
	words := strings.Split(strings.TrimSpace(commonWords), "\n")
	if !slices.IsSorted(words) || len(words) < 900 || len(slices.Compact(words)) != len(words) {
		t.Fatalf("want a sorted list without repeats, got %d words", len(words))
	}
}

func FuzzCommon(f *testing.F) {
	f.Add("P@ssw0rd!")
	f.Add("")
	f.Add("\xff\x00ä")
	f.Fuzz(func(t *testing.T, s string) {
		if common(s) != common(strings.ToUpper(s)) && strings.EqualFold(strings.ToUpper(s), s) {
			t.Fatalf("the case of %q matters", s)
		}
	})
}
