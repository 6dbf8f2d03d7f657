package dropin

import (
	"os"
	"syscall"
	"testing"
)

// TestWhatIsNoFileHoldsUpNoHandshake: while a pipe or a device stands in the place of the certificate or
// its key, handshakes go on with the pair of before.
func TestWhatIsNoFileHoldsUpNoHandshake(t *testing.T) {
	t.Parallel()
	for name, put := range map[string]func(path string) error{
		"a pipe":   func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a device": func(path string) error { return os.Symlink("/dev/zero", path) },
	} {
		for _, second := range []bool{false, true} {
			cert, key := certificate(t, "ratelimit.test")
			own := &keyPair{cert: cert, key: key}
			good, err := own.load(nil)
			if err != nil {
				t.Fatal(err)
			}
			path := cert
			if second {
				path = key
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := put(path); err != nil {
				t.Fatal(err)
			}
			if got, err := own.load(nil); err != nil || got != good {
				t.Errorf("%s as %s: want the pair of before, got %v", name, path, err)
			}
			if _, err := (&keyPair{cert: cert, key: key}).load(nil); err == nil {
				t.Errorf("%s as %s: want it told where there is no pair of before", name, path)
			}
			if _, err := roots(path); err == nil {
				t.Errorf("%s as roots: want it told", name)
			}
		}
	}
}
