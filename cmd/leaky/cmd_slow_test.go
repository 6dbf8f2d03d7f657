package main

import (
	"strings"
	"testing"
)

// TestCausesOfSlowness: what is above its objective is named, the root before what follows from it.
func TestCausesOfSlowness(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		found slowness
		want  []string // the beginning of each cause
	}{
		"nothing": {slowness{Upstreams: []timing{{Name: "provider-openai", P95: 0.9, Share: 0.99}, {Name: "ratelimit", P95: 0.09}},
			Stores: map[string]float64{"redis": 0.2}, Endpoints: []timing{{Name: "identity POST /login", P95: 0.3}}}, nil},
		"a provider":              {slowness{Upstreams: []timing{{Name: "provider-openai", P95: 3, Share: 0.9}}}, []string{"provider-openai takes 3s"}},
		"a provider among others": {slowness{Upstreams: []timing{{Name: "provider-openai", P95: 3, Share: 0.3}}}, nil},
		"a provider that fails":   {slowness{Upstreams: []timing{{Name: "provider-openai", Failed: 4}}}, []string{"4 calls of provider-openai failed"}},
		"redis, and what waits for it": {slowness{Stores: map[string]float64{"redis": 1.2}, Upstreams: []timing{{Name: "ratelimit", P95: 1.3}}},
			[]string{"redis took 1.2s for a ping", "ratelimit takes 1.3s"}},
		"a lock":       {slowness{Endpoints: []timing{{Name: "tokensvc GET /quota", P95: 2}}}, []string{"tokensvc GET /quota takes 2s"}},
		"who hangs":    {slowness{Down: []string{"ratelimit-2"}, Upstreams: []timing{{Name: "ratelimit", P95: 0.01, Failed: 3}}}, []string{"ratelimit-2 does", "ratelimit takes"}},
		"its own ping": {slowness{Endpoints: []timing{{Name: "identity GET /actuator/health", P95: 2}}}, nil},
	} {
		got := c.found.causes()
		if len(got) != len(c.want) {
			t.Errorf("%s: want %d causes, got %q", name, len(c.want), got)
			continue
		}
		for i, want := range c.want {
			if !strings.HasPrefix(got[i], want) {
				t.Errorf("%s: want %q, got %q", name, want, got[i])
			}
		}
	}
}

func TestLasting(t *testing.T) {
	t.Parallel()
	for seconds, want := range map[float64]string{0: "-", -1: "-", 1.23456: "1.23s", 0.012345: "12.3ms", 0.000318123: "318µs", 75: "1m15s"} {
		if got := lasting(seconds); got != want {
			t.Errorf("%v: want %s, got %s", seconds, want, got)
		}
	}
}

func TestSlowRefusesWhatItCannotAsk(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{"--for 1s": "--for 1s: it must be 30s to 24h", "--at http://127.0.0.1:1": "is the stack up"} {
		_, errs, ok := leaky(t, stateDir(t), nil, append([]string{"slow"}, strings.Fields(args)...)...)
		if ok || !strings.Contains(errs, want) {
			t.Errorf("%s: want %q, got %q", args, want, errs)
		}
	}
}
