package grpcbatch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/leaky-tokens/leaky-tokens/internal/grpcbatch"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// raw sends and takes bytes as they are.
type raw struct{}

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (raw) Name() string { return "raw" }

// handler answers as the method says.
type handler struct {
	largest atomic.Int64 // batch
	late    atomic.Int64
	release chan struct{}
	flooded chan error // why a registered service stopped sending
}

func (h *handler) Serve(ctx context.Context, calls []*grpcbatch.Call) {
	h.largest.Store(max(h.largest.Load(), int64(len(calls))))
	for _, c := range calls {
		switch c.Method {
		case "/t/echo":
			c.Answer([]byte(c.Message))
			c.Answer([]byte("a second answer counts for nothing"))
		case "/t/fail":
			c.Fail(codes.NotFound, "no such thing: 100% \u00e9\n")
		case "/t/later":
			go func() {
				select {
				case <-h.release:
				case <-ctx.Done():
				}
				c.Answer([]byte(c.Message))
			}()
		case "/t/late":
			for !c.Late() {
				time.Sleep(time.Millisecond)
			}
			h.late.Add(1)
			c.Fail(codes.DeadlineExceeded, "too late")
		case "/t/panic":
			panic("on purpose")
		case "/t/deadline":
			c.Answer([]byte(fmt.Sprint(time.Until(c.Deadline) > 30*time.Second && !c.Late())))
		}
	}
}

func start(tb testing.TB) (*handler, *grpc.ClientConn, string, context.CancelFunc) {
	tb.Helper()
	h := &handler{release: make(chan struct{}), flooded: make(chan error, 1)}
	s, err := grpcbatch.New(grpcbatch.Config{Handler: h, Log: slog.New(slog.DiscardHandler),
		Methods: []string{"/t/echo", "/t/fail", "/t/later", "/t/late", "/t/panic", "/t/deadline"}})
	if err != nil {
		tb.Fatal(err)
	}
	register(s, h.flooded)
	path := filepath.Join(tb.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{}), grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		conn.Close()
		stop()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return h, conn, path, stop
}

func call(ctx context.Context, conn *grpc.ClientConn, method string, message []byte, options ...grpc.CallOption) ([]byte, error) {
	var answer []byte
	err := conn.Invoke(ctx, method, &message, &answer, options...)
	return answer, err
}

func TestEcho(t *testing.T) {
	t.Parallel()
	_, conn, _, _ := start(t)
	for _, size := range []int{0, 1, 1000, 16 << 10, 65535, 1 << 20, 4 << 20} {
		message := bytes.Repeat([]byte{'x'}, size)
		got, err := call(t.Context(), conn, "/t/echo", message)
		if err != nil || !bytes.Equal(got, message) {
			t.Errorf("%d bytes: got %d bytes, %v", size, len(got), err)
		}
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	_, conn, _, _ := start(t)
	for name, tc := range map[string]struct {
		method  string
		size    int
		options []grpc.CallOption
		code    codes.Code
		message string
	}{
		"handler": {"/t/fail", 1, nil, codes.NotFound, "no such thing: 100% \u00e9\n"},
		"method":  {"/t/none", 1, nil, codes.Unimplemented, "no such method"},
		"panic":   {"/t/panic", 1, nil, codes.Internal, "internal error"},
		"large":   {"/t/echo", 4<<20 + 1, nil, codes.ResourceExhausted, "the message is larger than 4194304 bytes"},
		"bomb": {"/t/echo", 5 << 20, []grpc.CallOption{grpc.UseCompressor(gzip.Name)}, codes.ResourceExhausted,
			"the message is larger than 4194304 bytes"},
		"other compression": {"/t/echo", 100, []grpc.CallOption{grpc.UseCompressor(strange{}.Name())}, codes.Unimplemented,
			"messages may be compressed by gzip only"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := call(t.Context(), conn, tc.method, make([]byte, tc.size), tc.options...)
			if status.Code(err) != tc.code || status.Convert(err).Message() != tc.message {
				t.Errorf("want %s %q, got %v", tc.code, tc.message, err)
			}
		})
	}
}

// TestManyAtOnce sends calls of all sizes from many goroutines over one connection,
// some of which give up.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	h, conn, _, _ := start(t)
	var group sync.WaitGroup
	for g := range 64 {
		group.Go(func() {
			for i := range 50 {
				message := bytes.Repeat([]byte(fmt.Sprintf("%d-%d ", g, i)), 1+(g*i)%3000)
				ctx, cancel := context.WithCancel(t.Context())
				if i%10 == 9 {
					cancel()
				}
				got, err := call(ctx, conn, "/t/echo", message)
				if i%10 != 9 && (err != nil || !bytes.Equal(got, message)) {
					t.Errorf("%d-%d: %d of %d bytes, %v", g, i, len(got), len(message), err)
				}
				cancel()
			}
		})
	}
	group.Wait()
	if h.largest.Load() < 2 {
		t.Error("want calls that come together handed over together, got one at a time")
	}
}

func TestLaterAnswers(t *testing.T) {
	t.Parallel()
	h, conn, _, _ := start(t)
	answers := make(chan error, 10)
	for range 10 {
		go func() {
			got, err := call(t.Context(), conn, "/t/later", bytes.Repeat([]byte("later"), 50_000))
			if len(got) != 250_000 {
				err = errors.Join(err, fmt.Errorf("%d bytes", len(got)))
			}
			answers <- err
		}()
	}
	if _, err := call(t.Context(), conn, "/t/echo", nil); err != nil {
		t.Errorf("a call behind those that wait: %v", err)
	}
	close(h.release)
	for range 10 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}

func TestDeadline(t *testing.T) {
	t.Parallel()
	h, conn, _, _ := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if got, err := call(ctx, conn, "/t/deadline", nil); string(got) != "true" {
		t.Errorf("want the deadline known, got %q, %v", got, err)
	}
	// A deadline that is over before the call is sent ends it without the server.
	testenv.Eventually(t, "the server knows that a call is late", func() bool {
		short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := call(short, conn, "/t/late", nil); status.Code(err) != codes.DeadlineExceeded {
			t.Fatalf("want the deadline exceeded, got %v", err)
		}
		return h.late.Load() > 0
	})
	if got, err := call(t.Context(), conn, "/t/echo", []byte("x")); string(got) != "x" {
		t.Errorf("want the connection to go on, got %q, %v", got, err)
	}
}

// TestStopAnswersWhatIsOnItsWay stops the server while calls come in: each is answered
// or told that the server went, and none hangs.
func TestStopAnswersWhatIsOnItsWay(t *testing.T) {
	t.Parallel()
	_, conn, path, stop := start(t)
	var answered, refused atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 10_000 {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				_, err := call(ctx, conn, "/t/echo", []byte("x"))
				cancel()
				switch status.Code(err) {
				case codes.OK:
					if answered.Add(1) == 100 {
						stop()
					}
				case codes.Unavailable, codes.Canceled:
					refused.Add(1)
					return
				default:
					t.Errorf("want an answer or Unavailable, got %v", err)
					return
				}
			}
		})
	}
	group.Wait()
	if answered.Load() < 100 || refused.Load() != 8 {
		t.Errorf("want calls answered until the stop, got %d answered, %d refused", answered.Load(), refused.Load())
	}
	if nc, err := net.Dial("unix", path); err == nil {
		nc.Close()
		t.Error("the server still listens")
	}
}

// talk sends bytes to the server as a peer that does not care, and gives what comes back
// until the server closes.
func talk(tb testing.TB, path string, sent []byte) []byte {
	tb.Helper()
	nc, err := net.Dial("unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	defer nc.Close()
	if err := nc.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		tb.Fatal(err)
	}
	_, _ = nc.Write(sent)
	_ = nc.(*net.UnixConn).CloseWrite()
	got, err := io.ReadAll(nc)
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		tb.Errorf("the server left the connection hanging after %d bytes", len(got))
	}
	return got
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

func seeds() []string {
	settings := "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	request := "\x00\x00\x0e\x01\x04\x00\x00\x00\x01" + "\x83\x86\x04\x07/t/echo\x41\x01a"
	return []string{
		"", "GET / HTTP/1.1\r\n\r\n", preface, preface + settings, preface + settings + request,
		preface + settings + request + "\x00\x00\x06\x00\x01\x00\x00\x00\x01" + "\x00\x00\x00\x00\x01x",
		preface + settings + request + "\x00\x00\x06\x00\x01\x00\x00\x00\x01" + "\x00\x00\x00\x00\x09x",
		preface + settings + "\x00\x00\x00\x00\x01\x00\x00\x00\x07",                         // DATA on no stream
		preface + settings + "\x00\x00\x04\x08\x00\x00\x00\x00\x00" + "\x7f\xff\xff\xff",    // window overflow
		preface + settings + "\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x04\xff\xff\xff\xff", // window of 2^32-1
		preface + settings + "\xff\xff\xff\x00\x00\x00\x00\x00\x01",                         // frame of 16 MB
		preface + settings + strings.Repeat("\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678", 100),
	}
}

func TestStrangePeers(t *testing.T) {
	t.Parallel()
	_, conn, path, _ := start(t)
	for i, sent := range seeds() {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			got := talk(t, path, []byte(sent))
			if len(got) < 9 {
				t.Errorf("want at least our settings, got %q", got)
			}
			if answer, err := call(t.Context(), conn, "/t/echo", []byte("x")); string(answer) != "x" {
				t.Errorf("another connection suffers: %v", err)
			}
		})
	}
}

func FuzzConnection(f *testing.F) {
	for _, s := range seeds() {
		f.Add([]byte(s))
	}
	_, conn, path, _ := start(f)
	f.Fuzz(func(t *testing.T, sent []byte) {
		talk(t, path, sent)
		talk(t, path, append([]byte(preface), sent...))
		if answer, err := call(t.Context(), conn, "/t/echo", []byte("x")); string(answer) != "x" {
			t.Errorf("another connection suffers: %v", err)
		}
	})
}

func TestNeedsItsParts(t *testing.T) {
	t.Parallel()
	if _, err := grpcbatch.New(grpcbatch.Config{}); err == nil {
		t.Error("want an error, got none")
	}
}
