package extauthz

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/natsconn"
	"github.com/leaky-tokens/leaky-tokens/internal/retry"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// pace is how often the follower does what; tests are in more of a hurry.
type pace struct {
	tick    time.Duration // looks around
	silence time.Duration // without a heartbeat the list is fetched at every tick
	relist  time.Duration // fetches the list anyway
	stale   time.Duration // revocation.StaleAfter
}

func standardPace() pace {
	return pace{tick: time.Second, silence: 2 * revocation.HeartbeatEvery, relist: 30 * time.Second, stale: revocation.StaleAfter}
}

// follower learns of revocations: by NATS as they happen, and by identity's list what
// messages may have missed. docs/design/revocation.md has the reasoning.
type follower struct {
	url     string // of NATS; empty: the list alone
	list    func(context.Context) (revocation.List, error)
	pace    pace
	grace   time.Duration
	denied  *denylist
	fresh   *freshness
	forget  func() // drops remembered API keys
	metrics *metrics
	log     *slog.Logger
	said    *retry.Troubles

	// What Run alone touches.
	link     int       // number of the NATS link, 0 while there is none
	covered  int       // the link since whose start nothing was missed
	heard    time.Time // when all revocations were known last
	beat     time.Time // when a heartbeat came last
	echoed   time.Time // when NATS answered last
	listedAt time.Time // when the list was asked for last
	listing  bool
	pinging  bool
	failing  bool
	swept    time.Time
}

// linked is a change of the link to NATS.
type linked struct {
	conn *nats.Conn // nil: lost
}

// listed is the outcome of fetching the list.
type listed struct {
	list revocation.List
	err  error
	at   time.Time // begun
	link int       // there when it began
}

// echo is NATS's answer to a ping.
type echo struct {
	ok bool
	at time.Time // begun
}

// run follows until ctx ends.
func (f *follower) run(ctx context.Context) error {
	messages, links := make(chan *nats.Msg, 8192), make(chan linked, 16)
	if f.url == "" {
		f.log.Warn("no NATS address: revocations are known when the list is fetched")
	} else {
		conn, err := f.connect(ctx, messages, links)
		if err != nil {
			return err
		}
		defer conn.Close()
	}
	lists, echoes := make(chan listed, 1), make(chan echo, 1)
	var conn *nats.Conn
	number := 0
	tick := time.NewTicker(f.pace.tick)
	defer tick.Stop()
	for {
		f.fetch(ctx, lists)
		select {
		case <-ctx.Done():
			return nil
		case m := <-messages:
			f.message(m)
		case l := <-links:
			if conn = l.conn; conn == nil {
				f.link, f.echoed = 0, time.Time{}
			} else {
				number++
				f.link, f.echoed = number, time.Now()
			}
		case l := <-lists:
			f.took(l)
		case e := <-echoes:
			if f.pinging = false; e.ok && f.link != 0 {
				f.echoed = later(f.echoed, e.at)
			}
		case now := <-tick.C:
			f.ping(ctx, conn, echoes)
			if now.Sub(f.swept) > time.Minute {
				f.swept = now
				f.denied.drop(now)
			}
		}
		f.publish()
	}
}

// connect subscribes. The link counts as up once the server has the subscriptions: what
// was announced before that is for the list to tell.
func (f *follower) connect(ctx context.Context, messages chan *nats.Msg, links chan linked) (*nats.Conn, error) {
	subscribed := make(chan struct{})
	say := func(l linked) {
		select {
		case links <- l:
		case <-ctx.Done():
		}
	}
	up := func(conn *nats.Conn) {
		select {
		case <-subscribed:
		case <-ctx.Done():
			return
		}
		if err := conn.FlushTimeout(flushTimeout); err == nil { // else its return calls this anew
			say(linked{conn: conn})
		}
	}
	const askIdentity, missed = "link to NATS lost, asking identity for revocations", "revocations may have been missed"
	back := func(conn *nats.Conn) {
		f.said.Over(ctx, askIdentity, "link to NATS is back, revocations come by it")
		up(conn)
	}
	conn, err := natsconn.Connect(natsconn.Config{URL: f.url, Name: topology.ExtAuthz, Log: f.log},
		nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2),
		nats.ConnectHandler(back), nats.ReconnectHandler(back),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			say(linked{})
			if ctx.Err() == nil {
				f.said.Warn(ctx, askIdentity, err)
			}
		}),
		nats.ErrorHandler(func(conn *nats.Conn, _ *nats.Subscription, err error) {
			f.said.Warn(ctx, missed, err)
			if errors.Is(err, nats.ErrSlowConsumer) { // messages were dropped: a new link as far as the list is concerned
				say(linked{conn: conn})
			}
		}))
	if err != nil {
		return nil, err
	}
	// One channel for both, so that a heartbeat is not seen before the revocations that
	// were sent before it.
	for _, subject := range []string{revocation.Subject, revocation.SubjectHeartbeat} {
		if _, err := conn.ChanSubscribe(subject, messages); err != nil {
			conn.Close()
			return nil, fmt.Errorf("subscribe %s: %w", subject, err)
		}
	}
	close(subscribed)
	return conn, nil
}

// flushTimeout is longer than NATS takes to be found dead by missing pings.
const flushTimeout = 10 * time.Second

func (f *follower) message(m *nats.Msg) {
	now := time.Now()
	if m.Subject == revocation.SubjectHeartbeat {
		f.beat = now
		if f.link != 0 && f.covered == f.link {
			f.heard = now
		}
		return
	}
	r, err := revocation.Decode(m.Data)
	if err != nil {
		f.said.Warn(context.Background(), "announcement not understood, fetching the list", err)
		f.listedAt = now.Add(f.pace.tick - f.pace.relist)
		return
	}
	f.denied.add(r, now)
	f.metrics.revoked(r.Kind).Inc()
	if !r.At.IsZero() {
		f.metrics.spread.Observe(max(0, now.Sub(r.At).Seconds()))
	}
}

// fetch asks for the list when it is time to: at once on a new link, at every tick while
// there is no heartbeat, and now and then.
func (f *follower) fetch(ctx context.Context, lists chan<- listed) {
	now := time.Now()
	since := now.Sub(f.listedAt)
	missing := f.link == 0 || f.covered != f.link || now.Sub(f.beat) >= f.pace.silence
	atOnce := f.listedAt.IsZero() || f.link != 0 && f.covered != f.link && !f.failing
	if f.listing || !atOnce && !(missing && since >= f.pace.tick*9/10) && since < f.pace.relist {
		return
	}
	f.listing, f.listedAt = true, now
	if f.beat.IsZero() {
		f.beat = now // the first heartbeat has not had its time yet
	}
	link := f.link
	go func() {
		list, err := f.list(ctx)
		select {
		case lists <- listed{list: list, err: err, at: now, link: link}:
		case <-ctx.Done():
		}
	}()
}

// unlisted is said while identity does not give its list.
const unlisted = "revocations not fetched"

// took merges a list. Nothing is ever taken off but by its time.
func (f *follower) took(l listed) {
	f.listing = false
	if l.err != nil {
		f.said.Warn(context.Background(), unlisted, l.err)
		f.failing = true
		return
	}
	now := time.Now()
	for _, r := range l.list.Revocations {
		f.denied.add(r, now)
	}
	f.said.Over(context.Background(), unlisted, "revocations fetched again")
	if f.heard.IsZero() {
		f.log.Info("revocations fetched", slog.Int("listed", len(l.list.Revocations)), slog.Int("kept", f.denied.size()))
	}
	f.failing = false
	// A gap longer than keys stay in the list may have hidden a key's revocation.
	if f.covered != f.link && l.at.Sub(f.heard) > revocation.ListedFor/2 {
		f.forget()
	}
	f.heard = later(f.heard, l.at)
	if l.link != 0 && l.link == f.link {
		f.covered = l.link
	}
}

// ping asks NATS whether it is there: a dead link looks like a silent one for a while.
func (f *follower) ping(ctx context.Context, conn *nats.Conn, echoes chan<- echo) {
	if f.pinging || conn == nil {
		return
	}
	f.pinging = true
	begun := time.Now()
	go func() {
		err := conn.FlushTimeout(f.pace.stale)
		select {
		case echoes <- echo{ok: err == nil, at: begun}:
		case <-ctx.Done():
		}
	}()
}

// publish tells the checks what the state comes to.
func (f *follower) publish() {
	var freshUntil, offlineUntil time.Time
	if !f.heard.IsZero() {
		freshUntil = f.heard.Add(f.pace.stale)
		if f.link != 0 && f.covered == f.link {
			offlineUntil = f.heard.Add(f.grace)
			if alive := f.echoed.Add(f.pace.stale); alive.Before(offlineUntil) {
				offlineUntil = alive
			}
		}
	}
	f.fresh.set(f.heard, freshUntil, offlineUntil)
	up := 0.0
	if f.link != 0 && f.covered == f.link {
		up = 1
	}
	f.metrics.linked.Set(up)
}

// shorten takes up to a tenth off, so that what began together does not end together.
func shorten(d time.Duration) time.Duration {
	return d - rand.N(d/10+1)
}
