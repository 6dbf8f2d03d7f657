// Package attributes names what travels in Envoy's dynamic metadata and in rate-limit
// descriptors between the filters of one request. xds writes these names into
// Envoy's configuration; extauthz and ratelimit fill and read them.
package attributes

import "strings"

// Metadata namespaces.
const (
	// NamespaceAuth is what extauthz says of the caller.
	NamespaceAuth = "envoy.filters.http.ext_authz"
	// NamespaceRequest is what the guard reads from the request body.
	NamespaceRequest = "llm.request"
	// NamespaceBody is what the guard measured of the body.
	NamespaceBody = "llm.body"
	// NamespaceRefusal is what the guard says of a request that it refuses.
	NamespaceRefusal = "llm.refusal"
	// NamespaceLimit is what ratelimit answers: the hold and what to splice.
	NamespaceLimit = "envoy.filters.http.ratelimit"
	// NamespaceAnswer is what the usage reader found in the answer.
	NamespaceAnswer = "llm.answer"
)

// Keys of NamespaceAuth.
const (
	User  = "user"  // user id, lower-case UUID
	Org   = "org"   // organisation id, absent without one
	Team  = "team"  // team within the organisation, absent without one
	Key   = "key"   // API key id, absent for a JWT
	Tier  = "tier"  // tier name
	Roles = "roles" // comma-joined, sorted
)

// Keys of NamespaceRequest: the body's fields as text, whatever their JSON type.
const (
	Model               = "model"
	MaxTokens           = "max_tokens"
	MaxCompletionTokens = "max_completion_tokens"
	N                   = "n"
	Stream              = "stream"
	IncludeUsage        = "include_usage"
	// Parts are what the content names and its bytes do not tell, as kind:parts:references:bytes
	// of each kind with commas between; bytes are those of parts in the body. Absent: text alone.
	Parts = "parts"
	// What the call says of itself, as leaky.yaml's dimensions name it: at most 128 bytes of
	// printable ASCII each. Single tags are tag.NAME; Tags are all of them, as a query string.
	EndUser = "end_user"
	Session = "session"
	Tags    = "tags"
)

// Keys of NamespaceBody.
const (
	// Bytes is the body's length in bytes. It is not there on calls that take no tokens: no line
	// of the spool is written for them.
	Bytes = "bytes"
	// Places is where in the body stands what the splice may replace; there once the guard passed it.
	Places = "at"
	// Family is the shape of errors that the caller reads.
	Family = "family"
)

// Report is the key of NamespaceAnswer: package spool says how it reads.
const Report = "report"

// Keys of NamespaceLimit. Numbers are Struct numbers.
const (
	Account = "account" // "org:<id>" or "user:<id>": whose buckets hold
	Held    = "held"    // tokens held
	Input   = "input"   // of those, for the input

	// What goes into the body, if anything. MaxTokens is there too: the maximum to state.
	SetModel      = "set_model"       // JSON string that replaces the model's name
	MaxTokensName = "max_tokens_name" // the member that states the maximum
	// MaxTokensRename is the member that states it now, to be renamed MaxTokensName.
	MaxTokensRename = "max_tokens_rename"
	AskUsage        = "ask_usage" // "true": the stream's usage is asked for, and by nobody but us
)

// The members that state a maximum of output tokens are MaxTokens and MaxCompletionTokens with
// OpenAI, and with Gemini this one.
const MaxOutputTokens = "maxOutputTokens"

// RefusalParam is the key of NamespaceRefusal that names the member to blame.
const RefusalParam = "param"

// Descriptor entry keys of the first descriptor of an LLM route: the facts. A
// request whose first descriptor begins with Hold asks for a hold of tokens.
const (
	Hold     = "hold" // value: x-request-id
	Route    = "route"
	Provider = "provider"
	// Moves is "true" for a call that goes on at another model: what it holds already is given
	// back in the same step.
	Moves = "moves"
	// the others share the names above: user, org, key, tier, model, max_tokens,
	// max_completion_tokens, n, stream, include_usage, bytes.
)

// Absent is the value that stands for "not stated" in a descriptor entry, since
// an entry without a value is dropped by Envoy.
const Absent = "-"

// Context extensions that xds gives a route and extauthz reads.
const (
	// ContextRule is who may call: RulePublic or RuleAuthenticated, or "role:NAME".
	ContextRule = "rule"
	// ContextAudience is the service the signed identity is minted for; empty for providers.
	ContextAudience = "audience"
	// ContextFamily is the shape of errors on the route: one of the Family constants.
	ContextFamily = "family"
	// ContextScope is what an OAuth2 token must be granted: one scope, or one for reading
	// (GET, HEAD) and one for the rest with a space between; ScopeNone: no scope will do, only
	// a login or an API key; empty: any. Of several with | between any will do; the first is the one to ask for.
	ContextScope = "scope"
	// ContextOrg is OrgRequired where the caller must act for an organisation; empty: need not.
	ContextOrg = "org"
	// ContextKeys is what an API key may do: KeysRead or KeysNone; empty: what its owner may.
	ContextKeys = "keys"

	RulePublic        = "public"
	RuleAuthenticated = "authenticated"

	ScopeNone = "-"

	OrgRequired = "required"

	KeysRead = "read" // GET and HEAD
	KeysNone = "none" // nothing: the route makes or shows credentials, roles or secrets

	FamilyOpenAI    = "openai"
	FamilyAnthropic = "anthropic"
	FamilyGemini    = "gemini"
	FamilyProblem   = "problem"
	FamilyOAuth     = "oauth" // a problem with the members error and error_description
	FamilyPage      = "page"  // HTML: a person is there
)

// Scopes that an OAuth2 client can be granted. Without ScopeAdmin a token carries no
// role ADMIN, whoever owns it.
const (
	ScopeTokensRead    = "tokens.read"
	ScopeTokensWrite   = "tokens.write"
	ScopeAnalyticsRead = "analytics.read"
	ScopeModelsCall    = "models.call" // call models, and buy nothing
	ScopeAdmin         = "admin"
	// ScopeAccount is the console's alone: its user's keys, organisations and consents.
	ScopeAccount = "account"
)

// ForOthers says that some client that is not ours can be granted a scope.
func ForOthers(scope string) bool { return scope != ScopeNone && scope != ScopeAccount }

// IdentityHeaders are removed from every inbound request before any filter reads
// it; extauthz sets them anew.
func IdentityHeaders() []string {
	return []string{HeaderIdentity, HeaderUserID, HeaderUserRoles, "x-org-id", "x-leaky-hold", "x-leaky-tier",
		"x-forwarded-client-cert", "x_user_id", "x_user_roles", "x_leaky_identity"}
}

// Headers that extauthz sets for the services behind Envoy.
const (
	HeaderIdentity  = "x-leaky-identity" // signed identity (JWT, EdDSA); the only one services trust
	HeaderUserID    = "x-user-id"        // for people to read
	HeaderUserRoles = "x-user-roles"     // for people to read; sorted, comma-joined

	// HeaderNetwork is whom limits by address count together, set by Envoy: the client's trusted
	// IPv4 address, or the /64 around its IPv6 address. A site is given a /64 at least, and one host
	// may take any address in it.
	HeaderNetwork = "x-leaky-network"
)

// Headers between an Envoy and itself, where a call goes on at another model. They are taken from no
// client and no provider sees them.
const (
	HeaderFallback = "x-leaky-fallback"    // which fallback, as Fallback writes it
	HeaderFilled   = "x-leaky-call-filled" // the maximum that the gateway stated; absent: the caller's stands there
	headerCall     = "x-leaky-call-"       // and a key of NamespaceAuth
)

// HeaderCaller is the header that carries a key of NamespaceAuth there.
func HeaderCaller(key string) string { return headerCall + key }

// HeaderServed tells a caller which model answered, as PROVIDER/NAME, where it is not the one that
// was asked for.
const HeaderServed = "x-leaky-served"

// fallbackStat begins the name of a cluster behind which another model answers.
const fallbackStat = "fallback/"

// FallbackCluster is what the clusters of a fallback are called in metrics and in the spool.
func FallbackCluster(provider, model string) string { return fallbackStat + provider + "/" + model }

// ServedBy reads FallbackCluster; false: the cluster is not one.
func ServedBy(cluster string) (provider, model string, ok bool) {
	rest, ok := strings.CutPrefix(cluster, fallbackStat)
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "/")
}

// HeaderRefusal is on a refusal of ratelimit's that is the request's own fault, which Envoy
// answers with 400 and not with 429.
const HeaderRefusal = "x-leaky-refusal"
