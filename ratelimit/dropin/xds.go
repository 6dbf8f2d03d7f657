package dropin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/envoyproxy/go-control-plane/pkg/client/sotw/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	rlsconf "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
)

// defaultMessage is the largest configuration taken from an xDS server, in bytes.
const defaultMessage = 64 << 20

// againPause is the pause before the same rules are refused again; new ones come as much later.
const againPause = 500 * time.Millisecond

// watchXDS gives the rules that the xDS server sends to take, until ctx ends. Rules that make
// no sense are refused there (NACK) and the last ones stay; so they do while it is away.
func (x *XDSSettings) watchXDS(ctx context.Context, how limits.Reading, log *slog.Logger, take func([]*limits.Set, error)) error {
	conn, err := x.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	node, headers, err := x.node()
	if err != nil {
		return err
	}
	ctx = metadata.NewOutgoingContext(ctx, metadata.New(headers))
	pause := retry.Policy{First: 100 * time.Millisecond, Most: max(x.Retry, 100*time.Millisecond), Spread: true}
	for ctx.Err() == nil {
		_ = pause.Do(ctx, func(ctx context.Context) error {
			began := time.Now()
			err := stream(ctx, conn, node, how, take)
			if time.Since(began) > pause.Most { // it was up: begin with short pauses again
				return nil
			}
			return err
		}, func(before int, err error) {
			if before%10 == 0 {
				log.LogAttrs(ctx, slog.LevelWarn, "the xDS server does not answer, the last rules stay", slog.String("server", x.URL), slog.Any("error", err))
			}
		})
	}
	return nil
}

// stream follows one stream of the server until it ends.
func stream(ctx context.Context, conn grpc.ClientConnInterface, node *core.Node, how limits.Reading,
	take func([]*limits.Set, error)) error {
	ctx, cancel := context.WithCancel(ctx) // ends the stream when this returns
	defer cancel()
	client := sotw.NewADSClient(ctx, node, resource.RateLimitConfigType)
	if err := client.InitConnect(conn); err != nil {
		return err
	}
	var refused []*anypb.Any
	for {
		answer, err := client.Fetch()
		if err != nil {
			return err
		}
		// A server may send the same resources in another order each time.
		slices.SortFunc(answer.Resources, func(a, b *anypb.Any) int { return bytes.Compare(a.GetValue(), b.GetValue()) })
		if refused != nil && slices.EqualFunc(answer.Resources, refused, func(a, b *anypb.Any) bool { return proto.Equal(a, b) }) {
			// go-control-plane sends what was refused again, at once and for ever.
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(againPause):
			}
			if err := client.Nack("refused before"); err != nil {
				return err
			}
			continue
		}
		sets, err := setsOf(answer.Resources, how)
		take(sets, err)
		if refused = nil; err != nil {
			refused = answer.Resources
			err = client.Nack(err.Error())
		} else {
			err = client.Ack()
		}
		if err != nil {
			return err
		}
	}
}

// setsOf are the rules of RateLimitConfig resources. Each is read as the file that says the
// same, so that whatever is refused there is refused here in the same words.
func setsOf(resources []*anypb.Any, how limits.Reading) ([]*limits.Set, error) {
	texts := make([]limits.Text, len(resources))
	for i, one := range resources {
		var config rlsconf.RateLimitConfig
		if err := one.UnmarshalTo(&config); err != nil {
			return nil, fmt.Errorf("resource %d: %w", i, err)
		}
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", " ") // a line for each member, so that a mistake's line names one
		if err := encoder.Encode(map[string]any{"domain": config.GetDomain(), "descriptors": descriptors(config.GetDescriptors())}); err != nil {
			return nil, fmt.Errorf("resource %q: %w", config.GetName(), err)
		}
		texts[i] = limits.Text{Name: "xds:" + config.GetName(), YAML: text.Bytes()}
	}
	return limits.ParseDomains(texts, how)
}

// descriptors are the descriptors of a resource in the file's words.
func descriptors(all []*rlsconf.RateLimitDescriptor) []map[string]any {
	out := make([]map[string]any, len(all))
	for i, d := range all {
		one := map[string]any{"key": d.GetKey(), "shadow_mode": d.GetShadowMode(), "detailed_metric": d.GetDetailedMetric(),
			"quota_mode": d.GetQuotaMode(), "descriptors": descriptors(d.GetDescriptors())}
		if d.GetValue() != "" {
			one["value"] = d.GetValue()
		}
		if p := d.GetRateLimit(); p != nil {
			one["rate_limit"] = policy(p)
		}
		if m := d.GetMetadata(); m != nil {
			one["metadata"] = m.AsMap()
		}
		out[i] = one
	}
	return out
}

func policy(p *rlsconf.RateLimitPolicy) map[string]any {
	replaces := []map[string]any{}
	for _, r := range p.GetReplaces() {
		replaces = append(replaces, map[string]any{"name": r.GetName()})
	}
	one := map[string]any{"name": p.GetName(), "replaces": replaces}
	if p.GetUnlimited() {
		one["unlimited"] = true
		return one
	}
	one["unit"], one["requests_per_unit"] = p.GetUnit().String(), p.GetRequestsPerUnit()
	return one
}

// dial makes the connection; it is opened when it is used.
func (x *XDSSettings) dial() (*grpc.ClientConn, error) {
	security := insecure.NewCredentials()
	if x.TLS {
		c, err := clientTLS(x.Cert, x.Key, x.CA, x.SAN, false)
		if err != nil {
			return nil, fmt.Errorf("CONFIG_GRPC_XDS_SERVER_USE_TLS: %w", err)
		}
		security = credentials.NewTLS(c)
	}
	most := x.MaxMessage
	if most <= 0 {
		most = defaultMessage
	}
	conn, err := grpc.NewClient(x.URL, grpc.WithTransportCredentials(security), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(most)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 5 * time.Minute, Timeout: 20 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2,
			MaxDelay: max(x.Retry, 100*time.Millisecond)}, MinConnectTimeout: 5 * time.Second}))
	if err != nil {
		return nil, fmt.Errorf("CONFIG_GRPC_XDS_SERVER_URL: %w", err)
	}
	return conn, nil
}

// node is who we are there, and what goes with our calls.
func (x *XDSSettings) node() (*core.Node, map[string]string, error) {
	about, err := pairs("CONFIG_GRPC_XDS_NODE_METADATA", x.NodeMetadata, "=")
	headers, headersErr := pairs("CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS", x.Headers, ":")
	if err := errors.Join(err, headersErr); err != nil {
		return nil, nil, err
	}
	fields := map[string]*structpb.Value{}
	for key, value := range about {
		fields[key] = structpb.NewStringValue(value)
	}
	return &core.Node{Id: x.NodeID, Metadata: &structpb.Struct{Fields: fields}}, headers, nil
}
