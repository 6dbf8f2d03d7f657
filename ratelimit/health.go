package ratelimit

import (
	"net/http"

	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// HealthName is the service that Envoys' health checks ask about, as at envoyproxy/ratelimit.
const HealthName = "ratelimit"

// newHealth is what grpc.health.v1 and /healthcheck tell. It says "serving" until the service
// is told to stop. An outage of Redis does not change it: calls are decided then too, as their
// route's outage mode says, and an Envoy that takes ratelimit for dead would let everything
// pass.
func newHealth() *health.Server {
	s := health.NewServer()
	s.SetServingStatus(HealthName, healthpb.HealthCheckResponse_SERVING)
	return s
}

// SetServing changes what health checks are told, for who has conditions of their own.
func (s *Service) SetServing(serving bool) {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
	s.health.SetServingStatus(HealthName, status)
}

// ServeHealth answers probes by HTTP: 200 "OK", or 500.
func (s *Service) ServeHealth(w http.ResponseWriter, r *http.Request) {
	answer, err := s.health.Check(r.Context(), &healthpb.HealthCheckRequest{Service: HealthName})
	if err != nil || answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		http.Error(w, "not serving", http.StatusInternalServerError)
		return
	}
	_, _ = w.Write([]byte("OK"))
}
