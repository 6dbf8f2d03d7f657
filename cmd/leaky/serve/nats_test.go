package serve

import (
	"testing"
	"time"
)

func TestNATSSync(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{"": time.Second, "always": 0, "250ms": 250 * time.Millisecond, "2m": 2 * time.Minute} {
		if got, err := natsSync(text); err != nil || got != want {
			t.Errorf("%q: want %v, got %v, %v", text, want, got, err)
		}
	}
	for _, text := range []string{"0", "0s", "-1s", "never", "1"} {
		if _, err := natsSync(text); err == nil {
			t.Errorf("%q: want an error, got none", text)
		}
	}
}
