package main

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/leaky-tokens/leaky-tokens/internal/httpapi"
	"github.com/leaky-tokens/leaky-tokens/stubs"
)

func serveStub(ctx context.Context, s service) error {
	flavour := stubs.Flavour(strings.TrimPrefix(s.name, "stub-"))
	address, ok := map[stubs.Flavour]string{stubs.OpenAI: s.cfg.Services.StubOpenAI.HTTP, stubs.Gemini: s.cfg.Services.StubGemini.HTTP,
		stubs.Qwen: s.cfg.Services.StubQwen.HTTP}[flavour]
	if !ok {
		return fmt.Errorf("serve %s: no such stub", s.name)
	}
	stub, err := stubs.New(stubs.Config{Flavour: flavour, Log: s.log, Metrics: s.metrics, Done: ctx.Done()})
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", s.name, err)
	}
	common := httpapi.Common{Name: s.name, Log: s.log, Metrics: s.registry, Info: s.info}
	return httpapi.Serve(ctx, ln, common.Wrap(stub.Handler()))
}
