package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/bench/internal/proc"
	"github.com/leaky-tokens/leaky-tokens/bench/internal/rounds"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/principal"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/tokensvc"
)

const (
	users = 500 // who buy
	// clients make the timetable; few, so that none waits for another.
	clients = 8
	// patience is how long a purchase may take in all.
	patience = 30 * time.Second
)

// market is where purchases are made and their ends are heard of.
type market struct {
	stack  *stack
	o      options
	client [replicas]*http.Client
	users  []*user

	mu   sync.Mutex
	ends map[string]chan end // by purchase; made by whoever hears of it first
}

// user is one who buys; their signed identity is minted anew before it runs out.
type user struct {
	id     string
	mu     sync.Mutex
	minted time.Time
	token  string
}

// end is how a purchase ended, and when its event was heard.
type end struct {
	status string
	reason string
	at     time.Time
}

func newMarket(s *stack, o options) (*market, error) {
	m := &market{stack: s, o: o, ends: map[string]chan end{}}
	for i, dial := range s.sockets {
		m.client[i] = &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: o.buyers + clients}}
	}
	for range users {
		m.users = append(m.users, &user{id: uuid.NewString()})
	}
	for _, event := range []string{"TOKEN_PURCHASE_COMPLETED", "TOKEN_PURCHASE_FAILED"} {
		if _, err := s.nats.Subscribe("leaky.saga.v1."+event, m.hear); err != nil {
			return nil, err
		}
	}
	return m, s.nats.FlushTimeout(patience)
}

// hear takes the event of a purchase's end from the bus.
func (m *market) hear(msg *nats.Msg) {
	now := time.Now()
	var envelope usage.Envelope
	var data struct{ ID, Status, Reason string }
	if json.Unmarshal(msg.Data, &envelope) != nil || json.Unmarshal(envelope.Data, &data) != nil {
		return // the buyer will miss it and say so
	}
	select {
	case m.end(data.ID) <- end{data.Status, data.Reason, now}:
	default: // told twice
	}
}

func (m *market) end(purchase string) chan end {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.ends[purchase]
	if c == nil {
		c = make(chan end, 1)
		m.ends[purchase] = c
	}
	return c
}

// identity is what extauthz would send along with a call of theirs.
func (u *user) identity(s *principal.Signer) (string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if now := time.Now(); now.Sub(u.minted) > principal.Lifetime/2 {
		token, err := s.Mint(principal.Principal{UserID: u.id, Roles: []string{principal.RoleUser}, Tier: "USER"}, tokensvc.Audience, now)
		if err != nil {
			return "", err
		}
		u.token, u.minted = token, now
	}
	return u.token, nil
}

// buy posts an order, as a careful client does with a key, and gives the purchase's id.
func (m *market) buy(ctx context.Context, u *user, replica int) (string, error) {
	token, err := u.identity(m.stack.signer)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://tokensvc/api/v1/tokens/purchase",
		bytes.NewReader([]byte(`{"provider":"openai","tokens":1000}`)))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", uuid.NewString())
	req.Header.Set(attributes.HeaderIdentity, token)
	res, err := m.client[replica].Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return "", err
	}
	var answer struct{ SagaID string }
	if res.StatusCode != http.StatusAccepted || json.Unmarshal(text, &answer) != nil {
		return "", fmt.Errorf("a purchase was answered %d: %.300s", res.StatusCode, text)
	}
	return answer.SagaID, nil
}

// ended waits for the end of a purchase and gives when that was heard.
func (m *market) ended(ctx context.Context, purchase string) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case e := <-m.end(purchase):
		m.mu.Lock()
		delete(m.ends, purchase)
		m.mu.Unlock()
		if e.status != "COMPLETED" {
			return e.at, fmt.Errorf("purchase %s is %s: %s", purchase, e.status, e.reason)
		}
		return e.at, nil
	case <-ctx.Done():
		return time.Time{}, fmt.Errorf("purchase %s: no end heard of within %v: %w", purchase, patience, ctx.Err())
	}
}

// sale is one measurement of purchases with so many replicas.
type sale struct {
	answered, inserted, completed []time.Duration // at the fixed rate, sorted
	loop                          loop
}

func (m *market) sale(ctx context.Context, replicas int) (sale, error) {
	got, err := m.timetable(ctx, replicas)
	if err != nil {
		return got, err
	}
	got.loop, err = m.loop(ctx, replicas, m.o.window)
	return got, err
}

// timetable buys at the fixed rate. After each order the same client inserts a bare row: what disturbs
// the one disturbs the other.
func (m *market) timetable(ctx context.Context, replicas int) (sale, error) {
	var (
		mu      sync.Mutex
		out     sale
		failure error
		wg      sync.WaitGroup
	)
	begin, every := time.Now(), time.Duration(clients/m.o.rate*float64(time.Second))
	note := func(into *[]time.Duration, took time.Duration, err error) {
		mu.Lock()
		defer mu.Unlock()
		*into = append(*into, took)
		failure = errors.Join(failure, err)
	}
	for i := range clients {
		wg.Go(func() {
			for due := begin.Add(every * time.Duration(i) / clients); due.Sub(begin) < m.o.window && ctx.Err() == nil; due = due.Add(every) {
				pause(ctx, time.Until(due))
				sent := time.Now()
				purchase, err := m.buy(ctx, m.users[int(sent.UnixMicro())%users], i%replicas)
				note(&out.answered, time.Since(sent), err)
				if err != nil {
					return
				}
				wg.Go(func() {
					at, err := m.ended(ctx, purchase)
					note(&out.completed, at.Sub(sent), err)
				})
				pause(ctx, every/4)
				began := time.Now()
				err = m.insert(ctx)
				note(&out.inserted, time.Since(began), err)
			}
		})
	}
	wg.Wait()
	for _, all := range [][]time.Duration{out.answered, out.inserted, out.completed} {
		slices.Sort(all)
	}
	return out, errors.Join(failure, ctx.Err())
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(max(0, d))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// insert is the least that anything which remembers a purchase could do.
func (m *market) insert(ctx context.Context) error {
	_, err := m.stack.db.Exec(ctx, `INSERT INTO bench_bare (id, user_id, provider, tokens, created_at) VALUES ($1, $2, $3, $4, $5)`,
		uuid.New(), uuid.New(), "openai", 1000, time.Now())
	return err
}

// loop is what buyers in a closed loop achieved.
type loop struct {
	completed []time.Duration // sorted
	elapsed   time.Duration
	cpu       map[string]time.Duration
}

func (l loop) rate() float64 { return float64(len(l.completed)) / l.elapsed.Seconds() }

func (l loop) cpuOf(part string) float64 {
	return float64(l.cpu[part].Microseconds()) / float64(len(l.completed))
}

// loop has every buyer buy and wait for the end of it, again and again.
func (m *market) loop(ctx context.Context, replicas int, window time.Duration) (loop, error) {
	pids, err := m.stack.pids(ctx)
	if err != nil {
		return loop{}, err
	}
	before, err := proc.CPU(pids)
	if err != nil {
		return loop{}, err
	}
	var (
		mu      sync.Mutex
		out     loop
		failure error
		wg      sync.WaitGroup
	)
	begin := time.Now()
	for i := range m.o.buyers {
		wg.Go(func() {
			var mine []time.Duration
			var err error
			for n := i; err == nil && time.Since(begin) < window; n += m.o.buyers {
				var purchase string
				sent := time.Now()
				if purchase, err = m.buy(ctx, m.users[n%users], i%replicas); err == nil {
					var at time.Time
					at, err = m.ended(ctx, purchase)
					mine = append(mine, at.Sub(sent))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			out.completed = append(out.completed, mine...)
			failure = errors.Join(failure, err)
		})
	}
	wg.Wait()
	out.elapsed = time.Since(begin)
	after, err := proc.CPU(pids)
	if err := errors.Join(failure, err); err != nil {
		return out, err
	}
	out.cpu = map[string]time.Duration{}
	for part := range after {
		out.cpu[part] = after[part] - before[part]
	}
	slices.Sort(out.completed)
	return out, nil
}

func at(sorted []time.Duration, q float64) time.Duration { return rounds.Quantile(sorted, q) }
