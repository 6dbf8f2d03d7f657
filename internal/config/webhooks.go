package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Webhook is an address that notices are sent to: thresholds of pools and spend limits, and anomalies.
type Webhook struct {
	URL     string   `yaml:"url"`      // https://..., or http:// on this machine
	KeyEnv  string   `yaml:"key_env"`  // environment variable with the key that signs them
	KeyFile string   `yaml:"key_file"` // or the file that holds it, relative to leaky.yaml
	Events  []string `yaml:"events"`   // threshold, anomaly; default both
}

// WebhookEvents are what a webhook can be about.
func WebhookEvents() []string { return []string{"threshold", "anomaly"} }

// mostWebhooks bounds them: each has a consumer of its own.
const mostWebhooks = 20

func validateWebhooks(v *validator, all []Webhook) {
	between(v, "webhooks", len(all), 0, mostWebhooks)
	seen := map[string]bool{}
	for i, w := range all {
		key := fmt.Sprintf("webhooks[%d]", i)
		u, err := url.Parse(w.URL)
		switch {
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "":
			v.fail(key+".url", "write https://host[:port]/path")
		case u.Scheme == "http" && !Loopback(u.Hostname()):
			v.fail(key+".url", "%s is not on this machine: write https, notices name accounts", u.Hostname())
		case seen[w.URL]:
			v.fail(key+".url", "the same address stands there twice")
		}
		seen[w.URL] = true
		if (w.KeyEnv == "") == (w.KeyFile == "") {
			v.fail(key+".url", "key_env or key_file is needed beside it, and not both: receivers tell our notices by the signature")
		}
		if strings.ContainsAny(w.KeyEnv, "= \t\x00") {
			v.fail(key+".key_env", "%q is no name of an environment variable", w.KeyEnv)
		}
		for j, event := range w.Events {
			v.oneOf(fmt.Sprintf("%s.events[%d]", key, j), event, WebhookEvents()...)
			if slices.Contains(w.Events[:j], event) {
				v.fail(fmt.Sprintf("%s.events[%d]", key, j), "%s stands there twice", event)
			}
		}
	}
}
