package spool

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const traced = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

const whole = `{"id":"6d5f9a53-5f0b-4d6e-9a43-0c1c3f1d2a10","account":"user:u1","held":300,"held_in":"44","user":"u1","org":"-","team":"red","key":null,"tier":"GOLD",` +
	`"route":"openai-chat","provider":"openai","model":"gpt-4o","stream":"true","bytes":"174",` +
	`"answer":"events=82,after=0,bytes=27950,whole=1,in=12,out=80,total=92,model=gpt-4o,2024",` +
	`"status":200,"flags":"-","details":"via_upstream","up":"200","sent":28000,"wire":600,"recv":28400,"recv_h":"300","ms":812,"ttfb":5,"start":"2026-11-22T11:51:54.123Z",` +
	`"trace":"` + traced + `","corr":"c-1","later":true}`

func TestParse(t *testing.T) {
	t.Parallel()
	ptr := func(n int64) *int64 { return &n }
	held, heldIn := 300.0, 44.0
	want := Line{ID: "6d5f9a53-5f0b-4d6e-9a43-0c1c3f1d2a10", Account: "user:u1", Held: &held, HeldIn: &heldIn, User: "u1", Team: "red",
		Tier: "GOLD", Route: "openai-chat", Provider: "openai", Model: "gpt-4o", Stream: "true", Bytes: "174",
		Answer: Answer{Events: 82, Bytes: 27950, Whole: true, In: 12, Out: 80, Total: 92, Model: "gpt-4o,2024"},
		Status: 200, Flags: "-", Details: "via_upstream", Upstream: "200", BytesSent: 28000, WireSent: 600, WireRecv: 28400,
		HeaderRecv: 300, Millis: 812, FirstByte: ptr(5), Start: "2026-11-22T11:51:54.123Z", Trace: traced, Corr: "c-1"}
	got, err := Parse([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("line differs (-want +got):\n%s", diff)
	}
}

func TestParseIsLenientAndStrict(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		line string
		ok   bool
		look func(Line) bool
	}{
		"another status": {`{"id":"a","up":"503","recv_h":10,"answer":"status=401"}`, true, func(l Line) bool { return l.Upstream == "401" }},
		"no provider":    {`{"id":"a","up":"503","answer":"status=503"}`, true, func(l Line) bool { return l.Upstream == "-" }},
		"long trace":     {`{"id":"a","trace":"` + traced + `x"}`, true, func(l Line) bool { return l.Trace == "" }},
		"odd trace":      {`{"id":"a","trace":"00-` + strings.Repeat("Z", 32) + `-b7ad6b7169203331-01"}`, true, func(l Line) bool { return l.Trace == "" }},
		"true as a word": {`{"id":"a","stream":true}`, true, func(l Line) bool { return l.Stream == "true" }},
		"escapes":        {`{"id":"a","model":"x\"\u00e9"}`, true, func(l Line) bool { return l.Model == `x"é` }},
		"not UTF-8":      {"{\"id\":\"a\",\"model\":\"\xff\"}", true, func(l Line) bool { return l.Model == "\uFFFD" }},
		"spaces":         {` { "id" : "a" , "status" : 200 } `, true, func(l Line) bool { return l.Status == 200 }},
		"held as NaN":    {`{"id":"a","held":"NaN"}`, true, func(l Line) bool { return l.Held == nil }},
		"empty":          {``, false, nil},
		"no id":          {`{}`, false, nil},
		"an array":       {`[]`, false, nil},
		"half":           {whole[:200], false, nil},
		"two in one":     {whole + whole, false, nil},
		"nested":         {`{"id":"a","x":{}}`, false, nil},
		"nested array":   {`{"id":"a","x":[1]}`, false, nil},
		"control":        {"{\"id\":\"a\x00\"}", false, nil},
		"bare word":      {`{"id":a}`, false, nil},
		"no comma":       {`{"id":"a" "b":1}`, false, nil},
		"too long":       {`{"id":"` + strings.Repeat("a", MaxLine) + `"}`, false, nil},
	} {
		got, err := Parse([]byte(c.line))
		switch {
		case c.ok && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.ok && !c.look(got):
			t.Errorf("%s: got %+v", name, got)
		case !c.ok && !errors.Is(err, ErrMalformed):
			t.Errorf("%s: want %v, got %v, %+v", name, ErrMalformed, err, got)
		}
	}
}

// TestFormatNamesEveryField holds Format, Line and Parse together: a member that one of
// them lacks is lost on the way.
func TestFormatNamesEveryField(t *testing.T) {
	t.Parallel()
	text, err := json.Marshal(Line{})
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	want := slices.Sorted(maps.Keys(fields))
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(Format(Options{Running: true, Traced: true})))); diff != "" {
		t.Errorf("Format and Line differ (-line +format):\n%s", diff)
	}
	for name := range Format(Options{Running: true, Traced: true}) {
		value := map[string]string{"answer": "in=7", "trace": traced}[name]
		if value == "" {
			value = "7"
		}
		got, err := Parse([]byte(`{"id":"a","recv_h":1,"` + name + `":"` + value + `"}`))
		if err != nil || got == (Line{ID: "a", HeaderRecv: 1}) {
			t.Errorf("Parse drops %s (%v)", name, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{whole, `{"id":"a"}`, `{"id":"\u0041","held":1e300,"q":2}`, `{`, `{"id":"a","answer":"in=9223372036854775808,model=x"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		l, err := Parse(line)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("want %v, got %v", ErrMalformed, err)
			}
			return
		}
		for _, count := range []*int64{&l.Answer.In, &l.Answer.Total, &l.Answer.Bytes, l.FirstByte} {
			if count != nil && *count < 0 {
				t.Errorf("negative count in %+v", l)
			}
		}
		if !json.Valid(line) && json.Valid([]byte(strings.ToValidUTF8(string(line), "?"))) {
			t.Errorf("took %q, which is not JSON", line)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	line := []byte(whole)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(line); err != nil {
			b.Fatal(err)
		}
	}
}
