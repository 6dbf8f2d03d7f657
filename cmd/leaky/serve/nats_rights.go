package serve

import (
	"net/url"
	"slices"

	"github.com/leaky-tokens/leaky-tokens/analytics"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/local/natsd"
	"github.com/leaky-tokens/leaky-tokens/internal/natsconn"
	"github.com/leaky-tokens/leaky-tokens/internal/storeuser"
	"github.com/leaky-tokens/leaky-tokens/internal/topology"
	"github.com/leaky-tokens/leaky-tokens/ratelimit"
	"github.com/leaky-tokens/leaky-tokens/tokensvc/ledger"
	"github.com/leaky-tokens/leaky-tokens/xds/history"
)

// NATSRights is what each part may do at NATS, by its name: it publishes what only it knows, hears
// what it needs, and gets answers below an inbox of its own. Nobody but identity revokes, nobody but
// who saw a call publishes its usage, and no part can change or empty a stream.
func NATSRights() map[string]natsd.Rights {
	usageOut := usage.SubjectPrefix + "*"
	all := map[string]natsd.Rights{
		topology.Identity: {Publish: []string{revocation.Subject, revocation.SubjectHeartbeat},
			Subscribe: []string{revocation.Subject, membership.Subject}, Answers: true},
		topology.ExtAuthz: {Subscribe: []string{revocation.Subject, revocation.SubjectHeartbeat}},
		topology.RateLimit: {Publish: slices.Concat([]string{usageOut, balance.SubjectAsk}, streams(),
			consumer(ratelimit.Durable))},
		topology.Meter: {Publish: append(streams(), usageOut)},
		topology.TokenSvc: {Publish: slices.Concat([]string{usageOut, usage.SubjectsSaga, usage.SubjectsBalance, usage.SubjectDead,
			membership.Subject}, streams(), lastMessage(), consumer(ledger.Durable)), Subscribe: []string{balance.SubjectAsk}, Answers: true},
		topology.Analytics: {Publish: slices.Concat([]string{usage.SubjectDead, membership.Subject}, streams(), consumer(analytics.Durable))},
		topology.XDS:       {Publish: append(bucket(history.Bucket), history.Subject)},
	}
	for part, rights := range all {
		rights.Subscribe = append(rights.Subscribe, natsconn.Inbox(part)+".>")
		all[part] = rights
	}
	return all
}

// streams look at the streams of events, and make them where they are not there. To make one that is
// there changes nothing.
func streams() []string {
	var all []string
	for _, stream := range []string{usage.Stream, usage.StreamDead} {
		all = append(all, "$JS.API.STREAM.INFO."+stream, "$JS.API.STREAM.CREATE."+stream)
	}
	return all
}

// lastMessage reads the last message of a subject in the stream.
func lastMessage() []string {
	const direct = "$JS.API.DIRECT.GET." + usage.Stream
	return []string{"$JS.API.STREAM.MSG.GET." + usage.Stream, direct, direct + ".>"}
}

// consumer reads the stream as a durable consumer of that name.
func consumer(durable string) []string {
	of := usage.Stream + "." + durable
	return []string{"$JS.API.CONSUMER.CREATE." + of, "$JS.API.CONSUMER.CREATE." + of + ".>", "$JS.API.CONSUMER.INFO." + of,
		"$JS.API.CONSUMER.MSG.NEXT." + of, "$JS.ACK." + of + ".>"}
}

// bucket reads and writes a bucket of keys and values.
func bucket(name string) []string {
	stream := "KV_" + name
	return []string{"$JS.API.INFO", "$KV." + name + ".>", "$JS.API.STREAM.INFO." + stream, "$JS.API.STREAM.CREATE." + stream,
		"$JS.API.STREAM.UPDATE." + stream, "$JS.API.STREAM.MSG.GET." + stream, "$JS.API.DIRECT.GET." + stream + ".>",
		"$JS.API.CONSUMER.CREATE." + stream + ".>", "$JS.API.CONSUMER.DELETE." + stream + ".>", "$JS.FC." + stream + ".>"}
}

// natsUsers are who may connect to a NATS that we run: its owner, who may do everything, and the
// parts. Without an owner everybody may.
func natsUsers(owner *url.Userinfo) ([]natsd.User, error) {
	secret, ok := owner.Password()
	if !ok {
		return nil, nil
	}
	users := []natsd.User{{Name: owner.Username(), Password: secret}}
	for part, rights := range NATSRights() {
		password, err := storeuser.Password(secret, topology.NATS, part)
		if err != nil {
			return nil, err
		}
		users = append(users, natsd.User{Name: storeuser.Name(part), Password: password, Rights: &rights})
	}
	return users, nil
}
