// Package reader runs the usage reader of envoy (usage.lua) without Envoy, so that tests see what it tells
// of an answer. LuaJIT, which Envoy has, and the interpreter here speak the same Lua 5.1.
package reader

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	lua "github.com/yuin/gopher-lua"
	"github.com/yuin/gopher-lua/parse"

	"github.com/leaky-tokens/leaky-tokens/envoy"
)

// Script is the reader's script. One goroutine uses it.
type Script struct {
	state *lua.LState
	usage *lua.LTable
}

// New loads the script; it is closed when the test ends.
func New(t testing.TB) *Script {
	t.Helper()
	parsed, err := parse.Parse(strings.NewReader(envoy.UsageLua()), "usage.lua")
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := lua.Compile(parsed, "usage.lua")
	if err != nil {
		t.Fatal(err)
	}
	s := &Script{state: lua.NewState()}
	t.Cleanup(s.state.Close)
	s.state.SetGlobal("tonumber", s.state.NewFunction(toNumber))
	s.state.Push(s.state.NewFunctionFromProto(compiled))
	if err := s.state.PCall(0, 0, nil); err != nil {
		t.Fatal(err)
	}
	s.usage = s.state.GetGlobal("usage").(*lua.LTable)
	return s
}

// toNumber is Lua's own: the interpreter's knows no exponent without a point.
func toNumber(state *lua.LState) int {
	n, err := strconv.ParseFloat(state.CheckString(1), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		state.Push(lua.LNil)
		return 1
	}
	state.Push(lua.LNumber(n))
	return 1
}

// Call calls one of the script's functions, which are named in its last line, and gives what it returns.
func (s *Script) Call(t testing.TB, name string, args ...lua.LValue) lua.LValue {
	t.Helper()
	if err := s.state.CallByParam(lua.P{Fn: s.usage.RawGetString(name), NRet: 1, Protect: true}, args...); err != nil {
		t.Fatal(err)
	}
	defer s.state.Pop(1)
	return s.state.Get(-1)
}

// Read reads an answer that comes in pieces to its end. It gives what went on to the client and the last
// report. cuts says that the gateway asked for the usage and the caller did not.
func (s *Script) Read(t testing.TB, cuts bool, pieces ...string) (passed, report string) {
	t.Helper()
	passed, _, report = s.read(t, cuts, pieces)
	return passed, report
}

// ReadCut reads an answer that breaks off behind the last piece: it gives the report that Envoy had by then.
func (s *Script) ReadCut(t testing.TB, pieces ...string) (report string) {
	t.Helper()
	_, report, _ = s.read(t, false, pieces)
	return report
}

func (s *Script) read(t testing.TB, cuts bool, pieces []string) (passed, before, report string) {
	t.Helper()
	reader := s.Call(t, "reader", lua.LBool(cuts)).(*lua.LTable)
	var out strings.Builder
	for _, p := range pieces {
		if instead := s.Call(t, "feed", reader, lua.LString(p)); instead.Type() == lua.LTString {
			p = instead.String()
		}
		out.WriteString(p)
		if lua.LVAsBool(reader.RawGetString("dirty")) {
			before = s.Call(t, "report", reader).String()
		}
	}
	out.WriteString(s.Call(t, "finish", reader).String())
	return out.String(), before, s.Call(t, "report", reader).String()
}
