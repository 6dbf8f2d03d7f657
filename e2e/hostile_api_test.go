package e2e

import (
	"bufio"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/oauth2"

	"github.com/leaky-tokens/leaky-tokens/identity/grants"
	"github.com/leaky-tokens/leaky-tokens/identity/keyring"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/stacktest"
)

// exchange writes bytes to the gateway as they are, and gives every answer that comes back until the
// gateway hangs up or says nothing more.
func exchange(t *testing.T, raw string) []answer {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(running.Gateway, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(conn, raw) }()
	var all []answer
	for from := bufio.NewReader(conn); ; {
		res, err := http.ReadResponse(from, nil)
		if err != nil {
			return all
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != 100 {
			all = append(all, answer{res.StatusCode, res.Header, string(body)})
		}
		if res.Close {
			return all
		}
	}
}

// bytesAndStatus is a request as it is on the wire, and what it has to get.
type bytesAndStatus struct {
	raw  string
	want int
}

// malformed are requests of an ADMIN, so that nothing but their shape refuses them.
func malformed(root stacktest.Account) map[string]bytesAndStatus {
	const login, body = "POST /api/v1/auth/login HTTP/1.1\r\n", `{"username":"a","password":"b"}`
	host, auth, end := "Host: x\r\nContent-Type: application/json\r\n", "Authorization: Bearer "+root.JWT+"\r\n", "Connection: close\r\n\r\n"
	length := fmt.Sprintf("Content-Length: %d\r\n", len(body))
	smuggled := "GET /api/v1/admin/users HTTP/1.1\r\nHost: x\r\n" + auth + end
	get := func(path string) string { return "GET " + path + " HTTP/1.1\r\n" + host + auth + end }
	with := func(header string) string { return login + host + auth + header + length + end + body }
	return map[string]bytesAndStatus{
		"CL and TE": {login + host + auth + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, 400},
		"TE and CL": {login + host + auth + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled, 400},
		"TE twice": {login + host + auth + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" +
			smuggled, 501},
		"TE of two":              {login + host + auth + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + smuggled, 501},
		"TE unknown":             {login + host + auth + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled, 501},
		"TE with a vertical tab": {login + host + auth + "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n" + smuggled, 400},
		"TE, space before colon": {login + host + auth + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + smuggled, 400},
		"two CL":                 {login + host + auth + "Content-Length: 3\r\n" + length + end + body, 400},
		"two CL that agree":      {login + host + auth + length + length + end + body, 400},
		"CL list":                {login + host + auth + "Content-Length: 3, 31\r\n" + end + body, 400},
		"CL with a sign":         {login + host + auth + "Content-Length: +31\r\n" + end + body, 400},
		"CL negative":            {login + host + auth + "Content-Length: -1\r\n" + end + body, 400},
		"CL in hex":              {login + host + auth + "Content-Length: 0x1f\r\n" + end + body, 400},
		"CL beyond 64 bits":      {login + host + auth + "Content-Length: 99999999999999999999\r\n" + end + body, 400},
		"chunk size no number": {login + host + auth + "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n" + body +
			"\r\n0\r\n\r\n", 400},
		"chunk size overflows": {login + host + auth + "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" +
			body + "\r\n0\r\n\r\n", 400},
		"chunk with LF":         {login + host + auth + "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1f\n" + body + "\n0\n\n", 400},
		"space before colon":    {login + "Host : x\r\n" + auth + length + end + body, 400},
		"space before name":     {login + " X: y\r\n" + host + auth + length + end + body, 400},
		"NUL in a value":        {with("X-A: a\x00b\r\n"), 400},
		"no colon":              {with("nonsense\r\n"), 400},
		"no name":               {with(": a\r\n"), 400},
		"100 KB header":         {with("X-A: " + strings.Repeat("a", 100_000) + "\r\n"), 431},
		"100 KB path":           {get("/" + strings.Repeat("a", 100_000)), 431},
		"200 headers":           {with(numbered(200)), 431},
		"2100 of one name":      {with(strings.Repeat("X-A: a\r\n", 2100)), 431},
		"Host twice":            {with("Host: y\r\n"), 400},
		"no Host":               {login + auth + length + end + body, 400},
		"Host with a user":      {login + "Host: a@b\r\n" + auth + length + end + body, 400},
		"Host with a path":      {login + "Host: x/y\r\n" + auth + length + end + body, 400},
		"Host with a comma":     {login + "Host: x,y\r\n" + auth + length + end + body, 400},
		"absolute-form, a file": {get("file:///etc/passwd"), 400},
		"path without slash":    {get("api/v1/me"), 400},
		"spaces in the line":    {get("/api/v1/me x"), 400},
		"method in lower case":  {strings.Replace(get("/api/v1/me"), "GET", "get", 1), 400},
		"odd method":            {strings.Replace(get("/api/v1/me"), "GET", "G(T", 1), 400},
		"CONNECT":               {strings.Replace(get("127.0.0.1:5432"), "GET", "CONNECT", 1), 403},
		"HTTP/0.9":              {"GET /api/v1/me\r\n\r\n", 401},
		"websocket": {"GET /api/v1/me HTTP/1.1\r\n" + host + auth +
			"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", 426},
		"expects what nobody does": {with("Expect: 200-ok\r\n"), 417},
		"authorization twice":      {with(auth), 400},
		"two schemes":              {with("Authorization: Basic YTpi\r\n"), 400},
		"two keys":                 {login + host + "Authorization: Bearer " + root.Key + "\r\nX-Api-Key: leaky_x\r\n" + length + end + body, 400},
		"a token and no real key":  {with("X-Api-Key: leaky_x\r\n"), 401},
		"encoded slash":            {get("/api/v1/auth/..%2fadmin%2Fusers"), 400},
		"encoded dots and slash":   {get("/api/v1/auth/%2e%2e%2fadmin/users"), 400},
		"encoded backslash":        {get("/api/v1/auth/..%5cadmin/users"), 400},
		"matrix parameters":        {get("/api/v1/admin;x=1/users"), 400},
		"encoded semicolon":        {get("/api/v1/admin%3bx/users"), 400},
		"matrix at the end":        {get("/api/v1/admin/users;.css"), 400},
		"encoded NUL":              {get("/api/v1/admin%00/users"), 400},
		"NUL at the end":           {get("/api/v1/me%00.css"), 400},
		"encoded hash":             {get("/api/v1/admin%23/users"), 400},
		"case":                     {get("/API/v1/admin/users"), 404},
		"inside":                   {get("/internal/revocations"), 404},
		"inside by dots":           {get("/api/v1/auth/../../../internal/revocations"), 404},
		"validate":                 {get("/api/v1/auth/api-keys/validate"), 404},
		"validate, double slash":   {get("/api/v1/auth//api-keys//validate"), 404},
		"validate, dot":            {get("/api/v1/auth/api-keys/./validate"), 404},
		"validate, encoded letter": {get("/api/v1/auth/api-keys/%76alidate"), 404},
		"metrics":                  {get("/metrics"), 404},
		"actuators of others":      {get("/identity/actuator/health"), 404},
	}
}

// TestMalformedRequestsReachNoService is not parallel: it compares what the services counted.
func TestMalformedRequestsReachNoService(t *testing.T) {
	root := newAccount(t, "ADMIN")
	before := quiet(t)
	for name, c := range malformed(root) {
		answers := exchange(t, c.raw)
		if len(answers) != 1 || answers[0].status != c.want {
			t.Errorf("%s: want one %d, got %+v", name, c.want, answers)
			continue
		}
		if a := answers[0]; leak(a) != "" || a.header.Get("Set-Cookie") != "" || strings.Contains(a.text, root.JWT) ||
			strings.Contains(a.text, root.Key) {
			t.Errorf("%s: %s %v %s", name, leak(a), a.header, a.text)
		}
	}
	if after := reached(t); after != before {
		t.Errorf("%d requests reached a service", after-before)
	}
}

// Requests that Envoy reads in one sound way are read so by everybody, and name nobody else.
func TestWhatIsReadInOneWay(t *testing.T) {
	t.Parallel()
	ann, root := newAccount(t), newAccount(t, "ADMIN")
	auth := "Authorization: Bearer " + ann.Key + "\r\n"
	for name, raw := range map[string]string{
		"as it should be":   "GET /api/v1/me HTTP/1.1\r\nHost: x\r\n" + auth,
		"LF alone":          strings.ReplaceAll("GET /api/v1/me HTTP/1.1\r\nHost: x\r\n"+auth, "\r\n", "\n"),
		"absolute-form":     "GET http://elsewhere/api/v1/me HTTP/1.1\r\nHost: x\r\n" + auth,
		"double slash":      "GET //api//v1/me HTTP/1.1\r\nHost: x\r\n" + auth,
		"dots":              "GET /api/v1/auth/../me HTTP/1.1\r\nHost: x\r\n" + auth,
		"encoded dots":      "GET /api/v1/auth/%2e%2E/me HTTP/1.1\r\nHost: x\r\n" + auth,
		"h2c upgrade":       "GET /api/v1/me HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n" + auth,
		"folded":            "GET /api/v1/me HTTP/1.1\r\nHost: x\r\nX-A: a\r\n X-User-Id: " + root.ID + "\r\n" + auth,
		"CR within a value": "GET /api/v1/me HTTP/1.1\r\nHost: x\r\nX-A: a\rX-User-Id: " + root.ID + "\r\n" + auth,
		"no UTF-8":          "GET /api/v1/me HTTP/1.1\r\nHost: x\r\nX-A: \xff\xfe\r\n" + auth,
		"HTTP/1.0":          "GET /api/v1/me HTTP/1.0\r\n" + auth,
		"HTTP/9.9":          "GET /api/v1/me HTTP/9.9\r\nHost: x\r\n" + auth, // as if it were 1.0
		"underscores": "GET /api/v1/me HTTP/1.1\r\nHost: x\r\nx_user_id: " + root.ID + "\r\nX_USER_ID: " + root.ID +
			"\r\nx-user_roles: ADMIN\r\nx_leaky_identity: e30.e30.\r\n" + auth,
		"X-User-Id":       "GET /api/v1/me HTTP/1.1\r\nHost: x\r\nX-User-Id: " + root.ID + "\r\n" + auth,
		"x-USER-id twice": "GET /api/v1/me HTTP/1.1\r\nHost: x\r\nx-USER-id: " + root.ID + "\r\nX-user-ID: " + root.ID + "\r\n" + auth,
		"X-User-Roles": "GET /api/v1/me HTTP/1.1\r\nHost: x\r\nX-User-Id: " + root.ID +
			"\r\nX-User-Roles: ADMIN\r\nX-Leaky-Identity: e30.e30.\r\n" + auth,
		"named hop by hop":      "GET /api/v1/me HTTP/1.1\r\nHost: x\r\nConnection: close, x-leaky-identity, x-user-id\r\n" + auth,
		"trusted proxy claimed": "GET /api/v1/me HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 10.0.0.1\r\nX-Envoy-External-Address: 10.0.0.1\r\nX-Envoy-Original-Path: /api/v1/admin/users\r\nForwarded: for=10.0.0.1\r\n" + auth,
		"method override":       "GET /api/v1/me HTTP/1.1\r\nHost: x\r\nX-HTTP-Method-Override: DELETE\r\nX-Original-URL: /api/v1/admin/users\r\n" + auth,
	} {
		end := "Connection: close\r\n\r\n"
		switch name {
		case "h2c upgrade":
			end = "Connection: close, Upgrade, HTTP2-Settings\r\n\r\n"
		case "LF alone":
			end = "Connection: close\n\n"
		case "named hop by hop":
			end = "\r\n"
		}
		answers := exchange(t, raw+end)
		if len(answers) != 1 || answers[0].status != 200 || !strings.Contains(answers[0].text, ann.ID) || strings.Contains(answers[0].text,
			`"ADMIN"`) {
			t.Errorf("%s: want ann's own account, got %+v", name, answers)
		}
	}
	// Envoy itself takes these for /api/v1/admin/users, asks who may call that, and sends on what it asked about.
	for _, path := range []string{`/api/v1/auth\..\admin\users`, "/api/v1/auth/..;/admin/users", "/api/v1/auth/..;x=1/admin/users",
		"/api/v1/auth/../admin/users", "/api/v1/auth/%2e%2e/admin/users", "//api/v1/admin//users"} {
		for credential, want := range map[string]int{"": 401, auth: 403, "Authorization: Bearer " + root.JWT + "\r\n": 200} {
			if answers := exchange(t, "GET "+path+" HTTP/1.1\r\nHost: x\r\n"+credential+"Connection: close\r\n\r\n"); len(answers) != 1 ||
				answers[0].status != want {
				t.Errorf("%s: want %d, got %+v", path, want, answers)
			}
		}
	}
	// Nor do such headers make an administrator of them, or anybody of an anonymous caller.
	forged := []string{"X-User-Id", root.ID, "X-User-Roles", "ADMIN", "X-Leaky-Identity", "e30.e30."}
	wantProblem(t, request(t, "GET", "/api/v1/admin/users", ann.Key, nil, forged...), 403, "")
	wantProblem(t, request(t, "GET", "/api/v1/admin/users", "", nil, forged...), 401, "")
	wantProblem(t, request(t, "POST", keysPath, "", map[string]string{"userId": root.ID}, forged...), 401, "")
	wantProblem(t, request(t, "GET", "/api/v1/auth/%252e%252e/admin/users", ann.Key, nil), 404, "")
}

// ring signs as identity does: with its own key, from its own database.
func ring(t *testing.T) *keyring.Ring {
	t.Helper()
	out, err := running.Leaky(t.Context(), "env")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(out, "LEAKY_POSTGRES_URL='")
	address, _, _ := strings.Cut(rest, "'")
	pool, err := pgxpool.New(t.Context(), address+"&search_path=identity") // the owner of the store sees each part's schema
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	sealer, err := keyring.NewSealer("", filepath.Join(running.Dir, "secrets"))
	if err != nil {
		t.Fatal(err)
	}
	r := keyring.New(keyring.Config{Pool: pool, Sealer: sealer, Life: time.Hour})
	if err := r.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

// mint makes tokens of an administrator: with identity's own key, or by whoever would like to.
type mint struct {
	t    *testing.T
	root stacktest.Account
	keys *keyring.Ring
	kid  string // of the key that signs
	ver  int64  // root's generation
}

func newMint(t *testing.T) mint {
	t.Helper()
	m := mint{t: t, root: newAccount(t, "ADMIN"), keys: ring(t)}
	header, claims := claimsOf(t, m.root.JWT)
	m.kid, _ = header["kid"].(string)
	ver, _ := claims["ver"].(float64)
	m.ver = int64(ver)
	return m
}

// claims are good ones, changed.
func (m mint) claims(change func(*grants.Claims)) grants.Claims {
	now := time.Now()
	c := grants.Claims{ClientID: grants.FirstParty, Roles: []string{"ADMIN", "USER"}, Generation: m.ver, Family: uuid.NewString(),
		RegisteredClaims: jwt.RegisteredClaims{Issuer: "leaky-tokens-auth", Audience: jwt.ClaimStrings{"leaky-tokens"}, Subject: m.root.ID,
			ID:       uuid.NewString(),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(time.Hour))}}
	change(&c)
	return c
}

func same(*grants.Claims) {}

// genuine is signed by identity's own key.
func (m mint) genuine(typ string, change func(*grants.Claims)) string {
	m.t.Helper()
	token, err := m.keys.Sign(typ, m.claims(change))
	if err != nil {
		m.t.Fatal(err)
	}
	return token
}

// forged has good claims, and the header as set says.
func (m mint) forged(method jwt.SigningMethod, key any, set map[string]any) string {
	m.t.Helper()
	token := jwt.NewWithClaims(method, m.claims(same))
	token.Header["kid"], token.Header["typ"] = m.kid, keyring.TypeAccess
	for name, value := range set {
		if token.Header[name] = value; value == nil {
			delete(token.Header, name)
		}
	}
	text, err := token.SignedString(key)
	if err != nil {
		m.t.Fatal(err)
	}
	return text
}

// forgeries are signed by somebody else, or by nobody.
func (m mint) forgeries() map[string]string {
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		m.t.Fatal(err)
	}
	public, modulus := publicKey(m.t, m.kid)
	parts := strings.Split(m.root.JWT, ".")
	own := map[string]any{"kty": "RSA", "n": base64.RawURLEncoding.EncodeToString(stranger.N.Bytes()), "e": "AQAB"}
	return map[string]string{
		"alg none":            m.forged(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil),
		"alg none, signature": strings.TrimSuffix(m.forged(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), ".") + "." + parts[2],
		"alg None": base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"None","typ":"at+jwt","kid":"`+m.kid+`"}`)) + "." +
			parts[1] + ".",
		"HS256, public key":  m.forged(jwt.SigningMethodHS256, public, nil),
		"HS256, modulus":     m.forged(jwt.SigningMethodHS256, modulus, nil),
		"HS256, nothing":     m.forged(jwt.SigningMethodHS256, []byte{}, nil),
		"another key":        m.forged(jwt.SigningMethodRS256, stranger, nil),
		"PS256":              m.forged(jwt.SigningMethodPS256, stranger, nil),
		"a key that is gone": m.forged(jwt.SigningMethodRS256, stranger, map[string]any{"kid": "retired"}),
		"no kid":             m.forged(jwt.SigningMethodRS256, stranger, map[string]any{"kid": nil}),
		"kid a path":         m.forged(jwt.SigningMethodRS256, stranger, map[string]any{"kid": "../../dev/null"}),
		"kid SQL":            m.forged(jwt.SigningMethodRS256, stranger, map[string]any{"kid": "x' OR '1'='1"}),
		"kid a number":       m.forged(jwt.SigningMethodRS256, stranger, map[string]any{"kid": 1}),
		"jwk":                m.forged(jwt.SigningMethodRS256, stranger, map[string]any{"jwk": own}),
		"jku":                m.forged(jwt.SigningMethodRS256, stranger, map[string]any{"jku": running.Stub["openai"] + "/jwks"}),
		"x5u":                m.forged(jwt.SigningMethodRS256, stranger, map[string]any{"x5u": running.Stub["openai"] + "/x"}),
		"crit":               m.forged(jwt.SigningMethodRS256, stranger, map[string]any{"crit": []string{"exp"}}),
	}
}

// misfits are signed by identity's key, and say what they should not.
func (m mint) misfits() map[string]string {
	now := time.Now()
	return map[string]string{
		"ID token":               m.genuine(keyring.TypeID, same),
		"another audience":       m.genuine(keyring.TypeAccess, func(c *grants.Claims) { c.Audience = jwt.ClaimStrings{"elsewhere"} }),
		"no audience":            m.genuine(keyring.TypeAccess, func(c *grants.Claims) { c.Audience = nil }),
		"another issuer":         m.genuine(keyring.TypeAccess, func(c *grants.Claims) { c.Issuer = "https://elsewhere.example" }),
		"expired":                m.genuine(keyring.TypeAccess, func(c *grants.Claims) { c.ExpiresAt = jwt.NewNumericDate(now.Add(-time.Minute)) }),
		"no end":                 m.genuine(keyring.TypeAccess, func(c *grants.Claims) { c.ExpiresAt = nil }),
		"not yet":                m.genuine(keyring.TypeAccess, func(c *grants.Claims) { c.NotBefore = jwt.NewNumericDate(now.Add(time.Hour)) }),
		"from the future":        m.genuine(keyring.TypeAccess, func(c *grants.Claims) { c.IssuedAt = jwt.NewNumericDate(now.Add(time.Hour)) }),
		"no subject":             m.genuine(keyring.TypeAccess, func(c *grants.Claims) { c.Subject = "" }),
		"subject no id":          m.genuine(keyring.TypeAccess, func(c *grants.Claims) { c.Subject = "root" }),
		"issued before a change": m.genuine(keyring.TypeAccess, func(c *grants.Claims) { c.Generation = 0 }),
	}
}

// scraps are no tokens any more.
func (m mint) scraps() map[string]string {
	parts := strings.Split(m.root.JWT, ".")
	return map[string]string{
		"cut": m.root.JWT[:len(m.root.JWT)-4],
		"payload of another": parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"`+m.root.ID+`","roles":["ADMIN"]}`)) + "." +
			parts[2],
		"four parts":      m.root.JWT + ".x",
		"no signature":    parts[0] + "." + parts[1] + ".",
		"padding":         m.root.JWT + "==",
		"spaces":          strings.Replace(m.root.JWT, ".", " . ", 1),
		"50 KB":           parts[0] + "." + strings.Repeat("a", 50_000) + "." + parts[2],
		"50 KB of dots":   strings.Repeat(".", 50_000),
		"SQL":             "x' OR pg_sleep(8)--",
		"a refresh token": newPerson(m.t).refresh,
		"shares a prefix": m.root.JWT[:len(m.root.JWT)-10] + "AAAAAAAAAA",
	}
}

func TestHostileTokens(t *testing.T) {
	t.Parallel()
	m := newMint(t)
	if a := request(t, "GET", "/api/v1/admin/users", m.genuine(keyring.TypeAccess, same), nil); a.status != 200 {
		t.Fatalf("the mint's own tokens are not good: %d %s", a.status, a.text)
	}
	for _, tokens := range []map[string]string{m.forgeries(), m.misfits(), m.scraps()} {
		for name, token := range tokens {
			for _, path := range []string{"/api/v1/admin/users", "/api/v1/tokens/status"} {
				if why := notProblem(request(t, "GET", path, token, nil), 401, ""); why != "" {
					t.Errorf("%s, %s: %s", path, name, why)
				}
			}
		}
	}
	for name, size := range map[string]int{"64 KB": 64 << 10, "1 MB of dots": 1 << 20} {
		if answers := exchange(t, "GET /api/v1/me HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+strings.Repeat(".",
			size)+"\r\nConnection: close\r\n\r\n"); len(answers) != 1 || answers[0].status != 431 {
			t.Errorf("%s: want one 431, got %d answers", name, len(answers))
		}
	}
}

// publicKey is a published key as PEM, and its modulus: what an attacker would take for an HMAC secret.
func publicKey(t *testing.T, kid string) (text, modulus []byte) {
	t.Helper()
	var set struct{ Keys []struct{ Kid, N string } }
	request(t, "GET", "/oauth2/jwks", "", nil).into(t, &set)
	at := slices.IndexFunc(set.Keys, func(k struct{ Kid, N string }) bool { return k.Kid == kid })
	if at < 0 {
		t.Fatalf("no published key %s", kid)
	}
	modulus, err := base64.RawURLEncoding.DecodeString(set.Keys[at].N)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), modulus
}

func TestHostileJSON(t *testing.T) {
	t.Parallel()
	who := newPerson(t)
	const register = "/api/v1/auth/register"
	for _, tc := range []struct {
		name, path, credential, body, content string
		status                                int
	}{
		{"deep", register, "", strings.Repeat(`{"a":`, 5000) + "1" + strings.Repeat("}", 5000), "", 400},
		{"deep arrays", register, "", `{"username":` + strings.Repeat("[", 30_000), "", 400},
		{"70 KB", register, "", `{"username":"` + strings.Repeat("a", 70<<10) + `"}`, "", 413},
		{"5 MB", register, "", `{"username":"` + strings.Repeat("a", 5<<20) + `"}`, "", 413},
		{"many members", register, "", "{" + strings.Repeat(`"a":1,`, 9000) + `"a":1}`, "", 400},
		{"member twice", register, "", `{"username":"a","username":"b","email":"a@b","password":"correct horse 9"}`, "", 400},
		{"member twice by case", register, "", `{"username":"a","userName":"b","email":"a@b","password":"correct horse 9"}`, "", 400},
		{"no UTF-8", register, "", "{\"username\":\"\xff\"}", "", 400},
		{"two values", register, "", `{}{}`, "", 400},
		{"array", register, "", `[]`, "", 400},
		{"null", register, "", `null`, "", 400},
		{"nothing", register, "", ``, "", 400},
		{"a form", register, "", `username=a&password=b`, "application/x-www-form-urlencoded", 415},
		{"a form that claims JSON", register, "", `username=a&password=b`, "", 400},
		{"multipart", register, "", `--x`, "multipart/form-data; boundary=x", 415},
		{"no type", register, "", `{}`, " ", 415},
		{"NUL in a key's name", keysPath, who.jwt, `{"name":"a\u0000b"}`, "", 400},
		{"control in a key's name", keysPath, who.jwt, `{"name":"a\u0007b"}`, "", 400},
		{"direction in a key's name", keysPath, who.jwt, `{"name":"a\u202eb"}`, "", 400},
		{"header in an organisation", orgsPath, who.jwt, `{"name":"a\r\nSet-Cookie: x=1"}`, "", 400},
		{"number for text", orgsPath, who.jwt, `{"name":7}`, "", 400},
		{"far date", keysPath, who.jwt, `{"expiresAt":"99999-01-01T00:00:00Z"}`, "", 400},
		{"organisation of nobody", keysPath, who.jwt, `{"orgId":"` + uuid.NewString() + `"}`, "", 403},
	} {
		var header []string
		if tc.content != "" {
			header = []string{"Content-Type", strings.TrimSpace(tc.content)}
		}
		a := request(t, "POST", tc.path, tc.credential, tc.body, header...)
		if a.status != tc.status || leak(a) != "" {
			t.Errorf("%s: want %d, got %d %s", tc.name, tc.status, a.status, a.text)
		}
	}
}

// TestHostileOAuth: what RFC 9700 warns of, through Envoy.
func TestHostileOAuth(t *testing.T) {
	t.Parallel()
	ann, root := newPerson(t), newAccount(t, "ADMIN")
	web, thief := newApp(t, root, webApp(nil)), newApp(t, root, webApp(nil))
	verifier := strings.Repeat("v", 43)
	asked := func(change url.Values) string {
		q := url.Values{"client_id": {web.ClientID}, "redirect_uri": {callback}, "response_type": {"code"},
			"scope": {"tokens.read offline_access"}, "state": {"s"},
			"code_challenge": {oauth2.S256ChallengeFromVerifier(verifier)}, "code_challenge_method": {"S256"}}
		for name, values := range change {
			if q[name] = values; values == nil {
				q.Del(name)
			}
		}
		return "/oauth2/authorize?" + q.Encode()
	}
	for name, redirect := range map[string][]string{
		"foreign": {"https://evil.example/callback"}, "none": nil, "two": {callback, "https://evil.example/"}, "longer": {callback + "/more"},
		"dots":  {callback + "/../evil"},
		"query": {callback + "?next=https://evil.example"}, "fragment": {callback + "#x"},
		"user": {"https://app.example@evil.example/callback"}, "sub-domain": {"https://app.example.evil.example/callback"},
		"scheme-relative": {"//evil.example"}, "script": {"javascript:alert(1)"}, "line break": {callback + "\r\nSet-Cookie: a=b"},
		"loopback trick": {"http://127.0.0.1:80@evil.example/cb"},
	} {
		if a := request(t, "GET", asked(url.Values{"redirect_uri": redirect}), "", nil); a.status != 400 || a.header.Get("Location") != "" ||
			strings.Contains(a.text, "evil") {
			t.Errorf("open redirect, %s: %d to %q", name, a.status, a.header.Get("Location"))
		}
	}
	for name, change := range map[string]url.Values{
		"no PKCE": {"code_challenge": nil, "code_challenge_method": nil}, "plain": {"code_challenge_method": {"plain"}},
		"no method": {"code_challenge_method": nil}, "short": {"code_challenge": {"abc"}},
		"state twice": {"state": {"a", "b"}}, "scope twice": {"scope": {"tokens.read", "admin"}},
		"request_uri": {"request_uri": {"https://evil.example/r"}},
	} {
		if back := landed(t, request(t, "GET", asked(change), "", nil)); back.Get("error") == "" || back.Get("code") != "" {
			t.Errorf("%s: %v", name, back)
		}
	}
	code := func() string { return consent(t, running.Gateway+asked(nil), ann).Get("code") }
	redeem := func(as app, code, proof string) answer {
		return post(t, "/oauth2/token", url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {callback},
			"code_verifier": {proof}}, as.basic()...)
	}
	stolen := code()
	refusedBy(t, redeem(thief, stolen, verifier), 400, "invalid_grant")
	refusedBy(t, redeem(web, stolen, verifier), 400, "invalid_grant") // burnt: somebody has it who should not
	refusedBy(t, redeem(web, code(), strings.Repeat("w", 43)), 400, "invalid_grant")
	refusedBy(t, redeem(web, code(), ""), 400, "invalid_request")
	used := code()
	var first struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
	}
	redeem(web, used, verifier).into(t, &first)
	refusedBy(t, redeem(web, used, verifier), 400, "invalid_grant")
	refusedSoon(t, first.Access, "what a code gave that was used twice")
	refusedBy(t, post(t, "/oauth2/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first.Refresh}}, web.basic()...),
		400, "invalid_grant")

	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	grant := "grant_type=client_credentials&client_id=" + web.ClientID
	for _, tc := range []struct {
		name, path, body string
		header           []string
		status           int
		code             string
	}{
		{"parameter twice", "/oauth2/token", grant + "&grant_type=client_credentials", form, 400, "invalid_request"},
		{"parameters in the query", "/oauth2/token?grant_type=client_credentials", "client_id=x", form, 400, "invalid_request"},
		{"JSON", "/oauth2/token", `{"grant_type":"client_credentials"}`, nil, 400, "invalid_request"},
		{"password grant", "/oauth2/token", "grant_type=password&username=a&password=b&client_id=" + web.ClientID + "&client_secret=" +
			web.ClientSecret, form, 400, "unsupported_grant_type"},
		{"two ways to authenticate", "/oauth2/token", grant + "&client_secret=" + web.ClientSecret, web.basic(), 400, "invalid_request"},
		{"no secret", "/oauth2/token", grant, form, 401, "invalid_client"},
		{"NUL", "/oauth2/token", grant + "&scope=a%00", form, 400, "invalid_request"},
		{"a value of 40 KB", "/oauth2/token", grant + "&x=" + strings.Repeat("x", 40<<10), form, 400, "invalid_request"},
		{"a body of 70 KB", "/oauth2/token", grant + "&x=" + strings.Repeat("x", 70<<10), form, 413, "invalid_request"},
		{"introspect without a client", "/oauth2/introspect", "token=x", form, 401, "invalid_client"},
		{"device for a foreign client", "/oauth2/device_authorization", "client_id=unknown", form, 401, "invalid_client"},
	} {
		a := request(t, "POST", tc.path, "", tc.body, tc.header...)
		var got struct{ Error string }
		if a.into(t, &got); a.status != tc.status || got.Error != tc.code {
			t.Errorf("%s: want %d %s, got %d %s", tc.name, tc.status, tc.code, a.status, a.text)
		}
	}
	if a := fillInFrom(t, asked(nil), ann, "https://evil.example"); a.status != 400 || strings.Contains(a.header.Get("Location"), "code=") {
		t.Errorf("a form from another site: %d", a.status)
	}
}

// fillInFrom posts the consent page's form as another site's page would.
func fillInFrom(t *testing.T, path string, who person, origin string) answer {
	t.Helper()
	page := request(t, "GET", path, "", nil)
	form := sealed.FindStringSubmatch(page.text)
	if form == nil {
		t.Fatalf("%d %s", page.status, page.text)
	}
	return post(t, "/oauth2/authorize", url.Values{"form": {form[1]}, "username": {who.name}, "password": {who.password},
		"decision": {"allow"}}, "Origin", origin, "Sec-Fetch-Site", "cross-site")
}
