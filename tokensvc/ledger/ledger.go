// Package ledger keeps the books of tokens: who was given how many, spent how many, and
// has how many left, for each provider. The entries are the truth; the rows of pools are
// their fold, kept beside them in the same transaction. See docs/design/ledger.md.
package ledger

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
)

// DefaultWindow is how long a window of a pool lasts that refills.
const DefaultWindow = 24 * time.Hour

// mostTokens is the most that a pool holds. Half of what an int64 does, so that no
// difference of two such numbers overflows.
const mostTokens = 1 << 62

// Kinds of entries.
const (
	KindPurchase   = "purchase"
	KindRefund     = "refund"
	KindAdjustment = "adjustment"
	kindUsage      = "usage"
	kindExpiry     = "expiry"
)

// Accounts on the other side of entries.
const (
	counterSales      = "system:sales"
	counterUsage      = "system:usage"
	counterRefund     = "system:refund"
	counterExpiry     = "system:expiry"
	counterAdjustment = "system:adjustment"
	counterRefill     = "system:refill"
)

var (
	// ErrOverflow says that a pool can't hold so many tokens.
	ErrOverflow = errors.New("the pool cannot hold so many tokens")
	// ErrOverCap says that the credit would lift the pool over what the owner's tier allows.
	ErrOverCap = errors.New("the pool would exceed the cap of the tier")
	// ErrShort says that there are fewer tokens than are to be taken back.
	ErrShort = errors.New("the pool does not hold so many tokens")
	// ErrReferenceTaken says that the reference stands for an entry with other contents.
	ErrReferenceTaken = errors.New("the reference is taken by another entry")
	// ErrUnknownReference says that no credit has the reference.
	ErrUnknownReference = errors.New("no credit has this reference")
	// ErrNoPool says that the account has no pool for the provider.
	ErrNoPool = errors.New("no such pool")
	// ErrRefill says that the pool is there and refills otherwise than was asked for.
	ErrRefill = errors.New("the pool refills otherwise")
	// ErrInvalid says that an order makes no sense, whatever the state of the books.
	ErrInvalid = errors.New("invalid order")
	// ErrCorrupt says that the books contradict themselves; nothing was written.
	ErrCorrupt = errors.New("ledger is inconsistent")
)

// How a pool refills.
const (
	RefillWindow = "window" // full again at the end of each window: a quota
	RefillNever  = "never"  // what is spent is gone: prepaid
)

// Policy is how a new pool refills; a pool that is there keeps its own.
type Policy struct {
	Prepaid bool          // what is spent is gone, and nothing refills
	Window  time.Duration // else it is full again after each; 0: DefaultWindow
}

// Account is whose pool it is: the organisation's, else the user's.
func Account(user, org uuid.UUID) string {
	if org != uuid.Nil {
		return "org:" + org.String()
	}
	return "user:" + user.String()
}

// Key names a pool.
type Key struct{ Account, Provider string }

// owner is an account taken apart.
type owner struct {
	org bool
	id  uuid.UUID
}

// parse checks an account; only the one spelling is an account.
func (k Key) parse() (owner, error) {
	kind, text, _ := strings.Cut(k.Account, ":")
	id, err := uuid.Parse(text)
	if err != nil || id.String() != text || kind != "user" && kind != "org" {
		return owner{}, fmt.Errorf("%w: account %q", ErrInvalid, k.Account)
	}
	if k.Provider == "" || len(k.Provider) > longestProvider || strings.ContainsRune(k.Provider, 0) ||
		k.Provider != strings.ToLower(strings.TrimSpace(k.Provider)) {
		return owner{}, fmt.Errorf("%w: provider %q", ErrInvalid, k.Provider)
	}
	return owner{org: kind == "org", id: id}, nil
}

// longestProvider and longestReference are what the columns hold, in bytes; a reference is
// lengthened for the entries that follow from its own.
const (
	longestProvider  = 50
	longestReference = 150
	longestReason    = 500
)

func unit(provider string) string { return "token:" + provider }

// References of entries that follow from others. Those of credits are the caller's: ids of
// purchases, or with a prefix of their own.
func usageReference(request string) string      { return "usage:" + request }
func lateReference(call string) string          { return "late:" + call }
func expiryReference(credit string) string      { return "expiry:" + credit }
func expirySpentReference(credit string) string { return "expiry-spent:" + credit }
func reverseReference(credit string) string     { return "reverse:" + credit }
func refillReference(k Key, end time.Time) string {
	return fmt.Sprintf("refill:%s/%s:%d", k.Account, k.Provider, end.UnixMicro())
}

// entry moves amount from counter to account.
type entry struct {
	account, counter, unit string
	amount                 int64
	kind                   string
	reference, reason      string
	actor                  uuid.UUID
	at                     time.Time
	version                int64  // of what was told of a call
	corrects               string // reference of the call's first entry
	cost                   Cost   // of usage
}

func (k Key) compare(other Key) int {
	return cmp.Or(cmp.Compare(k.Account, other.Account), cmp.Compare(k.Provider, other.Provider))
}

// Valid says that a pool may have this name.
func (k Key) Valid() bool {
	_, err := k.parse()
	return err == nil
}
