// Package membership is how a service asks identity whether a user belongs to an
// organisation: a NATS request, answered by any replica. Identity's database is the
// truth; a Client remembers answers for a few seconds.
package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go"
)

const (
	// Subject is answered by identity: an Ask for an Answer, plain NATS.
	Subject = "leaky.rpc.v1.membership"
	// Queue is the queue group of the replicas that answer.
	Queue = "identity"
	// AskTimeout is how long a Client waits for an answer.
	AskTimeout = 2 * time.Second
	// Kept is how long a Client remembers an answer: a member who was removed may act for so
	// long still.
	Kept = 5 * time.Second

	maxKept = 10_000 // answers
)

// Roles within an organisation.
const (
	Owner  = "OWNER"
	Member = "MEMBER"
)

// ErrUnavailable says that identity did not answer: the caller must not take the user for
// a stranger, nor for a member.
var ErrUnavailable = errors.New("memberships cannot be looked up at the moment")

// Ask names an organisation and a user, both lower-case UUIDs.
type Ask struct {
	OrgID  string `json:"orgId"`
	UserID string `json:"userId"`
}

// Answer is what they are there. With Error nothing else is set.
type Answer struct {
	Member bool   `json:"member"`
	Role   string `json:"role,omitzero"` // Owner or Member
	Team   string `json:"team,omitzero"` // optional
	Error  string `json:"error,omitzero"`
}

// Client asks identity. Make it with NewClient; it is safe for concurrent use.
type Client struct {
	conn *nats.Conn
	kept *lru.Cache[Ask, kept]
	now  func() time.Time
}

type kept struct {
	answer Answer
	until  time.Time
}

// NewClient asks over conn, which stays the caller's to close.
func NewClient(conn *nats.Conn) *Client {
	cache, _ := lru.New[Ask, kept](maxKept) // fails only for a size below one
	return &Client{conn: conn, kept: cache, now: time.Now}
}

// Ask tells what the user is in the organisation, as of at most Kept ago. Ids that are no
// UUIDs are of nobody. Errors wrap ErrUnavailable.
func (c *Client) Ask(ctx context.Context, org, user string) (Answer, error) {
	ask, err := canonical(org, user)
	if err != nil {
		return Answer{}, nil
	}
	if have, ok := c.kept.Get(ask); ok && c.now().Before(have.until) {
		return have.answer, nil
	}
	question, err := json.Marshal(ask)
	if err != nil {
		return Answer{}, fmt.Errorf("encode question: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, AskTimeout)
	defer cancel()
	asked := c.now()
	reply, err := c.conn.RequestWithContext(ctx, Subject, question)
	if err != nil {
		return Answer{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	var answer Answer
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return Answer{}, fmt.Errorf("%w: malformed answer: %w", ErrUnavailable, err)
	}
	if answer.Error != "" {
		return Answer{}, fmt.Errorf("%w: %s", ErrUnavailable, answer.Error)
	}
	c.kept.Add(ask, kept{answer: answer, until: asked.Add(Kept)})
	return answer, nil
}

// canonical writes both ids in lower case, as one membership must not be kept twice.
func canonical(org, user string) (Ask, error) {
	o, err := uuid.Parse(org)
	if err != nil {
		return Ask{}, err
	}
	u, err := uuid.Parse(user)
	return Ask{OrgID: o.String(), UserID: u.String()}, err
}

// Lookup finds a membership.
type Lookup func(ctx context.Context, org, user uuid.UUID) (Answer, error)

// Serve answers questions over conn with look until the subscription ends. A failed lookup
// is answered as an error, whose text stays here.
func Serve(ctx context.Context, conn *nats.Conn, look Lookup) (*nats.Subscription, error) {
	sub, err := conn.QueueSubscribe(Subject, Queue, func(m *nats.Msg) {
		text, err := json.Marshal(reply(ctx, m.Data, look))
		if err == nil {
			_ = m.Respond(text) // nobody waits any more: nothing is lost
		}
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", Subject, err)
	}
	return sub, nil
}

func reply(ctx context.Context, question []byte, look Lookup) Answer {
	var ask Ask
	if err := json.Unmarshal(question, &ask); err != nil {
		return Answer{Error: "malformed question"}
	}
	org, orgErr := uuid.Parse(ask.OrgID)
	user, userErr := uuid.Parse(ask.UserID)
	if orgErr != nil || userErr != nil {
		return Answer{Error: "malformed id"}
	}
	ctx, cancel := context.WithTimeout(ctx, AskTimeout)
	defer cancel()
	answer, err := look(ctx, org, user)
	if err != nil {
		return Answer{Error: "identity cannot look it up"}
	}
	return answer
}
