package main

import (
	"fmt"
	"os"
	"strings"
)

// maxVariable is the most bytes of a file that stands for a variable.
const maxVariable = 64 << 10

// readFiles sets each variable NAME for which there is a LEAKY_..._FILE, as container platforms
// mount secrets: LEAKY_REDIS_URL_FILE=/run/secrets/redis_url. A variable that is set already wins.
func readFiles() error {
	for _, pair := range os.Environ() {
		variable, path, _ := strings.Cut(pair, "=")
		name, is := strings.CutSuffix(variable, "_FILE")
		if !is || path == "" || !strings.HasPrefix(name, "LEAKY_") || os.Getenv(name) != "" {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("%s: %w", variable, err)
		}
		if len(text) > maxVariable {
			return fmt.Errorf("%s: %s has %d bytes, and a secret has at most %d", variable, path, len(text), maxVariable)
		}
		if err := os.Setenv(name, strings.TrimRight(string(text), "\r\n")); err != nil {
			return fmt.Errorf("%s: %w", variable, err)
		}
	}
	return nil
}
