package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/leaky-tokens/leaky-tokens/deploy"
	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/local/binaries"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// monitored reports whether a monitor is started: it is not off, and its program is here.
func (p *Plan) monitored(name string) bool {
	_, on := p.cfg.Monitoring.At(name)
	return on && !p.lacking[name]
}

// Without leaves parts out whose programs are not on this machine.
func (p *Plan) Without(names ...string) {
	for _, name := range names {
		p.lacking[name] = true
	}
}

// prometheus scrapes every part and evaluates the alerts. It sees certificates of the supervisor,
// whom all services let in for their health and metrics.
func (p *Plan) prometheus(bin string) supervisor.Part {
	address, _ := p.cfg.Monitoring.At(topology.Prometheus)
	dir, every := p.path(topology.Prometheus), p.cfg.Monitoring.Every
	assets := filepath.Join(filepath.Dir(bin), "share", "prometheus", "web")
	return supervisor.Part{Name: topology.Prometheus, Address: address, Path: filepath.Join(bin, "prometheus"), Env: p.baseEnv(), Dir: dir,
		User: p.user, Prepare: func(context.Context) error { return p.preparePrometheus(dir) },
		Args: []string{"--config.file=" + filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path=" + filepath.Join(dir, "data"),
			"--storage.tsdb.retention.time=" + p.cfg.Monitoring.Retention.String(), "--web.listen-address=" + address,
			"--web.local-assets=" + assets, "--rules.alert.resend-delay=" + min(time.Minute, 4*every).String()},
		Ready: httpReady(p.client(), httpURL(address)+"/-/ready"), StopSignal: syscall.SIGTERM}
}

// alertmanager groups alerts and posts them to monitoring.webhook.
func (p *Plan) alertmanager(bin string) supervisor.Part {
	address, _ := p.cfg.Monitoring.At(topology.Alertmanager)
	dir := p.path(topology.Alertmanager)
	path, args := binaries.AlertmanagerCommand(bin, "--config.file="+filepath.Join(dir, "alertmanager.yml"),
		"--storage.path="+filepath.Join(dir, "data"), "--web.listen-address="+address, "--cluster.listen-address=") // one needs no gossip
	return supervisor.Part{Name: topology.Alertmanager, Address: address, Path: path, Args: args, Env: p.baseEnv(), Dir: dir, User: p.user,
		Prepare: func(context.Context) error { return p.prepareAlertmanager(dir) },
		Ready:   httpReady(p.client(), httpURL(address)+"/-/ready")}
}

// target is where one job of Prometheus scrapes.
type target struct {
	Targets []string          `yaml:"targets"`
	Labels  map[string]string `yaml:"labels"`
}

// job is one part, with its replicas.
type job struct {
	Name        string         `yaml:"job_name"`
	Path        string         `yaml:"metrics_path,omitempty"`
	Scheme      string         `yaml:"scheme,omitempty"`
	TLS         map[string]any `yaml:"tls_config,omitempty"`
	HonorLabels bool           `yaml:"honor_labels"` // application is the part's own word
	Static      []target       `yaml:"static_configs"`
}

// jobs are Envoy, every service and stub that is started, and the monitors themselves.
func (p *Plan) jobs() ([]job, error) {
	at, err := netaddr.Parse(p.cfg.Envoy.Metrics)
	if err != nil {
		return nil, fmt.Errorf("envoy.metrics: %w", err)
	}
	all := []job{{Name: topology.Gateway, Path: "/stats/prometheus", HonorLabels: true, Static: []target{scraped(topology.Gateway,
		topology.Envoy, dialable(at.String()))}}}
	byName := map[string]int{}
	for _, name := range p.names() {
		service, _ := config.Instance(name)
		address, ok := "", false
		if e, found := p.service(name); found {
			address, ok = e.HTTP, true
		} else if part, _ := topology.Find(name); part.Kind == topology.Monitor {
			address, ok = p.cfg.Monitoring.At(name)
		}
		if !ok || !p.included(name) {
			continue
		}
		i, known := byName[service]
		if !known {
			i = len(all)
			byName[service] = i
			one := job{Name: service, HonorLabels: true}
			if p.mutual(service) {
				pem := mtls.CertificateFile(p.dir, topology.Supervisor)
				// Certificates name parts and no hosts; what answers on this machine's port gets no secret.
				one.Scheme, one.TLS = "https", map[string]any{"cert_file": pem, "key_file": pem, "insecure_skip_verify": true}
			}
			all = append(all, one)
		}
		all[i].Static = append(all[i].Static, scraped(service, name, dialable(address)))
	}
	return all, nil
}

func scraped(application, part, address string) target {
	return target{Targets: []string{address}, Labels: map[string]string{"application": application, "part": part}}
}

func (p *Plan) preparePrometheus(dir string) error {
	jobs, err := p.jobs()
	if err != nil {
		return err
	}
	every := p.cfg.Monitoring.Every.String()
	settings := map[string]any{"global": map[string]string{"scrape_interval": every, "evaluation_interval": every, "scrape_timeout": every},
		"rule_files": []string{filepath.Join(dir, "alerts.yml")}, "scrape_configs": jobs}
	if p.monitored(topology.Alertmanager) {
		address, _ := p.cfg.Monitoring.At(topology.Alertmanager)
		settings["alerting"] = map[string]any{"alertmanagers": []any{map[string]any{"static_configs": []any{
			map[string]any{"targets": []string{dialable(address)}}}}}}
	}
	text, err := yaml.Marshal(settings)
	if err != nil {
		return fmt.Errorf("encode prometheus settings: %w", err)
	}
	return p.monitorFiles(dir, map[string][]byte{"prometheus.yml": text, "alerts.yml": deploy.Alerts})
}

// prepareAlertmanager writes the predecessor's grouping, with a receiver that is real.
func (p *Plan) prepareAlertmanager(dir string) error {
	receiver := map[string]any{"name": "webhook"}
	if url := p.cfg.Monitoring.Webhook; url != "" {
		receiver["webhook_configs"] = []any{map[string]any{"url": url, "send_resolved": true}}
	}
	wait := min(10*time.Second, p.cfg.Monitoring.Every)
	text, err := yaml.Marshal(map[string]any{"global": map[string]string{"resolve_timeout": "5m"},
		"route": map[string]any{"receiver": "webhook", "group_by": []string{"alertname"}, "group_wait": wait.String(),
			"group_interval": "5m", "repeat_interval": "3h"}, "receivers": []any{receiver}})
	if err != nil {
		return fmt.Errorf("encode alertmanager settings: %w", err)
	}
	return p.monitorFiles(dir, map[string][]byte{"alertmanager.yml": text})
}

// monitorFiles makes a monitor's folder with its settings, for the user of the parts: a webhook's
// URL may hold a secret.
func (p *Plan) monitorFiles(dir string, files map[string][]byte) error {
	if err := errors.Join(os.MkdirAll(dir, 0o700), give(dir, p.user)); err != nil {
		return fmt.Errorf("make folder of a monitor: %w", err)
	}
	for name, text := range files {
		if err := hand(filepath.Join(dir, name), text, p.user); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}

// Page is one that a person opens.
type Page struct{ Name, URL, What string }

// Pages are all that there are to look at.
func (p *Plan) Pages() []Page {
	console := p.Gateway()
	if e, ok := p.service(topology.Console); ok && !p.mutual(topology.Console) {
		console = httpURL(e.HTTP)
	}
	pages := []Page{
		{topology.Console, console + config.ConsolePath + "/", "requests, usage, keys, limits, balance"},
		{"gateway", p.Gateway() + "/swagger-ui/index.html", "the API, to try out"},
	}
	if e, ok := p.service(topology.XDS); ok && !p.mutual(topology.XDS) {
		pages = append(pages, Page{"clients", httpURL(e.HTTP) + "/v1/clients", "each Envoy with what it runs"})
	}
	for _, page := range []Page{{topology.Prometheus, "/classic/alerts", "alerts with their state, and queries"},
		{"targets", "/classic/targets", "who is scraped"}, {topology.Alertmanager, "/api/v2/alerts", "the alerts that fire"}} {
		part := page.Name
		if part == "targets" {
			part = topology.Prometheus
		}
		if address, _ := p.cfg.Monitoring.At(part); p.monitored(part) {
			pages = append(pages, Page{page.Name, httpURL(address) + page.URL, page.What})
		}
	}
	return pages
}
