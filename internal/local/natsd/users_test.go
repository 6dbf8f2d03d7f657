package natsd_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/leaky-tokens/leaky-tokens/internal/local/natsd"
)

// user connects as somebody, and gives the errors that the server tells.
func user(t *testing.T, url, name string) (*nats.Conn, <-chan error) {
	t.Helper()
	told := make(chan error, 8)
	conn, err := nats.Connect(url, nats.UserInfo(name, name+"-secret"), nats.CustomInboxPrefix("_INBOX."+name),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { told <- err }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn, told
}

func TestUsersUseTheirOwnSubjectsAlone(t *testing.T) {
	t.Parallel()
	url, stop := run(t, natsd.Config{Listen: "127.0.0.1:0", Dir: t.TempDir(), Sync: time.Minute, Log: quiet(), Users: []natsd.User{
		{Name: "owner", Password: "owner-secret"},
		{Name: "asks", Password: "asks-secret", Rights: &natsd.Rights{Publish: []string{"rpc.a"}, Subscribe: []string{"_INBOX.asks.>"}}},
		{Name: "answers", Password: "answers-secret", Rights: &natsd.Rights{Subscribe: []string{"rpc.a", "_INBOX.answers.>"}, Answers: true}},
		{Name: "nothing", Password: "nothing-secret", Rights: &natsd.Rights{}},
	}})
	t.Cleanup(stop)
	for _, who := range []nats.Option{nats.UserInfo("asks", "owner-secret"), nats.UserInfo("stranger", ""), nats.Name("nobody")} {
		if conn, err := nats.Connect(url, who); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("without the password: want an authorization error, got %v, %v", conn, err)
		}
	}
	answers, _ := user(t, url, "answers")
	if _, err := answers.Subscribe("rpc.a", func(m *nats.Msg) { _ = m.Respond([]byte("yes")) }); err != nil {
		t.Fatal(err)
	}
	if err := answers.Flush(); err != nil {
		t.Fatal(err)
	}
	asks, _ := user(t, url, "asks")
	if m, err := asks.Request("rpc.a", nil, 10*time.Second); err != nil || string(m.Data) != "yes" {
		t.Fatalf("a question that is allowed: want yes, got %v, %v", m, err)
	}
	for _, tc := range []struct {
		who, subject string
		listen       bool
	}{
		{"asks", "rpc.b", false}, {"asks", "rpc.a", true}, {"asks", ">", true}, {"asks", "_INBOX.answers.>", true}, {"asks", "$SYS.>", true},
		{"answers", "rpc.a", false}, {"answers", "_INBOX.asks.x", false}, {"nothing", "rpc.a", false}, {"nothing", "rpc.a", true},
	} {
		conn, told := user(t, url, tc.who)
		var err error
		if tc.listen {
			_, err = conn.SubscribeSync(tc.subject)
		} else {
			err = conn.Publish(tc.subject, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-told:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%+v: want a violation, got %v", tc, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%+v: want it refused, it was not", tc)
		}
	}
}
