package xds

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/settings"
)

// maxKey is the longest key of a provider, in bytes.
const maxKey = 16 << 10

// keys are the providers' own keys. What was read once is used on while its place has none: a file
// is away for a moment when it is replaced.
type keys struct {
	getenv func(string) string

	mu   sync.Mutex
	last map[string]string // by where it was read
}

// read gives a provider's key as it is now; configPath is that of leaky.yaml. Without keys it is a
// placeholder. Errors name the place, never what is there.
func (k *keys) read(configPath, name string, p config.ProviderKey) (string, error) {
	if k == nil {
		return "not shown", nil
	}
	place := "env:" + p.APIKeyEnv
	var key string
	var err error
	if p.APIKeyEnv != "" {
		if key = k.getenv(p.APIKeyEnv); strings.TrimSpace(key) == "" {
			err = fmt.Errorf("the environment variable %s is not set", p.APIKeyEnv)
		}
	} else {
		place = keyFile(configPath, name, p.APIKeyFile)
		key, err = readKey(place)
	}
	key = strings.TrimSpace(key)
	if err == nil && strings.IndexFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0 {
		err = fmt.Errorf("%s holds more than one word of printable ASCII", strings.TrimPrefix(place, "env:"))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if before, ok := k.last[place]; err != nil && ok {
		return before, nil
	}
	if err == nil {
		k.last[place] = key
	}
	return key, err
}

func readKey(path string) (string, error) {
	text, err := config.ReadAtMost(path, maxKey)
	switch {
	case err != nil:
		return "", fmt.Errorf("read its key: %w", err)
	case strings.TrimSpace(string(text)) == "":
		return "", errors.New("read its key: " + path + " is empty")
	}
	return string(text), nil
}

// keyFile is the file with a provider's key: the one that is named, or that of the provider's name
// in the folder that is named.
func keyFile(configPath, name, file string) string {
	if !filepath.IsAbs(file) && configPath != "" {
		file = filepath.Join(filepath.Dir(configPath), file)
	}
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		return filepath.Join(file, name)
	}
	return file
}

// keyFiles are all files with keys of a configuration.
func keyFiles(set *settings.Settings) []string {
	if set == nil {
		return nil
	}
	var files []string
	for _, name := range slices.Sorted(maps.Keys(set.Config.Providers)) {
		for _, k := range set.Config.Providers[name].AllKeys() {
			if k.APIKeyFile != "" {
				files = append(files, keyFile(set.Path(), name, k.APIKeyFile))
			}
		}
	}
	return files
}
