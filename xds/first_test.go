package xds_test

import "testing"
import "strings"

func TestFirst(t *testing.T) {
	g := start(t, nil, nil)
	a := g.do(t, "POST", "/v1/chat/completions", `{"model":"gpt-4o","max_tokens":5,"messages":[{"role":"user","content":"hi"}]}`)
	t.Logf("%+v", a)
	t.Logf("%s", strings.Join(g.limit.last(), "\n"))
	t.Logf("%+v", g.back.last(t))
	raw, _ := g.rawLine(t, a.header.Get("x-request-id"))
	t.Log(raw)
	t.Fail()
}
