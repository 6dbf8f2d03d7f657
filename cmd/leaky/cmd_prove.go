package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/internal/local/smoketest"
)

type proveCommand struct {
	output
	Gateway  string        `arg:"" env:"LEAKY_GATEWAY_URL" help:"URL of the gateway, such as http://localhost:8080."`
	Model    string        `placeholder:"NAME" help:"Chat model to call; without one only the gateway's health is asked, which costs nothing."`
	Provider string        `placeholder:"NAME" default:"openai" help:"Who serves the model."`
	Wait     time.Duration `default:"1m" help:"How long all of it may take."`
}

// Help shows how it is used.
func (proveCommand) Help() string {
	return `Registers an account with a random name, makes a key, makes one call of the model, waits until its tokens are on the books, and compares them with what the provider told. The key is revoked afterwards. It needs auth.registration open, and the provider is paid for the call.

Examples:

    leaky prove http://localhost:8080 --model gpt-4o
    leaky prove http://leaky-tokens -o json`
}

// Run makes the call.
func (p proveCommand) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.Wait)
	defer cancel()
	if p.Model == "" {
		return p.health(ctx)
	}
	r, err := smoketest.Run(ctx, smoketest.Config{Gateway: p.Gateway, Model: p.Model, Provider: p.Provider})
	if err != nil {
		return fmt.Errorf("proof failed: %w", err)
	}
	page := struct {
		Gateway string `json:"gateway"`
		Model   string `json:"model"`
		Told    int64  `json:"tokensTold"`
		Metered int64  `json:"tokensMetered"`
		Delay   int64  `json:"delayMillis"`
	}{p.Gateway, p.Model, r.Told, r.Metered, r.Delay.Milliseconds()}
	return p.print(os.Stdout, page, []string{"MODEL", "TOKENS TOLD", "TOKENS METERED", "ON THE BOOKS AFTER"},
		[][]string{{p.Model, fmt.Sprint(r.Told), fmt.Sprint(r.Metered), r.Delay.Round(time.Millisecond).String()}})
}

// health asks what anybody may ask.
func (p proveCommand) health(ctx context.Context) error {
	gateway, err := client.New(client.Config{Gateway: p.Gateway})
	if err != nil {
		return err
	}
	if err := gateway.Call(ctx, http.MethodGet, "/actuator/health", nil, nil); err != nil {
		return fmt.Errorf("ask the gateway's health: %w", err)
	}
	return p.print(os.Stdout, map[string]string{"gateway": p.Gateway, "status": "UP"}, []string{"GATEWAY", "STATUS"},
		[][]string{{p.Gateway, "UP"}})
}
