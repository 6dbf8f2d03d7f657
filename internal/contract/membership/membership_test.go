package membership

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func connect(t *testing.T) *nats.Conn {
	t.Helper()
	conn, err := nats.Connect(testenv.NATS(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func TestAnswersAreKeptForAWhile(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	var asked atomic.Int64
	org, user := uuid.New(), uuid.New()
	if _, err := Serve(t.Context(), conn, func(_ context.Context, o, u uuid.UUID) (Answer, error) {
		asked.Add(1)
		return Answer{Member: o == org && u == user, Role: Owner, Team: "blue"}, nil
	}); err != nil {
		t.Fatal(err)
	}
	c := NewClient(conn)
	now := time.Now()
	c.now = func() time.Time { return now }
	want := Answer{Member: true, Role: Owner, Team: "blue"}
	for range 3 {
		got, err := c.Ask(t.Context(), strings.ToUpper(org.String()), user.String())
		if err != nil || got != want {
			t.Fatalf("want %+v, got %+v, %v", want, got, err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Fatalf("want one question, got %d", n)
	}
	now = now.Add(Kept)
	if _, err := c.Ask(t.Context(), org.String(), user.String()); err != nil || asked.Load() != 2 {
		t.Fatalf("an old answer is asked for again: %d questions, %v", asked.Load(), err)
	}
	if got, err := c.Ask(t.Context(), "x", user.String()); err != nil || got.Member || asked.Load() != 2 {
		t.Fatalf("a malformed id is of nobody: %+v, %v", got, err)
	}
}

func TestAFailureIsNoAnswer(t *testing.T) {
	t.Parallel()
	conn := connect(t)
	c := NewClient(conn)
	org, user := uuid.NewString(), uuid.NewString()
	if _, err := c.Ask(t.Context(), org, user); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("nobody answers: want %v, got %v", ErrUnavailable, err)
	}
	if _, err := Serve(t.Context(), conn, func(context.Context, uuid.UUID, uuid.UUID) (Answer, error) {
		return Answer{}, errors.New("secret of the database")
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Ask(t.Context(), org, user); !errors.Is(err, ErrUnavailable) || strings.Contains(err.Error(), "secret") {
		t.Fatalf("the lookup fails: want %v without its text, got %v", ErrUnavailable, err)
	}
}

func FuzzReply(f *testing.F) {
	f.Add([]byte(`{"orgId":"10000000-0000-0000-0000-000000000001","userId":"00000000-0000-0000-0000-000000000001"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, question []byte) {
		asked := false
		got := reply(t.Context(), question, func(context.Context, uuid.UUID, uuid.UUID) (Answer, error) {
			asked = true
			return Answer{Member: true}, nil
		})
		if got.Member != asked || (got.Error != "") == asked {
			t.Fatalf("%q: %+v, asked: %v", question, got, asked)
		}
	})
}
