package stack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/local/supervisor"
	"github.com/leaky-tokens/leaky-tokens/internal/mtls"
	"github.com/leaky-tokens/leaky-tokens/internal/redisconn"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// probeTimeout bounds one exchange of a probe.
const probeTimeout = 2 * time.Second

// probe tells whether a part serves; its caller sets the deadline.
type probe = func(context.Context) error

// httpReady wants status 200 and takes the reason from a readiness answer's JSON.
func httpReady(client *http.Client, url string) probe {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return shortNetError(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		if err != nil {
			return err
		}
		var told struct {
			Reason  string `json:"reason"`
			Warning string `json:"warning"`
		}
		readable := json.Unmarshal(body, &told) == nil
		switch {
		case resp.StatusCode == http.StatusOK && told.Warning != "":
			return supervisor.Warning(told.Warning)
		case resp.StatusCode == http.StatusOK:
			return nil
		case readable && told.Reason != "":
			return errors.New(told.Reason)
		}
		return fmt.Errorf("%s: %.80s", resp.Status, strings.TrimSpace(string(body)))
	}
}

// Probe tells whether Envoy or one of our services, on this machine, serves.
func (p *Plan) Probe(ctx context.Context, part string) error {
	if part == topology.Envoy {
		return p.envoy("").Ready(ctx)
	}
	e, ok := p.service(part)
	if !ok {
		return fmt.Errorf("%q is none of the services", part)
	}
	err := p.serviceReady(part, e.HTTP)(ctx)
	if _, good := errors.AsType[supervisor.Warning](err); good {
		return nil
	}
	return err
}

// serviceReady asks one of our services, with the supervisor's certificate where services
// want one.
func (p *Plan) serviceReady(part, address string) probe {
	name, _ := config.Instance(part)
	if !p.mutual(name) {
		return httpReady(p.client(), "http://"+address+"/readyz")
	}
	client := p.client()
	client.Transport = &http.Transport{DisableKeepAlives: true, TLSClientConfig: mtls.Client(p.dir, topology.Supervisor, name)}
	return httpReady(client, "https://"+address+"/readyz")
}

// mutual reports whether a service wants its callers' certificates.
func (p *Plan) mutual(service string) bool {
	part, _ := topology.Find(service)
	return p.cfg.TLS.Mutual() && part.Callers != nil
}

// shortNetError drops the URL from an error that is shown beside the part's address.
func shortNetError(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	return err
}

func tcpOpen(address string) probe {
	return func(ctx context.Context) error {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return shortNetError(err)
		}
		return conn.Close()
	}
}

func both(first, second probe) probe {
	return func(ctx context.Context) error {
		if err := first(ctx); err != nil {
			return err
		}
		return second(ctx)
	}
}

func postgresReady(url string) probe {
	return func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return shortNetError(err)
		}
		return errors.Join(conn.Ping(ctx), conn.Close(ctx))
	}
}

func redisReady(url string) probe {
	return func(ctx context.Context) error {
		client, _, err := redisconn.Dial(redisconn.Config{URL: url, DialTimeout: probeTimeout, Timeout: probeTimeout})
		if err != nil {
			return err
		}
		defer client.Close()
		if err := client.Ping(ctx).Err(); err != nil {
			return shortNetError(err)
		}
		return nil
	}
}

// natsReady wants a message stored in the stream of events, once that is there.
func natsReady(url string) probe {
	return func(ctx context.Context) error {
		conn, err := nats.Connect(url, nats.MaxReconnects(0), nats.Name("leaky-probe"))
		if err != nil {
			return err
		}
		defer conn.Close()
		js, err := jetstream.New(conn)
		if err != nil {
			return err
		}
		if _, err := js.AccountInfo(ctx); err != nil {
			return err
		}
		return usage.Probe(ctx, js)
	}
}
