package demo

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/leaky-tokens/leaky-tokens/client"
)

const (
	apiTimeout  = 30 * time.Second // of one request, an export among them
	apiAttempts = 5
)

// errDown says that nobody listens where a part should.
var errDown = errors.New("the stack is not up: start it with `leaky up`")

// speak is a client of one part: the gateway, or a stub, whose own pages take no harm from an order
// that comes twice.
func speak(over *http.Client, url string) (*client.Client, error) {
	return client.New(client.Config{Gateway: url, HTTP: &http.Client{Transport: over.Transport, Timeout: apiTimeout}, Attempts: apiAttempts,
		RepeatAll: true})
}

// unreached is an error for a person: where nobody listens, the stack may not have been started.
func unreached(err error) error {
	if errors.Is(err, client.ErrUnreachable) {
		return fmt.Errorf("%w; %w", err, errDown)
	}
	return err
}
