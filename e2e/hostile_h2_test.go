package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// field is one header of an HTTP/2 request, in the order that it is sent.
type field struct{ name, value string }

// overH2 sends one request by HTTP/2 with prior knowledge, as it is, and gives the status of the answer; 0 when the
// stream or the connection was reset instead, and the error when there was no connection.
func overH2(fields []field, body string, trailers ...field) string {
	conn, err := net.Dial("tcp", strings.TrimPrefix(running.Gateway, "http://"))
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err.Error()
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encoded := func(fields []field) []byte {
		block.Reset()
		for _, f := range fields {
			_ = encoder.WriteField(hpack.HeaderField{Name: f.name, Value: f.value})
		}
		return slices.Clone(block.Bytes())
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	send := func() error {
		if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
			return err
		}
		if err := framer.WriteSettings(); err != nil {
			return err
		}
		err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encoded(fields), EndHeaders: true,
			EndStream: body == "" && trailers == nil})
		if err == nil && body != "" {
			err = framer.WriteData(1, trailers == nil, []byte(body))
		}
		if err == nil && trailers != nil {
			err = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encoded(trailers), EndHeaders: true, EndStream: true})
		}
		return err
	}
	_ = send() // the gateway may hang up before it has all of it
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return "0"
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return "0"
		}
	}
}

// TestMalformedHTTP2ReachesNoService is not parallel: it compares what the services counted.
func TestMalformedHTTP2ReachesNoService(t *testing.T) {
	root := newAccount(t, "ADMIN")
	sound := func(path string) []field {
		return []field{{":method", "GET"}, {":scheme", "http"}, {":authority", "x"}, {":path", path}, {"authorization", "Bearer " + root.JWT}}
	}
	with := func(more ...field) []field { return append(sound("/api/v1/me"), more...) }
	set := func(name, value string) []field {
		fields := sound("/api/v1/me")
		for i := range fields {
			if fields[i].name == name {
				fields[i].value = value
			}
		}
		return fields
	}
	without := func(name string) []field {
		return slices.DeleteFunc(sound("/api/v1/me"), func(f field) bool { return f.name == name })
	}
	if status := overH2(sound("/api/v1/me"), ""); status != "200" {
		t.Fatalf("as it should be: %s", status)
	}
	before := quiet(t)
	const chat = "/v1/chat/completions"
	posted := func(length string) []field {
		return []field{{":method", "POST"}, {":scheme", "http"}, {":authority", "x"}, {":path", chat}, {"authorization", "Bearer " + root.JWT},
			{"content-type", "application/json"}, {"content-length", length}}
	}
	var all sync.WaitGroup // Envoy keeps a connection it has refused open for a second
	for name, c := range map[string]struct {
		fields   []field
		body     string
		trailers []field
		want     []string // 0: reset
	}{
		"path without slash":    {fields: set(":path", "api/v1/me"), want: []string{"400", "0"}},
		"empty path":            {fields: set(":path", ""), want: []string{"400", "0"}},
		"star":                  {fields: set(":path", "*"), want: []string{"400", "0"}},
		"absolute path":         {fields: set(":path", "http://x/api/v1/me"), want: []string{"400", "0"}},
		"no path":               {fields: without(":path"), want: []string{"400", "0"}},
		"no method":             {fields: without(":method"), want: []string{"400", "0"}},
		"path twice":            {fields: append([]field{{":path", "/api/v1/admin/users"}}, sound("/api/v1/me")...), want: []string{"400", "0"}},
		"pseudo after the rest": {fields: with(field{":path", "/api/v1/admin/users"}), want: []string{"400", "0"}},
		"unknown pseudo":        {fields: append([]field{{":user", "root"}}, sound("/api/v1/me")...), want: []string{"400", "0"}},
		"upper case":            {fields: with(field{"X-User-Id", root.ID}), want: []string{"400", "0"}},
		"transfer-encoding": {fields: append(posted("5"), field{"transfer-encoding", "chunked"}), body: "0\r\n\r\n",
			want: []string{"400", "0"}},
		"connection":             {fields: with(field{"connection", "x-leaky-identity"}), want: []string{"400", "0"}},
		"line break in a value":  {fields: with(field{"x-a", "a\r\nx-user-id: " + root.ID}), want: []string{"400", "0"}},
		"NUL in a value":         {fields: with(field{"x-a", "a\x00b"}), want: []string{"400", "0"}},
		"space in a name":        {fields: with(field{"x a", "b"}), want: []string{"400", "0"}},
		"colon in a name":        {fields: with(field{"x-a: b\r\nx-user-id", root.ID}), want: []string{"400", "0"}},
		"host beside authority":  {fields: append(set(":authority", "x,y"), field{"host", "z"}), want: []string{"400", "0"}},
		"line break in the path": {fields: set(":path", "/api/v1/me HTTP/1.1\r\nHost: x\r\n\r\nGET /x"), want: []string{"400", "0"}},
		"line break in a method": {fields: set(":method", "GET / HTTP/1.1\r\nx: y"), want: []string{"400", "0"}},
		"shorter than it says":   {fields: posted("500"), body: okBody, want: []string{"400", "0"}},
		"longer than it says":    {fields: posted("5"), body: okBody, want: []string{"400", "0"}},
		"two lengths": {fields: append(posted(fmt.Sprint(len(okBody))), field{"content-length", "5"}), body: okBody,
			want: []string{"400", "0"}},
		"CONNECT": {fields: []field{{":method", "CONNECT"}, {":authority", "127.0.0.1:5432"},
			{"authorization", "Bearer " + root.JWT}}, want: []string{"403", "405", "0"}},
		"path in a trailer": {fields: posted(fmt.Sprint(len(okBody)))[:6], body: okBody[:20],
			trailers: []field{{":path", "/api/v1/admin/users"}}, want: []string{"400", "0"}},
		"two keys":      {fields: with(field{"authorization", "Bearer " + root.JWT}), want: []string{"400"}},
		"encoded slash": {fields: set(":path", "/api/v1/auth/..%2fadmin/users"), want: []string{"400", "0"}},
		"fragment":      {fields: set(":path", "/api/v1/admin/users#x"), want: []string{"400", "0"}},
	} {
		all.Go(func() {
			if status := overH2(c.fields, c.body, c.trailers...); !slices.Contains(c.want, status) {
				t.Errorf("%s: want one of %v, got %s", name, c.want, status)
			}
		})
	}
	all.Wait()
	if after := reached(t); after != before {
		t.Errorf("%d requests reached a service", after-before)
	}
	if status := overH2(sound("/api/v1/me"), ""); status != "200" {
		t.Errorf("Envoy did not survive: %s", status)
	}
}
