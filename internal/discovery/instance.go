// Package discovery is beside the request path: it is how processes of services are found. Each says
// in a bucket of NATS that it serves, where, and for how long that holds (Registrar), and xds makes
// Envoy's endpoints of those that do (Tracker).
//
// A key is SERVICE.SITE.PART, as in ratelimit.5d41402a.ratelimit-2. The service is in the subject of
// the key, so that the rights of NATS keep each service from registering under another's name.
//
//	          ready                lease runs out
//	(nothing) ─────▶ serving ⇄ unready ─────────▶ lost ── is heard again ──▶ serving
//	                    │         │
//	                    └────┬────┘ told to end
//	                         ▼
//	                      leaving ── every Envoy knows, requests have ended ──▶ left
package discovery

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/leaky-tokens/leaky-tokens/internal/config"
	"github.com/leaky-tokens/leaky-tokens/internal/netaddr"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
)

// Bucket is the bucket's name.
const Bucket = "leaky-services"

// subjectLeave is asked, with the service's name behind it, by a process that leaves: the answer
// comes once no Envoy calls it any more.
const subjectLeave = "leaky.rpc.v1.leave."

// Bounds of what a process may say of itself.
const (
	maxValue  = 2 << 10 // bytes of one registration
	maxWeight = 100
	minLease  = time.Second
	maxLease  = time.Minute
)

// State is how a process is.
type State string

// States of a process. It says the first three itself.
const (
	Serving State = "serving"
	Unready State = "unready" // it runs, and cannot do its work
	Leaving State = "leaving" // it ends what it has begun and takes nothing new
	Left    State = "left"    // it has ended
	Lost    State = "lost"    // nothing was heard of it for longer than its lease
)

// Instance is one process of a service.
type Instance struct {
	Service string `json:"-"` // as package topology names it
	Site    string `json:"-"` // the machine and state folder, see SiteOf
	Part    string `json:"-"` // as `leaky ps` names it: ratelimit-2

	Address string        `json:"address"` // where Envoy calls it: host:port, or unix: and an absolute path
	Weight  uint32        `json:"weight"`  // its share of the calls beside the others', 1 to 100
	Zone    string        `json:"zone,omitempty"`
	State   State         `json:"state"`
	Lease   time.Duration `json:"leaseNanos"` // so long it counts without a word of it, 1s to 1m
	Since   time.Time     `json:"since"`      // start of the process
}

// SiteOf names a machine and a state folder: addresses on loopback and Unix sockets are of use to who
// is at the same.
func SiteOf(stateDir string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	sum := sha256.Sum256([]byte(host + "\x00" + filepath.Clean(stateDir)))
	return hex.EncodeToString(sum[:4])
}

func (i Instance) key() string { return i.Service + "." + i.Site + "." + i.Part }

// subjectPrefix comes before a key in the subject of its messages.
const subjectPrefix = "$KV." + Bucket + "."

// Subjects are all messages of the bucket.
const Subjects = subjectPrefix + ">"

// SubjectsOf are those of one service.
func SubjectsOf(service string) string { return subjectPrefix + service + ".>" }

// SubjectLeave is asked by processes of a service that leave; * for all services.
func SubjectLeave(service string) string { return subjectLeave + service }

var (
	word = regexp.MustCompile(`^[a-z0-9-]{1,40}$`)
	zone = regexp.MustCompile(`^[A-Za-z0-9._-]{0,64}$`)
)

// named is the instance that a key is about.
func named(key string) (Instance, error) {
	words := strings.Split(key, ".")
	if len(words) != 3 || !word.MatchString(words[1]) || !word.MatchString(words[2]) {
		return Instance{}, errors.New("a key is SERVICE.SITE.PART")
	}
	i := Instance{Service: words[0], Site: words[1], Part: words[2]}
	if of, ok := topology.Find(i.Service); !ok || !of.Listens() {
		return i, errors.New("no service has this name")
	}
	if of, _ := config.Instance(i.Part); of != i.Service {
		return i, fmt.Errorf("the part is not one of %s", i.Service)
	}
	return i, nil
}

// parse reads a registration. What is wrong with it is told without repeating what it says.
func parse(key string, value []byte) (Instance, error) {
	i, err := named(key)
	if err != nil {
		return i, err
	}
	if len(value) > maxValue {
		return i, fmt.Errorf("a registration has at most %d bytes", maxValue)
	}
	if err := json.Unmarshal(value, &i); err != nil {
		return i, errors.New("a registration is JSON")
	}
	return i, i.check()
}

func (i Instance) check() error {
	switch {
	case i.Weight < 1 || i.Weight > maxWeight:
		return fmt.Errorf("the weight must be 1 to %d", maxWeight)
	case !zone.MatchString(i.Zone):
		return errors.New("the zone must be at most 64 letters, digits, dots, dashes and underscores")
	case i.State != Serving && i.State != Unready && i.State != Leaving:
		return errors.New("the state is not known")
	case i.Lease < minLease || i.Lease > maxLease:
		return fmt.Errorf("the lease must be %v to %v", minLease, maxLease)
	}
	_, err := i.addr()
	return err
}

// addr is its address, which an Envoy must be able to take as it is: no name to look up, no wildcard.
func (i Instance) addr() (netaddr.Addr, error) {
	a, err := netaddr.Parse(i.Address)
	if err != nil {
		return a, errors.New("the address must be host:port or unix:/path")
	}
	if a.Network == "unix" {
		if !filepath.IsAbs(a.Path) || len(a.Path) > 107 || strings.IndexFunc(a.Path, func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
			return a, errors.New("the socket must have an absolute path of at most 107 printable characters")
		}
		return a, nil
	}
	ip, err := netip.ParseAddr(a.Host)
	if err != nil || ip.IsUnspecified() || ip.IsMulticast() || ip.Zone() != "" || a.Port == 0 {
		return a, errors.New("the address must have an IP address and a port")
	}
	return a, nil
}

// near reports whether the address is of use on its own machine alone.
func near(a netaddr.Addr) bool {
	ip, err := netip.ParseAddr(a.Host)
	return a.Network == "unix" || err == nil && ip.IsLoopback()
}
