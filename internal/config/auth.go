package config

import (
	"regexp"
	"slices"
	"time"
)

// clientScheme is a scheme (RFC 3986, section 3.1) in lower case.
var clientScheme = regexp.MustCompile(`^[a-z][a-z0-9+-]{1,31}$`)

// Auth is what identity issues and extauthz accepts.
type Auth struct {
	Issuer   string        `yaml:"issuer"`    // default leaky-tokens-auth
	Audience string        `yaml:"audience"`  // default leaky-tokens
	TokenTTL time.Duration `yaml:"token_ttl"` // access tokens, default 1h
	KeyTTL   time.Duration `yaml:"key_ttl"`   // how long extauthz trusts a looked-up key, default 30s, at most 2m
	// RefreshTTL ends a refresh token that nobody uses, default 720h; SessionTTL ends a login
	// however often it is refreshed, default 2160h.
	RefreshTTL time.Duration `yaml:"refresh_ttl"`
	// RefreshGrace is how long a repeat of a used refresh token gets the same answer again, default
	// 10s: two tabs at once, or a lost answer. 0: a repeat ends the login.
	RefreshGrace time.Duration `yaml:"refresh_grace"`
	SessionTTL   time.Duration `yaml:"session_ttl"`
	// RotateEvery is how long a signing key signs, default 720h; 0: until told otherwise.
	RotateEvery time.Duration `yaml:"rotate_every"`
	// RotateAhead is how long a new signing key is published before it signs, default 1h: longer
	// than extauthz and other replicas need to fetch it.
	RotateAhead time.Duration `yaml:"rotate_ahead"`
	// OfflineGrace is how long extauthz goes on with what it knows while identity is down, default 5m.
	OfflineGrace time.Duration `yaml:"offline_grace"`
	// CheckTimeout is how long Envoy waits for extauthz, which waits for identity three quarters of it;
	// default 2s. Without an answer a call is refused.
	CheckTimeout time.Duration `yaml:"check_timeout"`
	Throttle     Throttle      `yaml:"throttle"`
	// Registration says who may make an account: RegistrationOpen (default), RegistrationInvite or
	// RegistrationClosed.
	Registration string `yaml:"registration" jsonschema:"enum=open,enum=invite,enum=closed"`
	// RequireOrg lets nobody call models but for an organisation, whose limits then bind everybody.
	RequireOrg bool `yaml:"require_org"`
	// PublicURL is where clients reach the gateway, the iss of OAuth2 and ID tokens and the base of
	// every endpoint in the metadata; default http://<gateway.listen>.
	PublicURL string `yaml:"public_url"`
	// ClientRegistration says who may register OAuth2 clients beside an ADMIN: ClientsClosed (default),
	// ClientsDocuments or ClientsOpen. Such clients cannot buy, and go when nobody uses them for 30 days.
	ClientRegistration string `yaml:"client_registration"`
	// ClientSchemes are schemes without a dot that redirect URIs of native apps may have: cursor, vscode.
	ClientSchemes []string `yaml:"client_schemes"`
	// BackchannelLogout tells clients that registered an address for it when a grant of theirs has
	// ended (OpenID Connect Back-Channel Logout), default false: identity then calls those addresses.
	BackchannelLogout bool `yaml:"backchannel_logout"`
	// Resources are resource servers beside the gateway that a token may be asked for (RFC 8707): URIs,
	// compared exactly. Such a token is no good here.
	Resources []string `yaml:"resources"`
	// Upstreams are other OpenID providers that people sign in by, beside the password.
	Upstreams []AuthUpstream `yaml:"upstreams"`
	// Development makes the OAuth2 client leaky-client, whose generated secret is in
	// secrets/leaky-client.json; default true when every listener is on loopback.
	Development *bool `yaml:"development"`
}

// Throttle is how guessing is slowed down. Counts are shared by all replicas (Redis).
type Throttle struct {
	Failures  int           `yaml:"failures"`  // wrong passwords before an account has to wait, default 5
	Addresses int           `yaml:"addresses"` // wrong passwords before an address has to wait, default 20
	Registers int           `yaml:"registers"` // registrations of one address within Window, default 100
	Longest   time.Duration `yaml:"longest"`   // the wait doubles from 1s to this, default 5m
	Window    time.Duration `yaml:"window"`    // without a failure for so long all is forgotten, default 15m
}

// Who may make an account.
const (
	RegistrationOpen   = "open"   // everybody
	RegistrationInvite = "invite" // who has the code of an invitation by an ADMIN
	RegistrationClosed = "closed" // nobody
)

// Who may register OAuth2 clients beside an ADMIN.
const (
	ClientsClosed    = "closed"    // nobody
	ClientsDocuments = "documents" // clients whose id is the URL of a document that describes them
	ClientsOpen      = "open"      // these, and whoever asks (RFC 7591)
)

// CheckTimeout is the default of Auth.CheckTimeout: it covers a look-up at identity.
const CheckTimeout = 2 * time.Second

func defaultAuth() Auth {
	return Auth{ClientRegistration: ClientsClosed, Registration: RegistrationOpen, RefreshTTL: 720 * time.Hour,
		RefreshGrace: 10 * time.Second, SessionTTL: 2160 * time.Hour,
		RotateEvery: 720 * time.Hour, RotateAhead: time.Hour,
		OfflineGrace: 5 * time.Minute, CheckTimeout: CheckTimeout,
		Throttle: Throttle{Failures: 5, Addresses: 20, Registers: 100, Longest: 5 * time.Minute, Window: 15 * time.Minute}}
}

func (a Auth) validate(v *validator) {
	a.validateOAuth(v)
	if a.Issuer == "" {
		v.fail("auth.issuer", "must not be empty")
	}
	if a.Audience == "" {
		v.fail("auth.audience", "must not be empty")
	}
	between(v, "auth.token_ttl", a.TokenTTL, time.Minute, 24*time.Hour)
	between(v, "auth.key_ttl", a.KeyTTL, time.Second, 2*time.Minute)
	between(v, "auth.refresh_ttl", a.RefreshTTL, time.Minute, 8760*time.Hour)
	between(v, "auth.session_ttl", a.SessionTTL, time.Minute, 8760*time.Hour)
	between(v, "auth.refresh_grace", a.RefreshGrace, 0, time.Minute)
	between(v, "auth.check_timeout", a.CheckTimeout, 100*time.Millisecond, time.Minute)
	v.oneOf("auth.registration", a.Registration, RegistrationOpen, RegistrationInvite, RegistrationClosed)
	v.oneOf("auth.client_registration", a.ClientRegistration, ClientsClosed, ClientsDocuments, ClientsOpen)
	for _, scheme := range a.ClientSchemes {
		if !clientScheme.MatchString(scheme) ||
			slices.Contains([]string{"http", "https", "javascript", "data", "vbscript", "file", "about", "blob"}, scheme) {
			v.fail("auth.client_schemes", "%q: write the scheme of an app in lower case, such as cursor", scheme)
		}
	}
	if a.RotateEvery != 0 {
		between(v, "auth.rotate_every", a.RotateEvery, time.Hour, 8760*time.Hour)
	}
	between(v, "auth.rotate_ahead", a.RotateAhead, 0, 24*time.Hour)
	between(v, "auth.offline_grace", a.OfflineGrace, 0, 24*time.Hour)
	between(v, "auth.throttle.failures", a.Throttle.Failures, 1, 1000)
	between(v, "auth.throttle.addresses", a.Throttle.Addresses, 1, 1_000_000)
	between(v, "auth.throttle.registers", a.Throttle.Registers, 1, 1_000_000)
	between(v, "auth.throttle.longest", a.Throttle.Longest, time.Second, time.Hour)
	between(v, "auth.throttle.window", a.Throttle.Window, time.Minute, 24*time.Hour)
}
