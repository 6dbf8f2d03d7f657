package discovery

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

const (
	maxElsewhere = 64               // processes of one service at other sites that are remembered
	returning    = 2 * time.Second  // beyond its lease, for a process to be heard again after NATS was away
	together     = time.Second      // those that are lost within it are one line: all, where NATS hangs
	forgotten    = 10 * time.Minute // after which one of another site that is gone is no longer thought of
)

// book is what a Tracker knows. Every change of it that may change endpoints has a number, so that
// who publishes them can say how far it came.
type book struct {
	site string
	far  bool
	log  *slog.Logger

	changes chan struct{} // holds one once there is something new

	mu        sync.Mutex
	known     map[string]*entry   // by key
	placed    map[string][]*entry // by service, see Place
	away      bool                // NATS is
	number    uint64              // of the last change
	published uint64              // the change that Envoys have
	waiting   map[string]waiter   // by key
	refused   map[string]bool     // services whose last registration was not taken
	lost      []string            // processes that it is not said of yet, the first of them
	lostAt    time.Time           // at this time
}

type entry struct {
	Instance
	at    netaddr.Addr
	until time.Time // of its lease; then of its being remembered
}

// waiter is told once a change is published.
type waiter struct {
	number uint64
	tell   func()
}

func newBook(c TrackerConfig) book {
	return book{site: c.Site, far: c.Far, log: c.Log, changes: make(chan struct{}, 1),
		known: map[string]*entry{}, placed: map[string][]*entry{},
		waiting: map[string]waiter{}, refused: map[string]bool{}}
}

// Changed holds one value once endpoints may have changed since it was read last.
func (b *book) Changed() <-chan struct{} { return b.changes }

// changed numbers a change; b.mu is held.
func (b *book) changed() {
	b.number++
	select {
	case b.changes <- struct{}{}:
	default: // it is told already
	}
}

// Number is that of the last change.
func (b *book) Number() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.number
}

// Published notes that Envoys have the endpoints as they were at a change.
func (b *book) Published(number uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.published = max(b.published, number)
	for key, w := range b.waiting {
		if w.number <= b.published {
			delete(b.waiting, key)
			w.tell()
		}
	}
}

// take notes a registration of a process that can be called from here. One that was read may be older
// than what was heard since.
func (b *book) take(now time.Time, key string, value []byte, read bool) {
	i, err := parse(key, value)
	at, _ := i.addr() // checked by parse
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.known[key]
	if err == nil && before == nil && i.Site != b.site && b.elsewhere(i.Service) >= maxElsewhere {
		err = fmt.Errorf("%d processes of the service are known already", maxElsewhere)
	}
	if err != nil {
		b.refuse(i.Service, err)
		return
	}
	if near(at) && i.Site != b.site || !near(at) && !b.far || read && before != nil && before.State != Lost {
		return
	}
	delete(b.refused, i.Service)
	same := before != nil && before.Address == i.Address && before.Weight == i.Weight && before.Zone == i.Zone && before.State == i.State
	b.known[key] = &entry{Instance: i, at: at, until: now.Add(i.Lease)}
	if !same {
		b.log.Info("registered", slog.String("part", i.Part), slog.String("site", i.Site), slog.String("state", string(i.State)))
		b.changed()
	}
}

// refuse tells of a registration that is not taken, once until the service has a good one: a service
// that goes wrong must not fill the log. b.mu is held.
func (b *book) refuse(service string, because error) {
	if _, ok := topology.Find(service); ok && !b.refused[service] {
		b.refused[service] = true
		b.log.Warn("a registration is not taken", slog.String("service", service), slog.Any("error", because))
	}
}

// elsewhere counts the processes of a service at other sites; those of one site are bounded by their
// names.
func (b *book) elsewhere(service string) (n int) {
	for _, e := range b.known {
		if e.Service == service && e.Site != b.site {
			n++
		}
	}
	return n
}

// left notes that a process has ended.
func (b *book) left(now time.Time, key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.known[key]; e != nil && e.State != Left {
		e.State, e.until = Left, now.Add(forgotten)
		b.changed()
	}
}

// leave has tell called once no Envoy calls the process any more.
func (b *book) leave(key string, tell func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.known[key]
	if e == nil {
		tell()
		return
	}
	if e.State != Leaving && e.State != Left {
		e.State = Leaving
		b.changed()
	}
	if b.published >= b.number {
		tell()
		return
	}
	b.waiting[key] = waiter{b.number, tell}
}

// look notes whose lease ran out. After NATS was away everybody has time to be heard again.
func (b *book) look(now time.Time, connected bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away == connected {
		b.away = !connected
		b.changed()
		if connected {
			for _, e := range b.known {
				e.until = now.Add(e.Lease + returning)
			}
		}
	}
	if len(b.lost) > 0 && (b.away || now.Sub(b.lostAt) >= together) {
		slices.Sort(b.lost)
		b.log.Warn("not heard for longer than their lease", slog.Any("parts", b.lost))
		b.lost = nil
	}
	if b.away {
		return
	}
	for key, e := range b.known {
		switch {
		case now.Before(e.until):
		case e.State == Serving, e.State == Unready:
			if len(b.lost) == 0 {
				b.lostAt = now
			}
			b.lost = append(b.lost, e.Part+" of "+e.Site)
			e.State, e.until = Lost, now.Add(forgotten)
			b.changed()
		case e.State == Leaving:
			e.State, e.until = Left, now.Add(forgotten)
			b.changed()
		case e.Site != b.site: // those of this one are few, and what hangs must not come back by being forgotten
			delete(b.known, key)
		}
	}
}

// List are the processes that are known, by service and part.
func (b *book) List() []Instance {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]Instance, 0, len(b.known))
	for _, e := range b.known {
		all = append(all, e.Instance)
	}
	for _, placed := range b.placed {
		for _, e := range placed {
			all = append(all, e.Instance)
		}
	}
	slices.SortFunc(all, func(x, y Instance) int { return cmp.Compare(x.key(), y.key()) })
	return all
}

// Endpoint is one address that Envoy calls.
type Endpoint struct {
	Addr   netaddr.Addr
	Weight uint32
	Zone   string
}

// Endpoints are where a service is called: at the addresses of the file, less those whose process is
// known not to serve, and at those of processes that the file does not name. There is always one:
// where nobody serves, those are asked that last did and have not said that they end, and the file's
// if there is none. While NATS is away none that was there goes. Where another says who serves (see
// Place), an address of the file of which nothing is known is not called.
func (b *book) Endpoints(service string, file []netaddr.Addr) []Endpoint {
	b.mu.Lock()
	defer b.mu.Unlock()
	registered := b.of(service, file)
	told := b.withPlaced(service, file[0].Network, registered)
	var serving, doubtful []Endpoint
	for _, at := range file {
		e, known := registered[at]
		switch {
		case !known && told:
		case !known:
			serving = append(serving, Endpoint{Addr: at, Weight: 1})
		case e.State == Serving || b.away:
			serving = append(serving, Endpoint{at, e.Weight, e.Zone})
		case e.State == Unready || e.State == Lost:
			doubtful = append(doubtful, Endpoint{at, e.Weight, e.Zone})
		}
	}
	for _, at := range slices.SortedFunc(maps.Keys(registered), func(x, y netaddr.Addr) int { return cmp.Compare(x.String(), y.String()) }) {
		if slices.Contains(file, at) {
			continue
		}
		switch e := registered[at]; e.State {
		case Serving:
			serving = append(serving, Endpoint{at, e.Weight, e.Zone})
		case Unready, Lost:
			doubtful = append(doubtful, Endpoint{at, e.Weight, e.Zone})
		}
	}
	if len(serving) > 0 {
		return serving
	}
	if len(doubtful) > 0 {
		return doubtful
	}
	all := make([]Endpoint, len(file))
	for i, at := range file {
		all[i] = Endpoint{Addr: at, Weight: 1}
	}
	return all
}

// of are the processes of a service that are called in the same way as those of the file, by address.
// Of two at one address the one that serves counts: the other was there before.
func (b *book) of(service string, file []netaddr.Addr) map[netaddr.Addr]*entry {
	found := map[netaddr.Addr]*entry{}
	for _, e := range b.known {
		if e.Service != service || e.at.Network != file[0].Network {
			continue
		}
		if other := found[e.at]; other == nil || rank(e.State) > rank(other.State) {
			found[e.at] = e
		}
	}
	return found
}

// rank is higher the more likely a process answers.
func rank(s State) int { return slices.Index([]State{Left, Leaving, Lost, Unready, Serving}, s) }
