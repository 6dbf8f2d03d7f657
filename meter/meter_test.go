package meter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// limiter is ratelimit's settle in memory: idempotent by request id.
type limiter struct {
	limitpb.UnimplementedLimiterServer
	mu      sync.Mutex
	charged map[string]int64
	answers map[string]limitpb.Settled_Status // for single ids, instead of SETTLED
	counts  map[limitpb.Settled_Status]int
	calls   int // that had something to settle
	down    atomic.Bool
	poison  string // an id it refuses
	renewed []string
	problem string // that the meter told last
	reports int    // how often it told how it is, after it has looked after its files
	behind  int64  // that it told last, in microseconds
}

func (l *limiter) Settle(_ context.Context, in *limitpb.SettleRequest) (*limitpb.SettleResponse, error) {
	if l.down.Load() {
		return nil, status.Error(codes.Unavailable, "down")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(in.GetSettlements()) > 0 {
		l.calls++
	}
	if in.GetMeter() != "" {
		l.problem = in.GetUnwritable()
		l.reports++
		l.behind = in.GetBehindUs()
	}
	out := &limitpb.SettleResponse{}
	for _, s := range in.GetSettlements() {
		if s.GetRequestId() == l.poison {
			return nil, status.Error(codes.InvalidArgument, "poison")
		}
		was, known := l.charged[s.GetRequestId()]
		answer, forced := l.answers[s.GetRequestId()]
		switch {
		case known:
			answer = limitpb.Settled_DUPLICATE
		case !forced:
			answer, was = limitpb.Settled_SETTLED, s.GetCharged()
			l.charged[s.GetRequestId()] = was
		}
		if answer == limitpb.Settled_AWAY && !in.GetSome() {
			return nil, status.Error(codes.Unavailable, "a server is away")
		}
		l.counts[answer]++
		out.Settled = append(out.Settled, &limitpb.Settled{RequestId: s.GetRequestId(), Status: answer, Charged: was, Held: 300})
	}
	return out, nil
}

func (l *limiter) count(s limitpb.Settled_Status) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts[s]
}

func (l *limiter) told() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.problem
}

func (l *limiter) heard() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reports
}

// late is how far behind it said that it is, in microseconds; negative: nothing is done.
func (l *limiter) late() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.behind
}

// charge is what was charged for a request.
func (l *limiter) charge(id string) (int64, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, ok := l.charged[id]
	return n, ok
}

func (l *limiter) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.charged)
}

// rig is a meter's surroundings: a spool, a limiter behind gRPC and a real JetStream.
type rig struct {
	t       *testing.T
	spool   string
	limiter *limiter
	client  limitpb.LimiterClient
	nats    *testenv.NATSProcess
	js      jetstream.JetStream
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, spool: filepath.Join(t.TempDir(), "spool", "usage.jsonl"),
		limiter: &limiter{charged: map[string]int64{}, answers: map[string]limitpb.Settled_Status{}, counts: map[limitpb.Settled_Status]int{}}}
	if err := os.MkdirAll(filepath.Dir(r.spool), 0o700); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	limitpb.RegisterLimiterServer(server, r.limiter)
	go server.Serve(ln) // ends with Stop
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///"+ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r.client = limitpb.NewLimiterClient(conn)
	r.nats = testenv.NATSServer(t)
	if r.js, err = jetstream.New(r.connect()); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) connect() *nats.Conn {
	r.t.Helper()
	nc, err := nats.Connect(r.nats.URL(), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond),
		nats.ReconnectBufSize(-1))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	return nc
}

func (r *rig) publisher() Publisher {
	r.t.Helper()
	p, err := usage.NewPublisher(r.connect(), slog.New(slog.DiscardHandler))
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// start runs a meter; stop ends it and waits.
func (r *rig) start(change func(*Config)) (m *Meter, stop func()) {
	r.t.Helper()
	cfg := Config{Spool: r.spool, Limiter: r.client, Poll: 5 * time.Millisecond, SaveEvery: 5 * time.Millisecond, Trail: 5 * time.Millisecond,
		Metrics: prometheus.NewRegistry()}
	if change != nil {
		change(&cfg)
	}
	if cfg.Publisher == nil {
		cfg.Publisher = r.publisher()
	}
	m, err := New(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("run meter: %v", err)
		}
	})
	r.t.Cleanup(stop)
	return m, stop
}

// add writes n lines of served requests and gives their ids.
func (r *rig) add(n int) []string {
	r.t.Helper()
	ids := make([]string, n)
	var text strings.Builder
	for i := range ids {
		ids[i] = uuid.NewString()
		text.WriteString(spoolLine(ids[i], 10+i%50))
	}
	write(r.t, r.spool, text.String())
	return ids
}

func spoolLine(id string, out int) string {
	return fmt.Sprintf(`{"id":%q,"account":"user:u1","held":300,"held_in":44,"user":"u1","route":"openai-chat","provider":"openai","model":"gpt-4o","stream":"true",`+
		`"bytes":"174","answer":"whole=1,in=12,out=%d","status":200,"flags":"-","up":"200","recv":%d,"recv_h":250,"start":"2026-11-22T11:51:54.123Z"}`+"\n", id, out, 1500+340*out)
}

// events waits for n events and gives them by id; each must be there once.
func (r *rig) events(n int) map[string]usage.Event {
	r.t.Helper()
	var got map[string]usage.Event
	testenv.Eventually(r.t, fmt.Sprintf("%d events", n), func() bool {
		got = r.stored()
		return len(got) >= n
	})
	if len(got) != n {
		r.t.Errorf("want %d events, got %d", n, len(got))
	}
	return got
}

func (r *rig) stored() map[string]usage.Event {
	r.t.Helper()
	got := map[string]usage.Event{}
	stream, err := r.js.Stream(r.t.Context(), usage.Stream)
	if err != nil {
		return got
	}
	info, err := stream.Info(r.t.Context())
	if err != nil {
		return got
	}
	for seq := info.State.FirstSeq; seq > 0 && seq <= info.State.LastSeq; seq++ {
		m, err := stream.GetMsg(r.t.Context(), seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // a probe's
		}
		if err != nil {
			r.t.Fatal(err)
		}
		if m.Subject == usage.SubjectProbe {
			continue // not taken out again yet
		}
		e, err := usage.Decode(m.Data)
		if err != nil {
			r.t.Fatal(err)
		}
		if _, twice := got[e.RequestID]; twice {
			r.t.Errorf("event %s is stored twice", e.RequestID)
		}
		if m.Subject != usage.Subject(e.Provider) {
			r.t.Errorf("want subject %s, got %s", usage.Subject(e.Provider), m.Subject)
		}
		got[e.RequestID] = e
	}
	return got
}

// caughtUp says that the checkpoint is at the end of the spool.
func (r *rig) caughtUp() bool {
	p, err := loadCheckpoint(filepath.Join(filepath.Dir(r.spool), "meter.checkpoint"))
	info, statErr := os.Stat(r.spool)
	return err == nil && statErr == nil && p.Inode == inode(info) && p.Offset == info.Size()
}

func TestMeterSettlesPublishesAndCheckpoints(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	m, stop := r.start(nil)
	ids := r.add(1200)
	write(t, r.spool, "not a line\n{\"id\":\"half\n")
	got := r.events(1200)
	for i, id := range ids {
		charged, _ := r.limiter.charge(id)
		if e := got[id]; e.Charged != int64(22+i%50) || e.Source != usage.FromProvider || e.Held != 300 || charged != e.Charged {
			t.Fatalf("request %d: want %d tokens, got %+v and %d settled", i, 22+i%50, e, charged)
		}
	}
	testenv.Eventually(t, "the checkpoint", r.caughtUp)
	if err := m.Ready(t.Context()); err != nil {
		t.Errorf("want ready, got %v", err)
	}
	stop()
	if r.limiter.calls > 1200/500+30 {
		t.Errorf("want batches, got %d calls for 1200 lines", r.limiter.calls)
	}
	kept, err := os.ReadFile(filepath.Join(filepath.Dir(r.spool), "damaged.jsonl"))
	if err != nil || string(kept) != "not a line\n{\"id\":\"half\n" {
		t.Errorf("want the damaged lines kept, got %q, %v", kept, err)
	}
}

// stuck is a publisher that never succeeds.
type stuck struct{ tried atomic.Int64 }

func (s *stuck) Publish(_ context.Context, messages []usage.Message) ([]usage.Unstored, error) {
	s.tried.Add(1)
	return unstored(messages, errors.New("stuck"))
}

// unstored is what a publisher answers that has stored none of the messages.
func unstored(messages []usage.Message, err error) (rest []usage.Unstored, _ error) {
	for _, one := range messages {
		rest = append(rest, usage.Unstored{Message: one, Err: err})
	}
	return rest, err
}

func TestCrashBetweenSettleAndPublish(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ids := r.add(700)
	broken := &stuck{}
	m, stop := r.start(func(c *Config) { c.Publisher = broken })
	testenv.Eventually(t, "all settled", func() bool { return r.limiter.count(limitpb.Settled_SETTLED) == 700 && broken.tried.Load() > 0 })
	if err := m.Ready(t.Context()); err == nil {
		t.Error("want not ready while nothing can be published")
	}
	stop()
	if r.caughtUp() {
		t.Fatal("the checkpoint moved before anything was published")
	}
	r.start(nil)
	got := r.events(700)
	if r.limiter.count(limitpb.Settled_DUPLICATE) != 700 || r.limiter.size() != 700 {
		t.Errorf("want every settlement repeated and none charged twice, got %v", r.limiter.counts)
	}
	if _, ok := got[ids[699]]; !ok {
		t.Error("the last event is missing")
	}
	testenv.Eventually(t, "the checkpoint", r.caughtUp)
}

func TestCrashBetweenPublishAndCheckpoint(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.add(300)
	_, stop := r.start(nil)
	r.events(300)
	testenv.Eventually(t, "the checkpoint", r.caughtUp)
	stop()
	if err := os.Remove(filepath.Join(filepath.Dir(r.spool), "meter.checkpoint")); err != nil {
		t.Fatal(err)
	}
	r.add(1)
	r.start(nil)
	r.events(301) // events checks that none is stored twice
	testenv.Eventually(t, "the repeats", func() bool { return r.limiter.count(limitpb.Settled_DUPLICATE) == 300 })
}

// TestATornCheckpointIsMadeAnew: a crash of the machine left it empty or cut; the meter starts, and
// nothing is charged twice.
func TestATornCheckpointIsMadeAnew(t *testing.T) {
	t.Parallel()
	for name, left := range map[string]string{"empty": "", "cut": `{"inode":7,"off`, "zeros": "\x00\x00\x00\x00", "another's": `["a"]`,
		"a head of less than nothing": `{"inode":7,"offset":9,"headBytes":-1}`, "a head that has no room": `{"inode":7,"offset":9,"headBytes":1000000000000}`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.add(20)
			_, stop := r.start(nil)
			r.events(20)
			testenv.Eventually(t, "the checkpoint", r.caughtUp)
			stop()
			info, err := os.Stat(r.spool)
			if err != nil {
				t.Fatal(err)
			}
			left := strings.Replace(left, `"inode":7`, fmt.Sprintf(`"inode":%d`, inode(info)), 1)
			if err := os.WriteFile(filepath.Join(filepath.Dir(r.spool), "meter.checkpoint"), []byte(left), 0o600); err != nil {
				t.Fatal(err)
			}
			r.add(1)
			r.start(nil)
			r.events(21)
			testenv.Eventually(t, "the repeats", func() bool { return r.limiter.count(limitpb.Settled_DUPLICATE) == 20 })
			testenv.Eventually(t, "the checkpoint", r.caughtUp)
		})
	}
}

func TestLimiterDown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.limiter.down.Store(true)
	r.add(50)
	m, _ := r.start(nil)
	testenv.Eventually(t, "not ready", func() bool { return m.Ready(t.Context()) != nil })
	if n := len(r.stored()); n != 0 {
		t.Errorf("want nothing published before it is settled, got %d", n)
	}
	r.limiter.down.Store(false)
	r.events(50)
	testenv.Eventually(t, "ready", func() bool { return m.Ready(t.Context()) == nil })
}

// TestNATSDown: settlements go on, also beyond what is kept in memory, and every event is
// published once when NATS is back.
func TestNATSDown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	m, _ := r.start(func(c *Config) { c.MaxWaiting, c.BatchLines = 100, 50 })
	r.add(20)
	r.events(20)
	r.nats.Stop()
	for i := range 10 {
		r.add(60)
		testenv.Eventually(t, "settlements without NATS", func() bool { return r.limiter.count(limitpb.Settled_SETTLED) == 20+60*(i+1) })
	}
	if r.caughtUp() {
		t.Error("the checkpoint moved while nothing could be published")
	}
	if waiting := m.waiting.Load(); waiting > 100+50 {
		t.Errorf("want at most about 100 events in memory, got %d", waiting)
	}
	r.nats.Start()
	r.events(620)
	testenv.Eventually(t, "the checkpoint", r.caughtUp)
}

func TestAnswersOfTheBooks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ids := r.add(5)
	r.limiter.answers[ids[0]] = limitpb.Settled_LATE
	r.limiter.answers[ids[1]] = limitpb.Settled_UNKNOWN
	r.limiter.poison = ids[2]
	r.limiter.charged[ids[3]] = 17 // settled before a crash, by an estimate of then
	orphan, lost := uuid.NewString(), uuid.NewString()
	for _, id := range []string{orphan, lost} {
		write(t, r.spool, fmt.Sprintf(`{"id":%q,"user":"u1","route":"openai-chat","provider":"openai","bytes":"9","status":503,"flags":"RLSE","start":"2026-11-22T11:51:54Z"}`+"\n", id))
	}
	r.limiter.answers[orphan] = limitpb.Settled_UNKNOWN // no hold stood
	refused := uuid.NewString()
	write(t, r.spool, fmt.Sprintf(`{"id":%q,"user":"u1","route":"openai-chat","provider":"openai","bytes":"9","status":429,"flags":"RL","start":"2026-11-22T11:51:54Z"}`+"\n", refused))
	r.start(nil)
	got := r.events(5)
	for name, id := range map[string]string{"late": ids[0], "poison": ids[2], "an orphan without a hold": orphan} {
		if e, ok := got[id]; ok {
			t.Errorf("%s: want no event, got %+v", name, e)
		}
	}
	if e := got[ids[1]]; e.Charged != 23 {
		t.Errorf("unknown hold: want the provider's count, 23, got %+v", e)
	}
	if e := got[ids[3]]; e.Charged != 17 || e.Input+e.Output != 17 {
		t.Errorf("duplicate: want what the books charged, 17, got %+v", e)
	}
	if e := got[lost]; e.Charged != 0 || e.Source != usage.FromUnstarted || e.Held != 300 {
		t.Errorf("a hold whose reply was lost: want it given back, got %+v", e)
	}
	if e := got[refused]; e.Allowed || e.Charged != 0 || e.Source != usage.FromRefusal {
		t.Errorf("refused: got %+v", e)
	}
	if _, charged := r.limiter.charge(refused); charged {
		t.Error("a refusal was settled")
	}
}

// TestHoldAfterItsLine: ratelimit's hold came to stand after Envoy had given up and the
// meter had read the line. It is found when it is sought again.
func TestHoldAfterItsLine(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := uuid.NewString()
	r.limiter.answers[id] = limitpb.Settled_UNKNOWN
	write(t, r.spool, fmt.Sprintf(`{"id":%q,"user":"u1","route":"openai-chat","provider":"openai","bytes":"9","status":503,"flags":"RLSE","start":"2026-11-22T11:51:54Z"}`+"\n", id))
	r.start(nil)
	testenv.Eventually(t, "the first search", func() bool { return r.limiter.count(limitpb.Settled_UNKNOWN) > 0 })
	r.limiter.mu.Lock()
	delete(r.limiter.answers, id)
	r.limiter.mu.Unlock()
	if e := r.events(1)[id]; e.Source != usage.FromUnstarted || e.Charged != 0 || e.Held != 300 {
		t.Errorf("want the hold given back, got %+v", e)
	}
}

// TestEnvoyDiesInTheMiddleOfALine: the line of the next Envoy is not lost with the half one.
func TestEnvoyDiesInTheMiddleOfALine(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	half, whole := uuid.NewString(), uuid.NewString()
	write(t, r.spool, spoolLine(half, 10)[:150]+spoolLine(whole, 20))
	r.start(nil)
	got := r.events(2)
	if e := got[whole]; e.Charged != 32 {
		t.Errorf("want the whole line's 32 tokens, got %+v", got)
	}
	if e := got[half]; e.Charged != 300 || e.Source != usage.FromHold || e.Reason != ReasonDamaged {
		t.Errorf("want the half line's call charged what it held, got %+v", e)
	}
	testenv.Eventually(t, "the checkpoint", r.caughtUp)
	kept, err := os.ReadFile(filepath.Join(filepath.Dir(r.spool), "damaged.jsonl"))
	if err != nil || string(kept) != spoolLine(half, 10)[:150]+"\n" {
		t.Errorf("want the half line kept, got %q, %v", kept, err)
	}
}

// TestRotationUnderWrites rotates a growing spool many times: Envoy (a fake one) goes on
// writing to the old file until it is told to reopen. Nothing is lost, nothing doubled.
func TestRotationUnderWrites(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var mu sync.Mutex
	out, err := os.OpenFile(r.spool, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	reopened := 0
	admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		reopened++
		if req.Method != http.MethodPost || reopened == 1 { // the first time Envoy is too busy
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		out.Close()
		if out, err = os.OpenFile(r.spool, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
			t.Error(err)
		}
	}))
	defer admin.Close()
	r.start(func(c *Config) { c.RotateBytes, c.ReopenURL = 4000, admin.URL+"/reopen_logs" })
	want := 0
	testenv.Eventually(t, "the file reopened four times", func() bool {
		mu.Lock()
		_, err := out.WriteString(spoolLine(uuid.NewString(), 10))
		done := reopened >= 4
		mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		want++
		return done
	})
	r.events(want)
	testenv.Eventually(t, "the checkpoint", r.caughtUp)
	testenv.Eventually(t, "finished files to go", func() bool {
		left, _ := filepath.Glob(r.spool + ".*")
		return len(left) == 0
	})
	if got := r.limiter.size(); got != want || reopened < 4 {
		t.Errorf("want %d settled over 3 rotations, got %d over %d", want, got, reopened-1)
	}
}

func TestNewRefusesNonsense(t *testing.T) {
	t.Parallel()
	if _, err := New(Config{}); err == nil {
		t.Error("want an error without a spool")
	}
}
