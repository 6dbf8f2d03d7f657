package config_test

import (
	"strings"
	"testing"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
)

func TestKubernetesIsRead(t *testing.T) {
	t.Parallel()
	const vllm = "providers: {vllm: {protocol: openai, url: 'http://vllm.models:8000'}}\n"
	const mutual = "tls: {mode: mutual}\nservices: {ratelimit: {grpc: '127.0.0.1:9085'}, xds: {grpc: '127.0.0.1:9086'}}\n"
	kubernetes := func(text string) string { return "discovery: {kubernetes: {" + text + "}}\n" }
	for name, c := range map[string]struct{ text, want string }{
		"a provider":           {vllm + kubernetes("providers: {vllm: 'models/vllm:http'}"), ""},
		"by number":            {vllm + kubernetes("providers: {vllm: 'models/vllm:8000'}"), ""},
		"no such provider":     {kubernetes("providers: {vllm: 'models/vllm:http'}"), "discovery.kubernetes.providers.vllm: there is no such provider"},
		"no namespace":         {vllm + kubernetes("providers: {vllm: 'vllm:http'}"), "write NAMESPACE/NAME:PORT"},
		"no port":              {vllm + kubernetes("providers: {vllm: 'models/vllm'}"), "write NAMESPACE/NAME:PORT"},
		"another path":         {vllm + kubernetes("providers: {vllm: 'models/../pods:http'}"), "write NAMESPACE/NAME:PORT"},
		"a map":                {vllm + kubernetes("providers: {vllm: {name: vllm}}"), "a text is expected here"},
		"a relative file":      {kubernetes("kubeconfig: admin.conf"), "write an absolute path"},
		"a service":            {mutual + kubernetes("services: {ratelimit: 'limits/ratelimit:grpc'}"), ""},
		"a service, unproven":  {kubernetes("services: {ratelimit: 'limits/ratelimit:grpc'}"), "set tls.mode: mutual"},
		"a service on sockets": {"tls: {mode: mutual}\n" + kubernetes("services: {ratelimit: 'limits/ratelimit:grpc'}"), "services.ratelimit is at unix:"},
		"no service of ours":   {mutual + kubernetes("services: {meter: 'limits/meter:http'}"), "it may be "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Parse([]byte(c.text))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("want %q, got %v", c.want, err)
			}
		})
	}
}
