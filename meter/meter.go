// Package meter comes after the answer on the request path: it reads the line Envoy wrote
// for each LLM request, settles the hold through ratelimit by what was really used,
// publishes a usage event, and only then moves its checkpoint. So any crash replays, and
// since settlement and event are idempotent by request id, nothing is lost or counted twice.
package meter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	limitpb "github.com/leaky-tokens/leaky-tokens/internal/contract/limitapi/gen"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/prices"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/durable"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/spoolfolder"
)

const (
	learnedEvery = 5 * time.Second // estimates are saved
	lagEvery     = time.Second
	drainTime    = 3 * time.Second // for publishing what is settled when the meter stops
)

// Meter reads, settles and publishes. Make it with New and start it with Run.
type Meter struct {
	cfg       Config
	tail      *tail
	rotator   *rotator
	estimator *Estimator
	disk      disk
	damage    damage
	metrics   metrics
	said      *retry.Troubles

	queue   chan settledBatch
	queued  int64                    // events that were put into the queue so far
	waiting atomic.Int64             // of these, in it or being published
	done    atomic.Pointer[position] // the last checkpoint that is on the disk

	published, saved checkpoint   // of publishLoop: what is done, and what the disk says
	acked            acked        // of publishLoop: what follows it and is published
	wanted           atomic.Int64 // publishLoop counts it up when the whole spool is to be read again

	reading    int64    // which of those is read
	behind     bool     // settling went on without publishing: NATS has been down for long
	behindFrom position // the first line that is settled and not queued

	refusals refusals
	orphans  []orphan // sought again later
	away     away
	renewals []*limitpb.Renewal // of this batch
	toldAt   time.Time          // when the limiter last heard what inputs take
	progress progress
	roomAt   time.Time // when the stream's room was last looked at

	settleUp, publishUp atomic.Bool
	refused             atomic.Pointer[error] // why events are not stored, while publishUp is false
	verdicts            []verdict             // reused
	tracer              tracer
	settling            [2]time.Time // when the last batch was settled: from, to
}

// New makes a meter; it starts nothing and touches no file.
func New(cfg Config) (*Meter, error) {
	if cfg.Spool == "" || cfg.Limiter == nil || cfg.Publisher == nil {
		return nil, errors.New("make meter: spool, limiter and publisher are needed")
	}
	cfg.RotateBytes = positive(cfg.RotateBytes, 64<<20)
	cfg.Poll = positive(cfg.Poll, 40*time.Millisecond)
	cfg.BatchLines = positive(cfg.BatchLines, 500)
	cfg.MaxWaiting = positive(cfg.MaxWaiting, 20_000)
	cfg.MaxAway = positive(cfg.MaxAway, 10_000)
	cfg.SaveEvery = positive(cfg.SaveEvery, 500*time.Millisecond)
	cfg.Trail = positive(cfg.Trail, 2*time.Second)
	cfg.HoldLife = positive(cfg.HoldLife, time.Minute)
	if cfg.Aborted == nil {
		cfg.Aborted = func(string) config.ChargeMode { return config.ChargeInput }
	}
	if cfg.Prices == nil {
		cfg.Prices = (*prices.Table)(nil)
	}
	if cfg.StateDir == "" {
		cfg.StateDir = filepath.Dir(cfg.Spool)
	}
	if cfg.Name == "" {
		cfg.Name = "meter"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Meter{cfg: cfg, tail: newTail(cfg.Spool), estimator: NewEstimator(cfg.Providers), queue: make(chan settledBatch, 256),
		rotator: &rotator{path: cfg.Spool, bytes: cfg.RotateBytes, reopen: cfg.ReopenURL, client: &http.Client{Transport: cfg.Admin}},
		disk:    disk{spool: cfg.Spool, stats: cfg.StatsURL, client: &http.Client{Transport: cfg.Admin}, room: roomOf},
		damage:  damage{path: cfg.damaged()}, said: retry.NewTroubles(cfg.Log), tracer: newTracer(cfg.Traces)}
	m.done.Store(&position{})
	var err error
	m.metrics, err = newMetrics(cfg.Metrics)
	m.settleUp.Store(true)
	m.publishUp.Store(true)
	return m, err
}

// Ready says whether usage gets through to ratelimit and NATS.
func (m *Meter) Ready(context.Context) error {
	switch why := m.disk.problem(); {
	case why != "":
		return errors.New(why)
	case !m.settleUp.Load():
		return errors.New("ratelimit does not answer; the spool keeps the lines")
	case !m.publishUp.Load():
		if why := m.refused.Load(); why != nil {
			return fmt.Errorf("nats does not store events, the spool keeps them: %w", *why)
		}
		return errors.New("nats does not answer; the spool keeps the events")
	}
	return nil
}

// Run meters until ctx ends, then publishes what is settled, for at most three seconds.
func (m *Meter) Run(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(m.cfg.Spool), 0o700); err != nil {
		return fmt.Errorf("make spool folder: %w", err)
	}
	claim, err := spoolfolder.Hold(filepath.Dir(m.cfg.Spool), spoolfolder.Reader, spoolfolder.Of(m.cfg.StateDir))
	if err != nil {
		return err
	}
	defer claim.Release()
	if claim.Unsure != nil {
		m.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "another meter may take the same spool", slog.Any("because", claim.Unsure))
	}
	for _, written := range []string{m.cfg.checkpoint(), m.cfg.estimates()} {
		if err := durable.Sweep(written); err != nil {
			m.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "what a crash left stays", slog.Any("error", err))
		}
	}
	from, err := loadCheckpoint(m.cfg.checkpoint())
	if errors.Is(err, errTorn) { // what was settled is known for settled
		m.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the spool is read from its beginning", slog.Any("error", err))
		from, err = checkpoint{}, nil
	}
	if err != nil {
		return err
	}
	if err := m.estimator.Load(m.cfg.estimates()); err != nil {
		m.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "estimates start anew", slog.Any("error", err))
	}
	m.published, m.saved, m.acked.newest = from, from, from.Sequence
	m.done.Store(&from.position)
	if err := m.seek(from.position); err != nil {
		return err
	}
	defer func() {
		m.tail.close()
		m.tail.forget(len(m.tail.finished))
	}()

	publishing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, reading := errgroup.WithContext(ctx)
	group.Go(func() error {
		m.disk.watch(reading, m.unwritable)
		return nil
	})
	group.Go(func() error { return m.publishLoop(publishing) })
	group.Go(func() error {
		defer stop()
		err := m.readLoop(reading)
		m.drain()
		return errors.Join(err, m.estimator.Save(m.cfg.estimates()))
	})
	return group.Wait()
}

// unwritable says that Envoy cannot write the spool any more, or can again.
func (m *Meter) unwritable(label, problem string) {
	for _, one := range []string{unwritableFull, unwritableFailed} {
		m.metrics.unwritable.WithLabelValues(one).Set(0)
	}
	if label == "" {
		m.cfg.Log.LogAttrs(context.Background(), slog.LevelInfo, "the spool can be written")
		return
	}
	m.metrics.unwritable.WithLabelValues(label).Set(1)
	m.cfg.Log.LogAttrs(context.Background(), slog.LevelError, "the spool cannot be written: calls are decided as in an outage",
		slog.String("reason", label), slog.String("problem", problem))
}

// seek goes to a position. When it is gone, nothing counts as done: no file may be
// deleted on its word.
func (m *Meter) seek(p position) error {
	found, err := m.tail.seek(p)
	if err == nil && !found {
		m.done.Store(&position{})
	}
	return err
}

// drain waits until what is settled is published; what is not is replayed at the next start.
func (m *Meter) drain() {
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(drainTime); m.waiting.Load() > 0 && m.publishUp.Load() && time.Now().Before(deadline); {
		<-look.C
	}
}

// readLoop settles the spool's lines, batch by batch, and queues their events.
func (m *Meter) readLoop(ctx context.Context) error {
	pause := time.NewTicker(m.cfg.Poll)
	defer pause.Stop()
	var saved, lagged time.Time
	for ctx.Err() == nil {
		n, err := m.step(ctx)
		if err != nil {
			return err
		}
		if now := time.Now(); now.Sub(lagged) > lagEvery {
			lagged = now
			m.metrics.lag.Set(float64(m.tail.lag()))
			m.housekeeping(ctx, now, &saved)
		}
		if n >= m.cfg.BatchLines {
			continue // there is more
		}
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
	return nil
}

func (m *Meter) housekeeping(ctx context.Context, now time.Time, saved *time.Time) {
	m.metrics.free.Set(float64(m.disk.free.Load()))
	if m.disk.problem() == "" { // else there might be no room for the new file
		if err := m.rotator.step(ctx, m.tail); err != nil {
			m.said.Warn(ctx, "rotation waits", err)
		}
	}
	if err := m.tail.release(*m.done.Load()); err != nil {
		m.said.Warn(ctx, "finished spool stays", err)
	}
	m.tell(ctx, now)
	m.tellProgress(ctx, now)
	m.watchRoom(ctx, now)
	if now.Sub(*saved) > learnedEvery {
		*saved = now
		if err := m.estimator.Save(m.cfg.estimates()); err != nil {
			m.said.Warn(ctx, "estimates are not saved", err)
		}
	}
}

// step does one batch and gives the number of its lines.
func (m *Meter) step(ctx context.Context) (int, error) {
	wanted := m.wanted.Load()
	if wanted != m.reading {
		m.behind, m.behindFrom = true, position{}
		m.away.forget()
	}
	if m.behind && m.waiting.Load() == 0 {
		m.behind = false
		if err := m.seek(m.behindFrom); err != nil { // settled lines again: DUPLICATE, and published now
			return 0, err
		}
		m.reading = wanted
	}
	if err := m.rereadAway(); err != nil {
		return 0, err
	}
	b, err := m.tail.next(m.cfg.BatchLines)
	if err != nil {
		m.said.Warn(ctx, "the spool cannot be read", err)
		return 0, nil
	}
	m.away.at = place{position: b.start, batch: m.away.at.batch + 1}
	b.start = m.away.before(b.start)
	m.judge(b.lines)
	for _, text := range b.damaged {
		m.salvage(text, time.Now())
	}
	m.renew(ctx)
	m.seekOrphans(time.Now())
	m.seekAway(time.Now())
	m.settling[0] = time.Now()
	settled, err := m.settleAll(ctx, m.verdicts)
	m.settling[1] = time.Now()
	if err != nil {
		return 0, nil // ctx ended: the lines are read again at the next start
	}
	messages := m.events(settled)
	m.reviewAway(ctx, time.Now())
	b.end = m.away.before(b.end)
	m.enqueue(ctx, b, messages)
	return len(b.lines) + len(b.damaged), nil
}

// judge turns lines into verdicts and lets the estimator learn from them.
func (m *Meter) judge(lines [][]byte) {
	m.verdicts = m.verdicts[:0]
	now := time.Now()
	for _, text := range lines {
		l, ok := m.parse(text, now)
		if !ok {
			continue
		}
		if l.Running() {
			m.metrics.running.Inc()
			if l.Account != "" {
				m.renewals = append(m.renewals, &limitpb.Renewal{RequestId: l.ID, Account: l.Account})
			}
			continue
		}
		v := charge(&l, m.estimator, m.cfg.Aborted, now)
		m.metrics.countLine(&v)
		if v.publish && v.event.Source == usage.FromProvider {
			m.metrics.countError(m.estimator.learn(&l))
			m.metrics.countInput(&l)
		}
		if v.event.Source == usage.FromRefusal && v.publish && !m.refusals.pass(&v.event) {
			v.publish = false
			m.metrics.skipped.Inc()
		}
		v.correlation, v.trace, v.traceID, v.spanID, v.began = l.Corr, l.Trace, l.TraceID, l.SpanID, v.event.Timestamp
		m.verdicts = append(m.verdicts, v)
	}
}

// events encodes what the verdicts publish after the books have spoken.
func (m *Meter) events(settled []*limitpb.Settled) []usage.Message {
	messages := make([]usage.Message, 0, len(m.verdicts))
	next := 0
	for i := range m.verdicts {
		v, publish := &m.verdicts[i], m.verdicts[i].publish
		var s *limitpb.Settled
		if v.settle {
			s = settled[next]
			next++
			publish = m.outcome(v, s)
		}
		if s.GetStatus() == limitpb.Settled_AWAY {
			continue
		}
		m.cfg.Prices.Freeze(&v.event)
		under := m.trace(v, s)
		if !publish {
			continue
		}
		message, err := usage.MessageOf(v.event, "/meter", v.correlation, under)
		if err != nil {
			m.said.Warn(context.Background(), "an event cannot be encoded", err)
			continue
		}
		m.metrics.countEvent(&v.event)
		if e := &v.event; m.cfg.Log.Enabled(context.Background(), slog.LevelDebug) {
			m.cfg.Log.LogAttrs(context.Background(), slog.LevelDebug, "call settled", slog.String("request_id", e.RequestID),
				slog.Int64("tokens", e.Charged), slog.String("source", string(e.Source)), slog.String("reason", e.Reason))
		}
		messages = append(messages, message)
	}
	return messages
}

// enqueue hands a batch to the publisher. With too many waiting it drops the events
// instead and remembers where: the spool still has them.
func (m *Meter) enqueue(ctx context.Context, b batch, messages []usage.Message) {
	if b.end == b.start && len(messages) == 0 || m.behind {
		return
	}
	if waiting := m.waiting.Load(); waiting > 0 && waiting+int64(len(messages)) > int64(m.cfg.MaxWaiting) {
		m.fallBehind(b)
		m.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "publishing is far behind; settling goes on alone", slog.Int64("waiting", waiting))
		return
	}
	m.waiting.Add(int64(len(messages)))
	select {
	case m.queue <- settledBatch{messages: messages, end: b.end, reading: m.reading}:
		m.queued += int64(len(messages))
	default: // many small batches: as good as too many events
		m.waiting.Add(int64(-len(messages)))
		m.fallBehind(b)
	}
}
