package extauthz

import (
	"context"
	"net/http"
	"strings"
	"testing"

	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
)

func TestDecodeReadsWhatProtobufReads(t *testing.T) {
	t.Parallel()
	for name, req := range map[string]*auth.CheckRequest{
		"empty": {},
		"typical": typical(map[string]string{"authorization": "Bearer x", "x-api-key": "a", "x-goog-api-key": "b"},
			attributes.ContextAudience, "tokensvc", attributes.ContextScope, "a b"),
		"empty ones": request("", map[string]string{"authorization": ""}, attributes.ContextRule, ""),
	} {
		wire, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		var got call
		if err := got.decode(string(wire)); err != nil || got != callOf(req) {
			t.Errorf("%s: want %+v, got %+v, %v", name, callOf(req), got, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	wire, err := proto.Marshal(typical(map[string]string{"authorization": "Bearer x"}))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	f.Add(append(wire, wire...)) // messages merge
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, wire []byte) {
		var req auth.CheckRequest
		if err := proto.Unmarshal(wire, &req); err != nil {
			_ = new(call).decode(string(wire)) // must not panic
			return
		}
		var got call
		if err := got.decode(string(wire)); err != nil || got != callOf(&req) {
			t.Fatalf("want %+v, got %+v, %v", callOf(&req), got, err)
		}
	})
}

func TestTheWireCarriesTheSameAnswers(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	client := dial(t, s.Serve)
	for name, req := range map[string]*auth.CheckRequest{
		"named":     typical(bearer(i.newKey(uuid.NewString(), nil, "USER"))),
		"service":   typical(bearer(i.newKey(uuid.NewString(), nil, "USER")), attributes.ContextAudience, "tokensvc"),
		"anonymous": typical(nil, attributes.ContextRule, attributes.RulePublic),
		"refused":   typical(nil),
		"huge":      typical(bearer(strings.Repeat("x", 100<<10))),
	} {
		want, err := s.Check(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := client.Check(t.Context(), req)
		if err != nil || got.GetDeniedResponse() == nil && !proto.Equal(got, want) ||
			got.GetDeniedResponse().GetStatus().GetCode() != want.GetDeniedResponse().GetStatus().GetCode() {
			t.Errorf("%s: want %v, got %v, %v", name, want, got, err)
		}
	}
	// Not UTF-8, as Envoy may pass on.
	resp, err := s.check(context.Background(), new(callOf(typical(map[string]string{"x-odd": "caf\xe9"}))))
	if err != nil {
		t.Fatal(err)
	}
	if message, err := resp.message(); err != nil || message.GetDeniedResponse().GetStatus().GetCode() != http.StatusUnauthorized {
		t.Errorf("non-UTF-8 header: want 401, got %v, %v", resp, err)
	}
	weird := callOf(request("/\xff\xfe?key=1", map[string]string{"x-request-id": "\xff"}))
	if resp, err := s.check(context.Background(), &weird); err != nil || len(resp.wire) == 0 {
		t.Errorf("non-UTF-8 path: %v, %v", resp, err)
	}
}
