package serve

import (
	"net/url"
	"slices"

	"github.com/leaky-tokens/leaky-tokens/analytics"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/balance"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/booked"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/ledgerbook"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/membership"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/notice"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/revocation"
	"github.com/leaky-tokens/leaky-tokens/internal/contract/usage"
	"github.com/leaky-tokens/leaky-tokens/internal/discovery"
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
		topology.RateLimit: {Publish: slices.Concat([]string{usageOut, balance.SubjectAsk, booked.Subject}, streams(),
			consumer(usage.Stream, ratelimit.Durable))},
		topology.Meter: {Publish: append(streams(), usageOut)},
		topology.TokenSvc: {Publish: slices.Concat([]string{usageOut, usage.SubjectsSaga, usage.SubjectsBalance, usage.SubjectDead,
			membership.Subject}, streams(), lastMessage(), newConsumers()),
			Deny:      append(denied(ratelimit.Durable, analytics.Durable, analytics.DurablePurchases), deletes(ledger.Durable)),
			Subscribe: []string{balance.SubjectAsk, ledgerbook.Subjects}, Answers: true},
		topology.Analytics: analyticsRights(),
		topology.XDS: {Publish: slices.Concat(bucket(history.Bucket), bucket(discovery.Bucket), []string{history.Subject}),
			Subscribe: []string{discovery.Subjects, discovery.SubjectLeave("*")}, Answers: true},
	}
	for _, part := range topology.Having(topology.Part.Listens) { // some do nothing there but this
		rights := all[part.Name]
		rights.Publish = append(rights.Publish, registering(part.Name)...)
		rights.Subscribe = append(rights.Subscribe, natsconn.Inbox(part.Name)+".>")
		all[part.Name] = rights
	}
	return all
}

// registering writes the keys of a service in the registry, and nobody else's.
func registering(service string) []string {
	return []string{"$JS.API.STREAM.INFO.KV_" + discovery.Bucket, discovery.SubjectsOf(service), discovery.SubjectLeave(service)}
}

// newConsumers are of who reads the stream again, to compare it with other books or since its store
// came back older: by consumers under names that nobody knows before. Those of other parts are denied.
func newConsumers() []string {
	return append(consumer(usage.Stream, "*"), deletes("*"))
}

func deletes(durable string) string { return "$JS.API.CONSUMER.DELETE." + usage.Stream + "." + durable }

func denied(durables ...string) []string {
	var all []string
	for _, durable := range durables {
		all = append(all, append(consumer(usage.Stream, durable), deletes(durable))...)
	}
	return all
}

// analyticsRights: the notices are its own, with a consumer for each webhook.
func analyticsRights() natsd.Rights {
	return natsd.Rights{Publish: slices.Concat([]string{usage.SubjectDead, membership.Subject, ledgerbook.Subjects, notice.Subjects},
		streams(), lastMessage(), stream(notice.Stream), newConsumers(), consumer(notice.Stream, "*")),
		Deny: denied(ledger.Durable, ratelimit.Durable), Subscribe: []string{booked.Subject}, Answers: true}
}

// streams look at the streams of events, and make them where they are not there. To make one that is
// there changes nothing.
func streams() []string {
	return append(stream(usage.Stream), stream(usage.StreamDead)...)
}

func stream(name string) []string {
	return []string{"$JS.API.STREAM.INFO." + name, "$JS.API.STREAM.CREATE." + name}
}

// lastMessage reads the last message of a subject in the stream.
func lastMessage() []string {
	const direct = "$JS.API.DIRECT.GET." + usage.Stream
	return []string{"$JS.API.STREAM.MSG.GET." + usage.Stream, direct, direct + ".>"}
}

// consumer reads a stream as a consumer of that name.
func consumer(stream, name string) []string {
	of := stream + "." + name
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
