package httpapi

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

type thing struct {
	Name   *string `json:"name"`
	Tokens int64   `json:"tokens"`
}

func read(content, body string) (thing, error) {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	if content != "" {
		r.Header.Set("Content-Type", content)
	}
	var got thing
	err := ReadJSON(httptest.NewRecorder(), r, &got)
	return got, err
}

func TestReadJSON(t *testing.T) {
	t.Parallel()
	const plain = "application/json"
	for name, c := range map[string]struct {
		content, body string
		status        int // 0: taken
		field         string
	}{
		"plain":            {plain, `{"name":"a","tokens":3,"unknown":[]}`, 0, ""},
		"charset":          {"application/json; charset=utf-8", `{}`, 0, ""},
		"vendor type":      {"application/vnd.x+json", ` {}`, 0, ""},
		"form":             {"application/x-www-form-urlencoded", `name=a`, 415, ""},
		"text":             {"text/plain", `{}`, 415, ""},
		"no type":          {"", `{}`, 415, ""},
		"broken type":      {"application/json; =", `{}`, 415, ""},
		"empty":            {plain, ``, 400, ""},
		"null":             {plain, `null`, 400, ""},
		"array":            {plain, `[{}]`, 400, ""},
		"trailing":         {plain, `{} {}`, 400, ""},
		"cut":              {plain, `{"name":`, 400, ""},
		"not UTF-8":        {plain, "{\"name\":\"\xff\"}", 400, ""},
		"wrong type":       {plain, `{"name":1}`, 400, "name"},
		"fraction":         {plain, `{"tokens":1.5}`, 400, "tokens"},
		"overflow":         {plain, `{"tokens":1e30}`, 400, "tokens"},
		"deep":             {plain, strings.Repeat(`{"a":`, MaxDepth+1) + `1` + strings.Repeat(`}`, MaxDepth+1), 400, ""},
		"deep in a string": {plain, `{"name":"` + strings.Repeat("{[", 100) + `\""}`, 0, ""},
		"too large":        {plain, `{"name":"` + strings.Repeat("a", MaxBody) + `"}`, 413, ""},
	} {
		_, err := read(c.content, c.body)
		known, _ := errors.AsType[*Error](err)
		switch {
		case c.status == 0:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case known == nil || known.Status != c.status:
			t.Errorf("%s: want %d, got %v", name, c.status, err)
		case c.field != "" && (len(known.Fields) != 1 || known.Fields[0].Field != c.field):
			t.Errorf("%s: want field %s, got %+v", name, c.field, known.Fields)
		}
	}
}

func FuzzReadJSON(f *testing.F) {
	f.Add("application/json", `{"name":"a"}`)
	f.Add("application/json", `{"a":"\\\"{"}`)
	f.Fuzz(func(t *testing.T, content, body string) {
		_, err := read(content, body)
		if known, ok := errors.AsType[*Error](err); err != nil && (!ok || known.Status < 400 || known.Status > 415) {
			t.Fatalf("want a 4xx, got %v", err)
		}
	})
}

func TestRepeatedMembers(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"a":1,"b":{"a":2},"c":[{"a":3},{"a":4}]}`: "", `{"a":1,"a":2}`: "a", `{"a":1,"A":2}`: "A", `{"x":{"b":1,"b":1}}`: "b",
		`{"x":[1,{"b":"b","c":"b","b":1}]}`: "b",
		`{"a":"a"}`:                         "", `{"a":["a","a"]}`: "", `{"a":{"a":{"a":1}}}`: "", `{"\u0061":1,"a":2}`: "a", `{"a":1`: "", `[`: "", ``: "",
	} {
		if name, found := repeated([]byte(body)); name != want || found != (want != "") {
			t.Errorf("%s: want %q, got %q", body, want, name)
		}
	}
}
