package serve

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/stubs"
	"github.com/leaky-tokens/leaky-tokens/stubs/payment"
)

func serveStub(ctx context.Context, s service) error {
	flavour := stubs.Flavour(strings.TrimPrefix(s.name, "stub-"))
	address, ok := map[stubs.Flavour]string{stubs.OpenAI: s.cfg.Services.StubOpenAI.HTTP, stubs.Gemini: s.cfg.Services.StubGemini.HTTP,
		stubs.Qwen: s.cfg.Services.StubQwen.HTTP}[flavour]
	if !ok {
		return fmt.Errorf("serve %s: no such stub", s.name)
	}
	list, err := s.prices()
	if err != nil {
		return err
	}
	stub, err := stubs.New(stubs.Config{Flavour: flavour, Prices: list, Log: s.log, Metrics: s.metrics, Done: ctx.Done()})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", s.name, err)
	}
	common := s.common(nil)
	return httpapi.Serve(ctx, ln, common.Wrap(stub.Handler()))
}

// serveStubPayment runs the stub of a payment provider. It keeps its book in memory: what it
// was told is forgotten when it ends.
func serveStubPayment(ctx context.Context, s service) error {
	key := ""
	if name := s.cfg.Purchases.Payment.APIKeyEnv; name != "" {
		key = os.Getenv(name)
	}
	stub, err := payment.New(payment.Config{Log: s.log, Metrics: s.metrics, APIKey: key, Done: ctx.Done()})
	if err != nil {
		return err
	}
	ln, err := s.listen("services.stub_payment.http", s.cfg.Services.StubPayment.HTTP)
	if err != nil {
		return err
	}
	return httpapi.Serve(ctx, ln, s.common(nil).Wrap(stub.Handler()))
}
