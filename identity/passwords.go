package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"
)

// params are the cost of a hash (OWASP: argon2id with 19 MiB, t=2, p=1: about 60 ms).
type params struct {
	memory  uint32 // KiB
	time    uint32
	threads uint8
}

const (
	saltLen = 16
	hashLen = 32
	// maxWaiting is how many callers may stand in line for a hash; more are sent away.
	maxWaiting = 64
	// maxWait is how long one stands in line.
	maxWait = 5 * time.Second
)

// errBusy says that too many passwords are being checked at once.
var errBusy = errors.New("too many logins at once")

var errBadHash = errors.New("malformed password hash")

// passwords hashes and checks passwords with argon2id. At most one hash per CPU runs
// at a time, so a flood of logins costs slots*19 MiB and no more.
type passwords struct {
	cost    params
	slots   chan struct{}
	waiting atomic.Int64
	dummy   string // checked when there is no such user, so that the time tells nothing
	quiet   *time.Timer
}

// quietAfter a hash its memory goes back to the machine: argon2 leaves blocks of
// 19 MiB behind, which an idle process would keep for minutes.
const quietAfter = 2 * time.Second

func newPasswords() (*passwords, error) {
	p := &passwords{cost: params{memory: 19 << 10, time: 2, threads: 1}, slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	p.quiet = time.AfterFunc(quietAfter, debug.FreeOSMemory)
	var err error
	p.dummy, err = p.hash(context.Background(), rand.Text())
	return p, err
}

// hash makes the PHC string $argon2id$v=19$m=..,t=..,p=..$salt$hash.
func (p *passwords) hash(ctx context.Context, password string) (string, error) {
	release, err := p.enter(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	salt := make([]byte, saltLen)
	rand.Read(salt)
	sum := argon2.IDKey([]byte(password), salt, p.cost.time, p.cost.memory, p.cost.threads, hashLen)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.cost.memory, p.cost.time, p.cost.threads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(sum)), nil
}

// verify checks a password against a stored hash, or against the dummy when there is
// none, and then says no.
func (p *passwords) verify(ctx context.Context, stored, password string) (bool, error) {
	known := stored != ""
	if !known {
		stored = p.dummy
	}
	cost, salt, want, err := parseHash(stored)
	if err != nil {
		return false, err
	}
	release, err := p.enter(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	got := argon2.IDKey([]byte(password), salt, cost.time, cost.memory, cost.threads, uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1 && known, nil
}

// outdated says that a hash was made with other costs than today's.
func (p *passwords) outdated(stored string) bool {
	cost, _, sum, err := parseHash(stored)
	return err != nil || cost != p.cost || len(sum) != hashLen
}

func (p *passwords) enter(ctx context.Context) (release func(), err error) {
	release = func() {
		<-p.slots
		p.quiet.Reset(quietAfter)
	}
	select {
	case p.slots <- struct{}{}:
		return release, nil
	default:
	}
	defer p.waiting.Add(-1)
	if p.waiting.Add(1) > maxWaiting {
		return nil, errBusy
	}
	late := time.NewTimer(maxWait)
	defer late.Stop()
	select {
	case p.slots <- struct{}{}:
		return release, nil
	case <-late.C:
		return nil, errBusy
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// parseHash reads a PHC string. The costs are bounded, as a row of the database must
// not be able to take all memory.
func parseHash(s string) (cost params, salt, sum []byte, err error) {
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return cost, nil, nil, errBadHash
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &cost.memory, &cost.time, &cost.threads); err != nil || n != 3 ||
		cost.memory < 8 || cost.memory > 256<<10 || cost.time < 1 || cost.time > 16 || cost.threads < 1 || cost.threads > 16 {
		return cost, nil, nil, errBadHash
	}
	salt, saltErr := base64.RawStdEncoding.DecodeString(parts[4])
	sum, sumErr := base64.RawStdEncoding.DecodeString(parts[5])
	if saltErr != nil || sumErr != nil || len(salt) < 8 || len(sum) < 16 || len(sum) > 64 {
		return cost, nil, nil, errBadHash
	}
	return cost, salt, sum, nil
}
