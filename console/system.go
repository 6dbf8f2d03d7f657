package console

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"

	"github.com/leaky-tokens/leaky-tokens/client/api"
	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
)

// systemData is what an ADMIN sees of the platform.
type systemData struct {
	Config    *api.ConfigStatus
	Envoys    []envoyRow
	Services  []api.RegisteredService
	Pending   *int64
	Anomalies []api.Anomalies
	Threshold float64
	Parked    []api.Saga
}

// envoyRow is an Envoy with what it runs.
type envoyRow struct {
	api.EnvoyClient

	Current bool // it acknowledged all that is live
}

// system shows who runs what. What the control plane tells is for an ADMIN alone, and that somebody is
// one the control API says: the first call needs the role.
func (s *site) system(v *visit) error {
	ctx := v.r.Context()
	parked, err := v.api.ListSagasWithResponse(ctx, &api.ListSagasParams{Parked: new(true), Limit: new(int32(20))})
	if err != nil {
		return err
	}
	d := systemData{Threshold: 2}
	if parked.JSON200 != nil {
		d.Parked = parked.JSON200.Items
	}
	if given := v.r.URL.Query().Get("threshold"); given != "" {
		if d.Threshold, err = strconv.ParseFloat(given, 64); err != nil || d.Threshold < 1 || d.Threshold > 1000 {
			return &shown{status: http.StatusBadRequest, title: "Malformed", text: "threshold is a number from 1 to 1000."}
		}
	}
	sums, err := get[api.UsageGroups](ctx, v.api, "/api/v1/analytics/providers", nil)
	if err != nil {
		return err
	}
	d.Pending = sums.PendingEvents
	d.Anomalies, err = each(ctx, s.cfg.Providers, func(ctx context.Context, provider string) (api.Anomalies, error) {
		return get[api.Anomalies](ctx, v.api, "/api/v1/analytics/anomalies", url.Values{"provider": {provider},
			"thresholdMultiplier": {strconv.FormatFloat(d.Threshold, 'f', -1, 64)}})
	})
	if err != nil {
		return err
	}
	if s.cfg.XDS != nil {
		s.controlPlane(ctx, &d)
	}
	return s.show(v, "system", "/system", "System", d)
}

// controlPlane asks xds; a page without its answers is better than none.
func (s *site) controlPlane(ctx context.Context, d *systemData) {
	var config api.ConfigStatus
	var clients api.EnvoyClients
	var services api.RegisteredServices
	for _, ask := range []struct {
		path string
		out  any
	}{{"/v1/config", &config}, {"/v1/clients", &clients}, {"/v1/services", &services}} {
		if err := s.cfg.XDS.Get(ctx, ask.path, ask.out); err != nil {
			s.said.Warn(ctx, "control plane does not tell", err, slog.String("path", ask.path))
			return
		}
	}
	d.Config = &config
	if clients.Clients != nil {
		for _, c := range *clients.Clients {
			row := envoyRow{EnvoyClient: c, Current: len(c.Refused) == 0 && c.Unanswered == 0}
			for kind, version := range config.Versions {
				row.Current = row.Current && (c.Acknowledged[kind] == version || config.Resources[kind] == 0)
			}
			d.Envoys = append(d.Envoys, row)
		}
	}
	if services.Services != nil {
		d.Services = *services.Services
	}
}

// HTTPControlPlane asks xds over HTTP.
type HTTPControlPlane struct {
	Base   string // http(s)://host
	Client *http.Client
}

// Get decodes the answer for a path into out.
func (h HTTPControlPlane) Get(ctx context.Context, path string, out any) error {
	if err := httpapi.Get(ctx, h.Client, h.Base+path, out); err != nil {
		return fmt.Errorf("ask xds: %w", err)
	}
	return nil
}
