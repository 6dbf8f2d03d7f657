package match

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/limits"
)

func TestDerive(t *testing.T) {
	t.Parallel()
	tokens := limits.PathKey{Key: "count", Value: "tokens"}
	paths := []limits.Path{
		{tokens, {Key: "user"}, {Key: "provider"}},
		{tokens, {Key: "route", Value: "consume"}, {Key: "user"}},
		{tokens, {Key: "route", Value: "openai-chat"}, {Key: "user"}}, // another route's
		{tokens, {Key: "org"}},                                        // they act for none
		{tokens, {Key: "remote_address"}},                             // not known here
		{{Key: "count", Value: "requests"}, {Key: "user"}},            // counted at the gateway
	}
	got := Derive(paths, &limitpb.Facts{User: "u1", Provider: "openai", Route: "consume", Tier: "USER"})
	want := []Descriptor{
		{{Key: "count", Value: "tokens"}, {Key: "user", Value: "u1"}, {Key: "provider", Value: "openai"}},
		{{Key: "count", Value: "tokens"}, {Key: "route", Value: "consume"}, {Key: "user", Value: "u1"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("descriptors (-want +got):\n%s", diff)
	}
}
