// Package rawprovider is a provider for tests, at the far end of the request path: it sends
// exactly the bytes that a header of the request tells it, when it is told to, so that every
// way in which a real provider answers, fails or breaks off is one line of a test.
package rawprovider

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/streams"
)

// Header carries the script of a request: steps with commas between. ~SECONDS waits, *N
// sends N times the letter A, @API/SHAPE/TOKENS/CUT sends the events of a stream (see Stream), ! resets
// the connection, and anything else is base64 of bytes to send. At the end the connection is closed.
const Header = "X-Raw"

// Heads of answers that end with their connection.
const (
	JSON = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n"
	SSE  = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n"
)

// Send is a step that sends text.
func Send(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// Wait is a step that waits.
func Wait(d time.Duration) string { return "~" + strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }

// Fill is a step that sends the letter A n times.
func Fill(n int) string { return "*" + strconv.Itoa(n) }

// Stream is a step that sends an answer of package streams, in the shape that has this place among
// streams.Shapes, event by event: all of it, or as much as carries so many tokens.
func Stream(api streams.API, shape, tokens, cut int) string {
	return fmt.Sprintf("@%s/%d/%d/%d", api, shape, tokens, cut)
}

// Reset is a step that breaks the connection off.
const Reset = "!"

// Script joins steps.
func Script(steps ...string) string { return strings.Join(steps, ",") }

// Provider is an http.Handler. The zero value is ready.
type Provider struct {
	mu    sync.Mutex
	calls []Call
	done  chan struct{}
}

// Call is one request that arrived in full.
type Call struct {
	Path   string      // with its query
	Header http.Header // without the script
	Body   string
}

// Calls are the requests that arrived so far.
func (p *Provider) Calls() []Call {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Call(nil), p.calls...)
}

// Close ends what still waits.
func (p *Provider) Close() { close(p.ended()) }

func (p *Provider) ended() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done == nil {
		p.done = make(chan struct{})
	}
	return p.done
}

func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the caller left
	}
	header := r.Header.Clone()
	header.Del(Header)
	p.mu.Lock()
	p.calls = append(p.calls, Call{Path: r.URL.RequestURI(), Header: header, Body: string(body)})
	p.mu.Unlock()
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	for step := range strings.SplitSeq(r.Header.Get(Header), ",") {
		if err := p.step(conn, buffered.Writer, step); err != nil {
			fmt.Fprintf(buffered, "HTTP/1.1 500 Internal Server Error\r\nconnection: close\r\n\r\n%v\n", err)
			buffered.Flush() // to a caller that may be gone
			return
		}
	}
}

func (p *Provider) step(conn net.Conn, w *bufio.Writer, step string) error {
	switch {
	case step == Reset:
		if tcp, is := conn.(*net.TCPConn); is {
			return tcp.SetLinger(0)
		}
		return nil
	case strings.HasPrefix(step, "~"):
		seconds, err := strconv.ParseFloat(step[1:], 64)
		if err != nil {
			return fmt.Errorf("read step %q: %w", step, err)
		}
		timer := time.NewTimer(time.Duration(seconds * float64(time.Second)))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-p.ended():
		}
		return nil
	case strings.HasPrefix(step, "@"):
		return sendStream(w, step)
	case strings.HasPrefix(step, "*"):
		n, err := strconv.Atoi(step[1:])
		if err != nil {
			return fmt.Errorf("read step %q: %w", step, err)
		}
		_, err = io.CopyN(w, letters{}, int64(n))
		return flushed(w, err)
	}
	text, err := base64.StdEncoding.DecodeString(step)
	if err != nil {
		return fmt.Errorf("read step %q: %w", step, err)
	}
	_, err = w.Write(text)
	return flushed(w, err)
}

func sendStream(w *bufio.Writer, step string) error {
	api, numbers, _ := strings.Cut(step[1:], "/")
	var shape, tokens, cut int
	if _, err := fmt.Sscanf(numbers, "%d/%d/%d", &shape, &tokens, &cut); err != nil {
		return fmt.Errorf("read step %q: %w", step, err)
	}
	all := streams.Shapes()
	if shape < 0 || shape >= len(all) {
		return fmt.Errorf("read step %q: there are %d shapes", step, len(all))
	}
	events := streams.Of(streams.API(api), all[shape], tokens)
	if cut > 0 {
		events, _ = streams.Cut(events, cut)
	}
	for _, e := range events {
		_, err := w.WriteString(e.Text)
		_ = flushed(w, err)
	}
	return nil
}

func flushed(w *bufio.Writer, err error) error {
	if err != nil {
		return nil // the caller left
	}
	_ = w.Flush() // the same
	return nil
}

// letters is endless.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'A'
	}
	return len(p), nil
}
