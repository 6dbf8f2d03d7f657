package identity

import (
	_ "embed"
	"slices"
	"strings"
	"unicode/utf8"
)

// commonWords are what the most common passwords are made of, one a line, in lower case
// and sorted. Each stands for all that people do to it to please a policy: see common.
//
//go:embed common.txt
var commonWords string

// common says whether a password is among the first that anybody would try: a word of
// the list in any case, with letters written as digits or signs, with digits or signs
// before or behind, or twice; or a single character, a pair, or a run of the keyboard again and again.
func common(password string) bool {
	plain := strings.ToLower(password)
	words := strings.Split(strings.TrimSpace(commonWords), "\n")
	listed := func(s string) bool {
		_, ok := slices.BinarySearch(words, s)
		return ok
	}
	notLetter := func(c rune) bool { return c < utf8.RuneSelf && (c < 'a' || c > 'z') }
	if strings.Trim(plain, "0123456789") == "" && len(plain) < 16 {
		return true // dates, telephone numbers
	}
	for _, s := range []string{plain, leet().Replace(plain)} {
		core := strings.TrimFunc(s, notLetter)
		if listed(s) || listed(core) || repeated(s) || walked(s) || walked(core) && len(core) >= 4 {
			return true
		}
		if half := len(core) / 2; half > 2 && core[:half] == core[half:] && listed(core[:half]) {
			return true
		}
		// The signs of an end may be letters in disguise: "p@ssw0rd!" is "passwordi" to leet.
		if core = strings.TrimRightFunc(strings.TrimFunc(plain, notLetter), notLetter); listed(leet().Replace(core)) {
			return true
		}
	}
	return false
}

// leet writes letters for the digits and signs that stand for them.
func leet() *strings.Replacer {
	return strings.NewReplacer("0", "o", "1", "i", "3", "e", "4", "a", "5", "s", "7", "t", "8", "b", "@", "a", "$", "s", "!", "i")
}

// repeated says that a text is one to four characters again and again.
func repeated(s string) bool {
	for n := 1; n <= 4 && 2*n <= len(s); n++ {
		if strings.Repeat(s[:n], len(s)/n+1)[:len(s)] == s {
			return true
		}
	}
	return false
}

// walked says that a text is a run along the alphabet, the digits or a row of keys, either way.
func walked(s string) bool {
	for _, row := range []string{"01234567890123456789", "abcdefghijklmnopqrstuvwxyz", "qwertyuiopasdfghjklzxcvbnm",
		"qwertzuiopasdfghjklyxcvbnm", "azertyuiopqsdfghjklmwxcvbn", "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik9ol0p", "q1w2e3r4t5y6u7i8o9p0",
		"1q2w3e4r5t6y7u8i9o0p", "!@#$%^&*()_+"} {
		if strings.Contains(row, s) || strings.Contains(reversed(row), s) {
			return len(s) > 0
		}
	}
	return false
}

func reversed(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}
