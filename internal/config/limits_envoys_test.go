package config

import (
	"strings"
	"testing"
)

func TestWhereOtherEnvoysAsk(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, mistake string }{
		"a port":                         {"limits: {envoys: {listen: 127.0.0.1:8087}}", ""},
		"a socket":                       {"limits: {envoys: {listen: unix:run/others.sock}}", ""},
		"with certificates":              {"{tls: {mode: mutual}, limits: {envoys: {listen: 0.0.0.0:8086, names: [shop, edge-2]}}}", ""},
		"no port number":                 {"limits: {envoys: {listen: localhost}}", "limits.envoys.listen"},
		"a port that is taken":           {"limits: {envoys: {listen: 127.0.0.1:8084}}", "taken by limits.envoys.listen"},
		"nobody has a certificate":       {"{tls: {mode: mutual}, limits: {envoys: {listen: 127.0.0.1:8086}}}", "limits.envoys.names"},
		"a name that is no file":         {"limits: {envoys: {listen: 127.0.0.1:8086, names: [../x]}}", "limits.envoys.names.0"},
		"a name twice":                   {"limits: {envoys: {listen: 127.0.0.1:8086, names: [a, a]}}", "limits.envoys.names.1"},
		"names of those who cannot call": {"limits: {envoys: {names: [a]}}", "limits.envoys.names"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte(tc.text))
			if tc.mistake == "" && err != nil || tc.mistake != "" && (err == nil || !strings.Contains(err.Error(), tc.mistake)) {
				t.Errorf("want %q, got %v", tc.mistake, err)
			}
		})
	}
}
