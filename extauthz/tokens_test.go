package extauthz

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

func TestAGoodTokenNamesTheCaller(t *testing.T) {
	t.Parallel()
	s := ready(t, launch(t, newIssuer(t), ""))
	user := uuid.NewString()
	token := sign(t, claimsOf(user, "USER", "SILVER"), nil)
	for _, path := range []string{"/v1/chat/completions", "/v1/chat/completions"} { // first seen, then cached
		resp, err := s.Check(t.Context(), request(path, bearer(token)))
		if err != nil || resp.GetOkResponse() == nil {
			t.Fatalf("want ok, got %v, %v", resp, err)
		}
		fields := resp.GetDynamicMetadata().GetFields()
		if fields[attributes.User].GetStringValue() != user || fields[attributes.Tier].GetStringValue() != "SILVER" ||
			fields[attributes.Roles].GetStringValue() != "SILVER,USER" || fields[attributes.Key] != nil {
			t.Fatalf("metadata: %v", fields)
		}
	}
}

// TestATokenIsForTheResourcesThatItNames: the gateway and its paths, or others, where it is no good here.
func TestATokenIsForTheResourcesThatItNames(t *testing.T) {
	t.Parallel()
	s := ready(t, launch(t, newIssuer(t), ""))
	for name, c := range map[string]struct {
		audience any
		want     int
	}{
		"the audience of old":       {"leaky-tokens", 200},
		"the gateway":               {publicIssuer, 200},
		"with a slash":              {publicIssuer + "/", 200},
		"a path":                    {publicIssuer + "/v1", 200},
		"one of several":            {[]string{"https://mcp.example", publicIssuer}, 200},
		"another":                   {"https://mcp.example", 401},
		"a longer host":             {publicIssuer + ".evil.example", 401},
		"a longer port":             {publicIssuer + "0", 401},
		"nothing":                   {[]string{}, 401},
		"the name of the audience?": {"leaky-tokens/x", 401},
	} {
		claims := claimsOf(uuid.NewString(), "USER")
		claims["iss"], claims["aud"], claims["client_id"], claims["scope"] = publicIssuer, c.audience, "app", "tokens.read"
		if got := statusOf(t, s, request("/v1/models", bearer(sign(t, claims, nil)))); got != c.want {
			t.Errorf("%s: want %d, got %d", name, c.want, got)
		}
	}
}

func TestTokenAttacks(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	user := uuid.NewString()
	header := func(change map[string]any) string { return sign(t, claimsOf(user, "USER"), change) }
	good := header(nil)
	parts := strings.Split(good, ".")
	der, err := x509.MarshalPKIXPublicKey(&issuerKey().PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	pub := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	_, other, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"alg none":              raw(`{"alg":"none","typ":"at+jwt","kid":"key-1"}`) + "." + parts[1] + ".",
		"alg None with a rest":  raw(`{"alg":"None","typ":"at+jwt","kid":"key-1"}`) + "." + parts[1] + "." + parts[2],
		"HS256 with public key": hs256(parts[1], pub),
		"HS256 with DER":        hs256(parts[1], der),
		"EdDSA":                 swapped(t, claimsOf(user, "ADMIN"), jwt.SigningMethodEdDSA, other),
		"PS256":                 swapped(t, claimsOf(user, "ADMIN"), jwt.SigningMethodPS256, issuerKey()),
		"RS512":                 swapped(t, claimsOf(user, "ADMIN"), jwt.SigningMethodRS512, issuerKey()),
		"no kid":                header(map[string]any{"kid": nil}),
		"unknown kid":           header(map[string]any{"kid": "key-2"}),
		"kid is a path":         header(map[string]any{"kid": "../../dev/null"}),
		"kid is a number":       header(map[string]any{"kid": 1}),
		"kid of 10 kB":          header(map[string]any{"kid": strings.Repeat("k", 5000)}),
		"jku":                   header(map[string]any{"jku": "http://evil.example/jwks"}),
		"x5u":                   header(map[string]any{"x5u": "http://evil.example/cert"}),
		"jwk":                   header(map[string]any{"jwk": map[string]string{"kty": "RSA"}}),
		"crit":                  header(map[string]any{"crit": []string{"exp"}}),
		"b64":                   header(map[string]any{"b64": false}),
		"typ JWT":               header(map[string]any{"typ": "JWT"}),
		"no typ":                header(map[string]any{"typ": nil}),
		"alg twice":             raw(`{"alg":"none","alg":"RS256","typ":"at+jwt","kid":"key-1"}`) + "." + parts[1] + "." + parts[2],
		"ALG beside alg":        raw(`{"alg":"RS256","ALG":"none","typ":"at+jwt","kid":"key-1"}`) + "." + parts[1] + "." + parts[2],
		"header with a tail":    raw(`{"alg":"RS256","typ":"at+jwt","kid":"key-1"}{}`) + "." + parts[1] + "." + parts[2],
		"header padded":         parts[0] + "=." + parts[1] + "." + parts[2],
		"body of another":       parts[0] + "." + raw(`{"sub":"`+user+`","roles":["ADMIN"]}`) + "." + parts[2],
		"signature cut":         good[:len(good)-4],
		"signature gone":        parts[0] + "." + parts[1] + ".",
		"two parts":             parts[0] + "." + parts[1],
		"four parts":            good + "." + parts[2],
		"1 MB of dots":          strings.Repeat(".", 1<<20),
		"64 kB long":            good + strings.Repeat("A", 64<<10),
		"a known prefix":        good + "A",
		"random":                "not-a-token",
		"kid twice":             raw(`{"alg":"RS256","kid":"key-2","kid":"key-1","typ":"at+jwt"}`) + "." + parts[1] + "." + parts[2],
		"typ of an ID token":    header(map[string]any{"typ": "id+jwt"}),
		"unknown member":        header(map[string]any{"zip": "DEF"}),
		"RS256 by an EdDSA key": header(map[string]any{"kid": issuerKID2}),
		"EdDSA by an RSA key":   swapped(t, claimsOf(user, "ADMIN"), jwt.SigningMethodEdDSA, issuerEd()),
	} {
		refused(t, s, name, token)
	}
	if got := statusOf(t, s, request("/v1/models", bearer(good))); got != http.StatusOK {
		t.Errorf("the good one: want 200, got %d", got)
	}
	if n := i.fetches.Load(); n > 4 {
		t.Errorf("unknown key ids caused %d fetches of the key set", n)
	}
}

func TestClaimAttacks(t *testing.T) {
	t.Parallel()
	s := ready(t, launch(t, newIssuer(t), ""))
	user, now := uuid.NewString(), time.Now()
	with := func(change jwt.MapClaims) string {
		c := claimsOf(user, "USER")
		for name, value := range change {
			if c[name] = value; value == nil {
				delete(c, name)
			}
		}
		return sign(t, c, nil)
	}
	for name, token := range map[string]string{
		"expired":               with(jwt.MapClaims{"exp": now.Add(-skew - 5*time.Second).Unix()}),
		"no exp":                with(jwt.MapClaims{"exp": nil}),
		"not yet":               with(jwt.MapClaims{"nbf": now.Add(skew + 10*time.Second).Unix()}),
		"from the future":       with(jwt.MapClaims{"iat": now.Add(skew + 10*time.Second).Unix()}),
		"other issuer":          with(jwt.MapClaims{"iss": "leaky-tokens-auth.evil.example"}),
		"no issuer":             with(jwt.MapClaims{"iss": nil}),
		"other audience":        with(jwt.MapClaims{"aud": "another"}),
		"no audience":           with(jwt.MapClaims{"aud": nil}),
		"no subject":            with(jwt.MapClaims{"sub": nil}),
		"subject is no id":      with(jwt.MapClaims{"sub": "admin"}),
		"subject in upper case": with(jwt.MapClaims{"sub": strings.ToUpper(user)}),
		"roles are a string":    with(jwt.MapClaims{"roles": "ADMIN"}),
		"sub twice":             signText(t, `{"sub":"`+user+`",`+rest(t, user)+`,"sub":"`+uuid.NewString()+`"}`),
		"roles twice":           signText(t, `{"sub":"`+user+`",`+rest(t, user)+`,"roles":["ADMIN"]}`),
		"claims with a tail":    signText(t, `{"sub":"`+user+`",`+rest(t, user)+`}{}`),
		"claims are a list":     signText(t, `[]`),
		"claims are null":       signText(t, `null`),
		"SUB instead of sub":    signText(t, `{"SUB":"`+user+`",`+rest(t, user)+`}`),
		"exp is null":           with(jwt.MapClaims{"exp": json.RawMessage("null")}),
		"exp is text":           with(jwt.MapClaims{"exp": "tomorrow"}),
		"ver is negative":       with(jwt.MapClaims{"ver": -1}),
		"ver is text":           with(jwt.MapClaims{"ver": "1"}),
		"org is no id":          with(jwt.MapClaims{"org": "acme"}),
		"team without org":      with(jwt.MapClaims{"team": "red"}),
		"team with a newline":   with(jwt.MapClaims{"org": uuid.NewString(), "team": "red\n"}),
		"scope is a list":       with(jwt.MapClaims{"scope": []string{"admin"}}),
		"nested 5000 deep":      signText(t, `{"x":`+strings.Repeat("[", 2500)+strings.Repeat("]", 2500)+`,`+rest(t, user)+`}`),
	} {
		refused(t, s, name, token)
	}
	if got := statusOf(t, s, request("/v1/models", bearer(with(jwt.MapClaims{"exp": now.Add(-skew / 2).Unix()})))); got != http.StatusOK {
		t.Errorf("expired within the clock skew: want 200, got %d", got)
	}
	if got := statusOf(t, s, request("/v1/models", bearer(with(jwt.MapClaims{"aud": []string{"another",
		"leaky-tokens"}})))); got != http.StatusOK {
		t.Errorf("two audiences: want 200, got %d", got)
	}
}

// refused checks twice: a refusal must not be remembered as anything better.
func refused(t *testing.T, s *Service, name, token string) {
	t.Helper()
	for range 2 {
		if got := statusOf(t, s, request("/v1/models", bearer(token))); got != http.StatusUnauthorized {
			t.Errorf("%s: want 401, got %d", name, got)
		}
	}
}

// rest are the members of good claims but sub.
func rest(t *testing.T, user string) string {
	t.Helper()
	claims := claimsOf(user, "USER")
	delete(claims, "sub")
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Trim(string(text), "{}")
}

// signText signs claims as they are written.
func signText(t *testing.T, claims string) string {
	t.Helper()
	signed := raw(`{"alg":"RS256","kid":"`+issuerKID+`","typ":"at+jwt"}`) + "." + raw(claims)
	signature, err := jwt.SigningMethodRS256.Sign(signed, issuerKey())
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func TestBothAlgorithms(t *testing.T) {
	t.Parallel()
	s := ready(t, launch(t, newIssuer(t), ""))
	user := uuid.NewString()
	for name, token := range map[string]string{
		"RS256":     sign(t, claimsOf(user, "USER"), nil),
		"EdDSA":     signEd(t, claimsOf(user, "USER")),
		"long type": sign(t, claimsOf(user, "USER"), map[string]any{"typ": "application/AT+JWT"}),
		"as text":   signText(t, `{"sub":"`+user+`",`+rest(t, user)+`}`),
	} {
		if got := statusOf(t, s, request("/v1/models", bearer(token))); got != http.StatusOK {
			t.Errorf("%s: want 200, got %d", name, got)
		}
	}
}

func TestARetiredKeySignsNothing(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	s := ready(t, launch(t, i, ""))
	retired, err := rsa.GenerateKey(rand.Reader, 2048) // it was published once, and is no longer
	if err != nil {
		t.Fatal(err)
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, claimsOf(uuid.NewString(), "ADMIN"))
	token.Header["kid"], token.Header["typ"] = "key-0", "at+jwt"
	signed, err := token.SignedString(retired)
	if err != nil {
		t.Fatal(err)
	}
	if got := statusOf(t, s, request("/v1/models", bearer(signed))); got != http.StatusUnauthorized {
		t.Errorf("its own id: want 401, got %d", got)
	}
	token.Header["kid"] = issuerKID
	if signed, err = token.SignedString(retired); err != nil {
		t.Fatal(err)
	}
	if got := statusOf(t, s, request("/v1/models", bearer(signed))); got != http.StatusUnauthorized {
		t.Errorf("the id of a living key: want 401, got %d", got)
	}
}

func raw(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// hs256 signs with the public key as if it were a shared secret.
func hs256(payload string, secret []byte) string {
	text := raw(`{"alg":"HS256","typ":"at+jwt","kid":"key-1"}`) + "." + payload
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func swapped(t *testing.T, claims jwt.Claims, method jwt.SigningMethod, key any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	token.Header["kid"], token.Header["typ"] = issuerKID, "at+jwt"
	signed, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func TestTokensWithoutKeysAreNeitherGoodNorBad(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	i.status.Store(http.StatusInternalServerError)
	s := launch(t, i, "")
	token := sign(t, claimsOf(uuid.NewString(), "USER"), nil)
	if got := statusOf(t, s, request("/v1/models", bearer(token))); got != http.StatusServiceUnavailable {
		t.Fatalf("want 503, got %d", got)
	}
	i.status.Store(0)
	testenv.Eventually(t, "keys are fetched", func() bool { return statusOf(t, s, request("/v1/models", bearer(token))) == http.StatusOK })
	i.status.Store(http.StatusInternalServerError)
	fresh := sign(t, claimsOf(uuid.NewString(), "USER"), nil)
	if got := statusOf(t, s, request("/v1/models", bearer(fresh))); got != http.StatusOK {
		t.Fatalf("keys at hand while identity is down: want 200, got %d", got)
	}
}

func FuzzParseHeader(f *testing.F) {
	f.Add([]byte(`{"alg":"RS256","kid":"key-1","typ":"at+jwt"}`))
	f.Add([]byte(`{"alg":"none","alg":"RS256"}`))
	f.Add([]byte(`{"jwk":{"kty":"oct"}}`))
	f.Add([]byte(`[1]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := parseHeader(text)
		if err != nil {
			return
		}
		var members map[string]any
		if err := json.Unmarshal(text, &members); err != nil {
			t.Fatalf("%q was read, and is not JSON: %v", text, err)
		}
		for name := range members {
			if name != "alg" && name != "kid" && name != "typ" {
				t.Fatalf("member %q was let through", name)
			}
		}
		if alg, ok := members["alg"]; ok && alg != h.alg {
			t.Fatalf("alg: want %v, got %q", alg, h.alg)
		}
	})
}

func FuzzSplitToken(f *testing.F) {
	f.Add("a.b.c")
	f.Add(raw(`{"alg":"RS256","kid":"key-1","typ":"at+jwt"}`) + ".e30.AA")
	f.Fuzz(func(t *testing.T, token string) {
		h, signed, signature, err := splitToken(token)
		if err != nil {
			return
		}
		if strings.Count(token, ".") != 2 || signed+"."+base64.RawURLEncoding.EncodeToString(signature) != token {
			t.Fatalf("%q was split into %q and %q", token, signed, signature)
		}
		if h.alg != "RS256" && h.alg != "EdDSA" || h.kid == "" {
			t.Fatalf("header %+v passed", h)
		}
	})
}

func FuzzParseClaims(f *testing.F) {
	f.Add([]byte(`{"sub":"a","exp":1,"aud":["a"],"roles":["USER"],"ver":3,"scope":""}`))
	f.Add([]byte(`{"sub":"a","sub":"b"}`))
	f.Add([]byte(`{"exp":1e300,"nbf":-1e300,"iat":0.1}`))
	validator := newValidator()
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseClaims(text)
		if err != nil {
			return
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(text, &members); err != nil {
			t.Fatalf("%q was read, and is not JSON: %v", text, err)
		}
		if _, ok := members["scope"]; ok != c.scoped {
			t.Fatalf("scope: want %v, got %v", ok, c.scoped)
		}
		if validator.Validate(c) == nil && c.check() == nil {
			_ = new(tokens).caller(c, time.Now())
		}
	})
}
