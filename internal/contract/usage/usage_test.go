package usage_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
)

func event() usage.Event {
	return usage.Event{RequestID: "6d5f9a53-5f0b-4d6e-9a43-0c1c3f1d2a10", UserID: "u1", OrgID: "o1", Team: "core", KeyID: "k1", Tier: "GOLD",
		Account: "org:o1",
		Route:   "openai-chat", Provider: "openai", ModelAsked: "gpt-4o", ModelServed: "gpt-4o-2024-08-06", Input: 12, Output: 80, Cached: 4,
		CacheWrite5m: 1, CacheWrite1h: 2, ToolInput: 3, Reasoning: 8, Audio: 5, AudioOutput: 6,
		EndUser: "customer-7", Session: "run 1", Tags: map[string]string{"project": "apollo", "feature": "chat, \"v2\""},
		PriceVersion: "2026-11-15.0a1b2c3d", CostMicros: 1234, Currency: "USD", Attempts: 2, Skipped: 9,
		Held: 300, Charged: 92, Source: usage.FromProvider, Pool: usage.PoolDrawn, Allowed: true, Stream: true, Status: 200, Reason: "none",
		LatencyMS: 812, FirstByteMS: 5,
		Timestamp: time.Date(2026, 11, 22, 11, 51, 54, 123e6, time.UTC)}
}

// reference is Encode by encoding/json.
func reference(t *testing.T, e usage.Event, source, correlation, trace string) string {
	t.Helper()
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(usage.Envelope{SpecVersion: "1.0", ID: e.RequestID, Source: source, Type: usage.TypeUsage,
		Time:            e.Timestamp.UTC(),
		DataContentType: "application/json", CorrelationID: correlation, TraceParent: trace, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestEncodeAsEncodingJSON(t *testing.T) {
	t.Parallel()
	bare := usage.Event{RequestID: "a", Provider: "openai", Timestamp: time.Unix(0, 0).UTC()}
	odd := event()
	odd.ModelAsked, odd.Reason, odd.UserID = "<b>&\"\\\n\u2028é", "\x7f\xff", "ünïcode"
	elsewhere := event()
	elsewhere.Timestamp = elsewhere.Timestamp.In(time.FixedZone("x", 3600))
	for name, e := range map[string]usage.Event{"full": event(), "bare": bare, "odd texts": odd, "another zone": elsewhere} {
		got, err := usage.Encode(e, "/meter", "c-1", "")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(reference(t, e, "/meter", "c-1", ""), string(got)); diff != "" {
			t.Errorf("%s differs (-want +got):\n%s", name, diff)
		}
	}
}

func TestDecodeWhatEncodeWrote(t *testing.T) {
	t.Parallel()
	text, err := usage.Encode(event(), "/meter", "", "00-a-b-01")
	if err != nil {
		t.Fatal(err)
	}
	got, err := usage.Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(event(), got); diff != "" {
		t.Errorf("event differs (-want +got):\n%s", diff)
	}
}

func TestDecodeTheFirstVersion(t *testing.T) {
	t.Parallel()
	const old = `{"specversion":"1.0","id":"r1","source":"/meter","type":"com.leaky-tokens.usage.v1","time":"2026-03-04T05:06:07Z",
		"data":{"requestId":"r1","userId":"u1","account":"user:u1","route":"openai-chat","provider":"openai","modelAsked":"gpt-4o",
		"inputTokens":12,"outputTokens":80,"cachedTokens":4,"reasoningTokens":8,"cacheWrittenTokens":2,"toolInputTokens":3,"audioInputTokens":5,
		"audioOutputTokens":6,"heldTokens":300,"tokens":92,"source":"provider","allowed":true,"stream":false,"status":200,"latencyMs":1,
		"firstByteMs":1,"timestamp":"2026-03-04T05:06:07Z"}}`
	got, err := usage.Decode([]byte(old))
	if err != nil {
		t.Fatal(err)
	}
	want := usage.Event{RequestID: "r1", UserID: "u1", Account: "user:u1", Route: "openai-chat", Provider: "openai", ModelAsked: "gpt-4o",
		Input: 12, Output: 80, Cached: 4, Reasoning: 8, CacheWrite5m: 2, ToolInput: 3, Audio: 5, AudioOutput: 6, Held: 300, Charged: 92,
		Source: usage.FromProvider, Allowed: true, Status: 200, LatencyMS: 1, FirstByteMS: 1, Timestamp: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("event differs (-want +got):\n%s", diff)
	}
}

func TestACorrectionHasAnIDOfItsOwn(t *testing.T) {
	t.Parallel()
	first, second := event(), event()
	second.Version = 2
	one, err := usage.MessageOf(first, "/meter", "", "")
	if err != nil {
		t.Fatal(err)
	}
	two, err := usage.MessageOf(second, "/meter", "", "")
	if err != nil {
		t.Fatal(err)
	}
	if one.ID != first.RequestID || two.ID != first.RequestID+"~2" {
		t.Errorf("want the request's id, and for the correction its version too, got %s and %s", one.ID, two.ID)
	}
	if got, err := usage.Decode(two.Data); err != nil || got.Version != 2 || got.RequestID != first.RequestID {
		t.Errorf("want the correction of the same request, got %+v, %v", got, err)
	}
}

func TestDecodeRefusesPoison(t *testing.T) {
	t.Parallel()
	good, err := usage.Encode(event(), "/meter", "", "")
	if err != nil {
		t.Fatal(err)
	}
	swap := func(from, to string) string {
		t.Helper()
		if !strings.Contains(string(good), from) {
			t.Fatalf("%s is not in the event", from)
		}
		return strings.Replace(string(good), from, to, 1)
	}
	for name, text := range map[string]string{
		"empty": "", "not JSON": "{", "another type": swap("usage.v2", "usage.v9"), "another spec": swap(`"1.0"`, `"0.3"`),
		"ids differ": swap(`"id":"6d`, `"id":"7d`), "provider with a dot": swap(`"provider":"openai"`, `"provider":"a.b"`),
		"no provider": swap(`"provider":"openai"`, `"provider":""`), "negative": swap(`"tokens":92`, `"tokens":-1`),
		"fraction": swap(`"tokens":92`, `"tokens":1.5`), "text for a number": swap(`"tokens":92`, `"tokens":"92"`),
		"no time": swap(`"timestamp":"2026-11-22T11:51:54.123Z"`, `"timestamp":"0001-01-01T00:00:00Z"`), "data a string": swap(`"data":{`,
			`"data":"","x":{`),
		"more than 2^53": swap(`"tokens":92`, `"tokens":9007199254740993`), "a negative cost": swap(`"costMicros":1234`, `"costMicros":-1`),
		"a negative version": swap(`"requestId":`, `"version":-1,"requestId":`), "another version than the id": swap(`"requestId":`, `"version":3,"requestId":`),
		"a tag's name with a separator": swap(`"project":`, `"project,x":`), "a tag with a control": swap(`"apollo"`, `"apo\nllo"`),
		"a tag without a value": swap(`"apollo"`, `""`), "a long session": swap(`"run 1"`, `"`+strings.Repeat("x", 129)+`"`),
		"nine tags":     swap(`"tags":{`, `"tags":{"a":"1","b":"1","c":"1","d":"1","e":"1","f":"1","g":"1",`),
		"a long reason": swap(`"reason":"none"`, `"reason":"`+strings.Repeat("x", 600)+`"`),
		"a megabyte":    swap(`"reason":"none"`, `"reason":"none","x":"`+strings.Repeat("x", 1<<20)+`"`),
	} {
		if _, err := usage.Decode([]byte(text)); !errors.Is(err, usage.ErrMalformed) {
			t.Errorf("%s: want %v, got %v", name, usage.ErrMalformed, err)
		}
	}
}

func TestEncodeRefusesAYearJSONCannotHold(t *testing.T) {
	t.Parallel()
	e := event()
	e.Timestamp = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	if text, err := usage.Encode(e, "/meter", "", ""); err == nil {
		t.Errorf("want an error, got %s", text)
	}
}

func FuzzDecode(f *testing.F) {
	good, err := usage.Encode(event(), "/meter", "c", "t")
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(good), "{}", `{"specversion":"1.0","type":"com.leaky-tokens.usage.v1","data":null}`, "[]"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		e, err := usage.Decode(message)
		if err != nil {
			if !errors.Is(err, usage.ErrMalformed) {
				t.Errorf("want %v, got %v", usage.ErrMalformed, err)
			}
			return
		}
		again, err := usage.Encode(e, "/fuzz", "", "")
		if err != nil {
			t.Fatal(err)
		}
		back, err := usage.Decode(again)
		if err != nil {
			t.Fatalf("decode %s: %v", again, err)
		}
		if diff := cmp.Diff(e, back); diff != "" {
			t.Errorf("event differs after a round trip (-want +got):\n%s", diff)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	e := event()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := usage.Encode(e, "/meter", "c-1", "t"); err != nil {
			b.Fatal(err)
		}
	}
}
