package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/client"
	"github.com/leaky-tokens/leaky-tokens/client/api"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
)

type explainCommand struct {
	What   []string `arg:"" help:"The x-request-id of the answer, as also in every error message; with --domain descriptors as key=value[,key=value...], several of which are one request."`
	Domain string   `help:"Ask what would be decided just now of a request of another Envoy, in this domain." placeholder:"DOMAIN"`
	Hits   uint32   `help:"Hits of each descriptor; 0 asks whether there is room." default:"1"`
	At     string   `help:"Base URL of the debugging port of a leaky ratelimit to ask, in place of the running stack." placeholder:"URL"`
	Output string   `short:"o" enum:"table,json" default:"table" help:"Format: ${enum}."`
}

// Help shows how it is used.
func (explainCommand) Help() string {
	return `Asks every process of ratelimit (services.ratelimit and its replicas) for what it remembers of its last decisions (limits.explain_last), with the level of each limit after the decision. Of an older call it tells what is left: its hold in Redis if it still runs, else its event in analytics, for which it logs in as the administrator.

With --domain it tells which rule each descriptor of another Envoy falls under, its level, and what would be decided. It takes nothing.

Examples:

    leaky explain 6f1c2b9e-0d4f-4a53-9c2e-3d0d1b8a7c55
    leaky explain 6f1c2b9e-0d4f-4a53-9c2e-3d0d1b8a7c55 -o json | jq .limits
    leaky explain --domain shop path=/checkout,user=ann plan=free
    leaky explain --domain shop --at http://127.0.0.1:6070 --hits 0 path=/checkout`
}

// Run prints what is known of the call; an error says that nothing is.
func (k explainCommand) Run(ctx context.Context, c *cli) error {
	switch {
	case k.Domain != "" || k.At != "":
		return k.explainOther(ctx, c)
	case len(k.What) > 1:
		return errors.New("one request id at a time; descriptors go with --domain")
	}
	l, err := openLocal(c)
	if err != nil {
		return err
	}
	e, err := explainCall(ctx, c, l, k.What[0])
	if err != nil {
		return err
	}
	if k.Output == "json" {
		return printJSON(os.Stdout, e)
	}
	return e.print(os.Stdout, time.Now())
}

// explainCall looks in the limiters' memory, then among the holds, then in analytics.
func explainCall(ctx context.Context, c *cli, l local, id string) (explained, error) {
	ctx, cancel := context.WithTimeout(ctx, limitersTimeout)
	defer cancel()
	e, silent, err := recall(ctx, l, id)
	if err != nil || e.Source != "" {
		return e, err
	}
	if holds, err := holdsOf(ctx, l, "", 10_000); err != nil {
		silent = errors.Join(silent, err)
	} else if i := slices.IndexFunc(holds.GetHolds(), func(h *limitpb.Held) bool { return h.GetFacts().GetRequestId() == id }); i >= 0 {
		e.fromHold(holds.GetHolds()[i], time.Now())
		return e, nil
	}
	event, err := eventOf(ctx, c, l, id)
	if err != nil {
		silent = errors.Join(silent, fmt.Errorf("analytics: %w", err))
	}
	if event != nil {
		e.fromEvent(event)
		return e, nil
	}
	unknown := fmt.Errorf("request %s is not known: no process of ratelimit remembers it (the last limits.explain_last = %d calls of each are kept), it holds nothing, and there is no event of it in analytics",
		id, l.cfg.Limits.Explain)
	if silent != nil {
		return e, fmt.Errorf("%w. Not all could be asked: %w", unknown, silent)
	}
	return e, fmt.Errorf("%w. Ids are those of x-request-id; calls of other routes than LLM routes and consume have no decision of their own", unknown)
}

// recall asks each process of ratelimit; silent tells of those that did not answer.
func recall(ctx context.Context, l local, id string) (e explained, silent, err error) {
	e.RequestID = id
	silent = l.eachLimiter(ctx, func(ctx context.Context, part string, limiter limitpb.LimiterClient) (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, limiterTimeout)
		defer cancel()
		r, failure := limiter.Explain(ctx, &limitpb.ExplainRequest{RequestId: id})
		if status.Code(failure) == codes.InvalidArgument {
			err = errors.New(status.Convert(failure).Message())
			return true, nil
		}
		if r.GetFound() {
			e.fromMemory(r, part)
		}
		return r.GetFound(), failure
	})
	return e, silent, err
}

// eventOf finds the usage event of a request; nil: there is none.
func eventOf(ctx context.Context, c *cli, l local, id string) (*api.UsageItem, error) {
	a, err := openAdmin(c)
	if err != nil {
		return nil, err
	}
	for _, provider := range slices.Sorted(maps.Keys(l.cfg.Providers)) {
		got, err := a.ListUsageWithResponse(ctx, &api.ListUsageParams{Provider: provider, RequestID: &id})
		if err != nil {
			return nil, told(err)
		}
		page, err := client.Answer(got.JSON200)
		if err != nil {
			return nil, err
		}
		if len(page.Items) > 0 {
			return &page.Items[0], nil
		}
	}
	return nil, nil
}
