package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/testing/testenv"
)

// answer is what came back through Envoy.
type answer struct {
	status int
	header http.Header
	text   string
}

// into decodes the body.
func (a answer) into(t *testing.T, dst any) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.text), dst); err != nil {
		t.Fatalf("%d %q: %v", a.status, a.text, err)
	}
}

// tryRequest sends one request as it is told; see stacktest's Send.
func tryRequest(ctx context.Context, method, path, credential string, body any, header ...string) (answer, error) {
	status, headers, text, err := running.Send(ctx, method, path, credential, body, header...)
	return answer{status, headers, string(text)}, err
}

// patientRequest is tryRequest that asks again, as clients do, where nothing could be done just now.
func patientRequest(ctx context.Context, method, path, credential string, body any, header ...string) (answer, error) {
	for {
		a, err := tryRequest(ctx, method, path, credential, body, header...)
		if err != nil || a.status != 503 {
			return a, err
		}
		select {
		case <-ctx.Done():
			return a, ctx.Err()
		case <-time.After(time.Second): // what Retry-After says
		}
	}
}

func request(t *testing.T, method, path, credential string, body any, header ...string) answer {
	t.Helper()
	a, err := tryRequest(t.Context(), method, path, credential, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// wantProblem checks that a refusal has the one shape of /api/v1 (contract §19.6) and says nothing that
// it should not.
func wantProblem(t *testing.T, a answer, status int, message string) {
	t.Helper()
	if why := notProblem(a, status, message); why != "" {
		t.Errorf("%s: %d %s", why, a.status, a.text)
	}
}

func notProblem(a answer, status int, message string) string {
	var p struct {
		Type, Title, Detail, Instance, Message, Path string
		Status                                       int
		Timestamp                                    time.Time
	}
	switch err := json.Unmarshal([]byte(a.text), &p); {
	case status != 0 && a.status != status:
		return fmt.Sprintf("want %d", status)
	case err != nil || a.header.Get("Content-Type") != "application/problem+json":
		return "want application/problem+json, got " + a.header.Get("Content-Type")
	case p.Status != a.status || p.Type == "" || p.Title == "" || p.Detail == "" || p.Instance == "" || p.Message == "" || p.Path == "" ||
		p.Timestamp.IsZero():
		return "a member of the problem is missing"
	case !strings.Contains(p.Message, message):
		return fmt.Sprintf("want the message %q", message)
	case a.status == 401 && !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer"):
		return "a 401 without a challenge"
	}
	return leak(a)
}

// leak says what an answer shows of the inside. A short word alone would also be found in an id that
// is drawn at random.
func leak(a answer) string {
	for _, word := range []string{"SQLSTATE", "goroutine ", ".go:", "jackc/pgx", "failed to connect", "panic: ", "127.0.0.1:5432", "SELECT ", "INSERT "} {
		if strings.Contains(a.text, word) {
			return fmt.Sprintf("the answer shows %q", word)
		}
	}
	return ""
}

// person is a user who knows their password.
type person struct {
	id, name, password, jwt, refresh string
}

type sessionBody struct {
	UserID       string   `json:"userId"`
	Username     string   `json:"username"`
	Token        string   `json:"token"`
	RefreshToken string   `json:"refreshToken"`
	Roles        []string `json:"roles"`
	ExpiresIn    int      `json:"expiresIn"`
}

func newName() string { return "u" + strings.ReplaceAll(uuid.NewString(), "-", "")[:20] }

func registration(name string) map[string]string {
	return map[string]string{"username": name, "email": name + "@example.com", "password": "correct horse 9"}
}

// signedUp is what a new user is answered. Each try has a name of its own: what a busy machine did not
// answer in time may be done all the same, and the name be taken.
func signedUp(t *testing.T) (name string, a answer) {
	t.Helper()
	testenv.Eventually(t, "somebody is registered", func() bool {
		name = newName()
		a = request(t, "POST", "/api/v1/auth/register", "", registration(name))
		return a.status != 503
	})
	return name, a
}

// registered makes a user.
func registered(t *testing.T) (got sessionBody) {
	t.Helper()
	_, a := signedUp(t)
	if a.status != 201 {
		t.Fatalf("register: %d %s", a.status, a.text)
	}
	a.into(t, &got)
	return got
}

func newPerson(t *testing.T) person {
	t.Helper()
	got := registered(t)
	return person{got.UserID, got.Username, "correct horse 9", got.Token, got.RefreshToken}
}

func (p person) login(t *testing.T) sessionBody {
	t.Helper()
	a, err := patientRequest(t.Context(), "POST", "/api/v1/auth/login", "", map[string]string{"username": p.name, "password": p.password})
	if err != nil || a.status != 200 {
		t.Fatalf("login: %d %s, %v", a.status, a.text, err)
	}
	var got sessionBody
	a.into(t, &got)
	return got
}

// key makes an API key and gives it and its id.
func (p person) key(t *testing.T) (secret, id string) {
	t.Helper()
	a := request(t, "POST", "/api/v1/auth/api-keys", p.jwt, map[string]string{"userId": p.id})
	if a.status != 201 {
		t.Fatalf("make a key: %d %s", a.status, a.text)
	}
	var got struct{ APIKey, ID string }
	a.into(t, &got)
	return got.APIKey, got.ID
}

// claimsOf reads a JWT's claims without checking it.
func claimsOf(t *testing.T, token string) (header, claims map[string]any) {
	t.Helper()
	parts := strings.Split(token, ".")
	for i, dst := range []*map[string]any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, dst); err != nil {
			t.Fatal(err)
		}
	}
	return header, claims
}

// Contract §3 A1 and §21: what a registration answers.
func TestRegister(t *testing.T) {
	t.Parallel()
	name, a := signedUp(t)
	var got sessionBody
	a.into(t, &got)
	if a.status != 201 || got.Username != name || !slices.Equal(got.Roles, []string{"USER"}) || got.RefreshToken == "" ||
		got.ExpiresIn != 3600 || uuid.Validate(got.UserID) != nil {
		t.Fatalf("%d %s", a.status, a.text)
	}
	if a.header.Get("Cache-Control") != "no-store" || a.header.Get("Set-Cookie") != "" {
		t.Errorf("headers: %v", a.header)
	}
	header, claims := claimsOf(t, got.Token)
	if header["alg"] != "RS256" || header["kid"] == "" || header["typ"] != "at+jwt" || claims["sub"] != got.UserID ||
		claims["iss"] != "leaky-tokens-auth" ||
		claims["aud"] == nil || claims["jti"] == "" || claims["sid"] == "" || claims["ver"] == nil ||
		claims["exp"].(float64)-claims["iat"].(float64) != 3600 {
		t.Errorf("token: %v %v", header, claims)
	}
	with := func(field, value string) map[string]string {
		body := registration(newName())
		body[field] = value
		return body
	}
	without := func(field string) map[string]string {
		body := registration(newName())
		delete(body, field)
		return body
	}
	for _, tc := range []struct {
		row     string
		body    any
		header  []string
		status  int
		message string
	}{
		{"A1 username missing", without("username"), nil, 400, "username, email, and password are required"},
		{"A1 email missing", without("email"), nil, 400, "username, email, and password are required"},
		{"A1 password missing", without("password"), nil, 400, "username, email, and password are required"},
		{"A1 username blank", with("username", "  "), nil, 400, "username, email, and password are required"},
		{"A1 empty object", "{}", nil, 400, "username, email, and password are required"},
		{"A1 malformed JSON", `{"username":`, nil, 400, "malformed JSON"},
		{"A1 another content type", "username=a", []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "application/json"},
		{"§19.7 username taken", with("username", name), nil, 409, "username already exists"},
		{"§19.7 email taken", with("email", name+"@example.com"), nil, 409, "email already exists"},
		{"§19.7 username of 51", with("username", strings.Repeat("a", 51)), nil, 400, "username must be"},
		{"§19.7 username with a space", with("username", "an n"), nil, 400, "username must be"},
		{"§19.7 confusable username", with("username", "аnn"), nil, 400, "username must be"},
		{"§19.7 username with NUL", with("username", "a\x00"), nil, 400, "username must be"},
		{"§19.7 email without @", with("email", "nobody"), nil, 400, "email must be"},
		{"§19.7 email of 101", with("email", strings.Repeat("a", 93)+"@mail.org"), nil, 400, "email must be"},
		{"§19.7 password of 7", with("password", "shor7+x"), nil, 400, "password must be 8 to 72 bytes"},
		{"§19.7 password of 73", with("password", strings.Repeat("x7", 36)+"y"), nil, 400, "password must be 8 to 72 bytes"},
		{"common password", with("password", "Password123"), nil, 400, "too easy to guess"},
	} {
		t.Run(tc.row, func(t *testing.T) {
			t.Parallel()
			wantProblem(t, request(t, "POST", "/api/v1/auth/register", "", tc.body, tc.header...), tc.status, tc.message)
		})
	}
}

// Contract §3 A2.
func TestLogin(t *testing.T) {
	t.Parallel()
	ann := newPerson(t)
	got := ann.login(t)
	if got.UserID != ann.id || got.Username != ann.name || got.RefreshToken == ann.refresh || got.ExpiresIn != 3600 ||
		!slices.Equal(got.Roles, []string{"USER"}) {
		t.Errorf("%+v", got)
	}
	texts := map[string]bool{}
	for _, tc := range []struct {
		row     string
		body    any
		status  int
		message string
	}{
		{"A2 wrong password", map[string]string{"username": ann.name, "password": "wrong horse 9"}, 401, "invalid credentials"},
		{"A2 unknown user", map[string]string{"username": newName(), "password": "wrong horse 9"}, 401, "invalid credentials"},
		{"A2 case of the name", map[string]string{"username": strings.ToUpper(ann.name), "password": ann.password}, 401, "invalid credentials"},
		{"A2 username missing", map[string]string{"password": "x"}, 401, "username and password are required"},
		{"A2 password missing", map[string]string{"username": ann.name}, 401, "username and password are required"},
		{"A2 malformed JSON", "{", 400, "malformed JSON"},
		{"A2 wrong type", `{"username":1,"password":2}`, 400, "wrong type"},
	} {
		a := request(t, "POST", "/api/v1/auth/login", "", tc.body)
		if why := notProblem(a, tc.status, tc.message); why != "" {
			t.Errorf("%s: %s: %d %s", tc.row, why, a.status, a.text)
		}
		if tc.message == "invalid credentials" {
			var p struct{ Message string }
			a.into(t, &p)
			texts[p.Message] = true
		}
	}
	if len(texts) != 1 {
		t.Errorf("the answers tell who exists: %v", texts)
	}
}

// Guessing one account has to wait, and the answer says how long.
func TestGuessingHasToWait(t *testing.T) {
	t.Parallel()
	ann := newPerson(t)
	for n := range 20 {
		a, err := patientRequest(t.Context(), "POST", "/api/v1/auth/login", "",
			map[string]string{"username": ann.name, "password": fmt.Sprintf("wrong horse %d", n)})
		if err != nil {
			t.Fatal(err)
		}
		if a.status == 401 {
			continue
		}
		wantProblem(t, a, 429, "too many attempts")
		if seconds := a.header.Get("Retry-After"); seconds == "" || seconds == "0" {
			t.Errorf("Retry-After is %q", seconds)
		}
		if n < 5 {
			t.Errorf("only %d guesses were free", n)
		}
		return
	}
	t.Fatal("twenty guesses, and none had to wait")
}

// Contract §21: refresh, logout, password.
func TestSessions(t *testing.T) {
	t.Parallel()
	const refresh, logout, password = "/api/v1/auth/refresh", "/api/v1/auth/logout", "/api/v1/auth/password"
	ann := newPerson(t)
	with := func(token string) map[string]string { return map[string]string{"refreshToken": token} }
	a := request(t, "POST", refresh, "", with(ann.refresh))
	var second sessionBody
	a.into(t, &second)
	if a.status != 200 || second.RefreshToken == ann.refresh || second.Token == "" || second.ExpiresIn != 3600 ||
		a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %s", a.status, a.text)
	}
	wantProblem(t, request(t, "POST", refresh, "", with(ann.refresh)), 401, "used before")
	wantProblem(t, request(t, "POST", refresh, "", with(second.RefreshToken)), 401, "")
	refusedSoon(t, second.Token, "an access token of a family that was replayed")
	for row, body := range map[string]any{"none": "{}", "null": `{"refreshToken":null}`, "number": `{"refreshToken":7}`, "array": "[]"} {
		for _, path := range []string{refresh, logout} {
			if why := notProblem(request(t, "POST", path, "", body), 400, ""); why != "" {
				t.Errorf("%s, %s: %s", path, row, why)
			}
		}
	}
	wantProblem(t, request(t, "POST", refresh, "", with("leaky_rt_nonsense")), 401, "invalid refresh token")
	wantProblem(t, request(t, "POST", refresh, "", with(ann.jwt)), 401, "invalid refresh token")

	out := ann.login(t)
	for range 2 { // once more changes nothing
		if a := request(t, "POST", logout, "", with(out.RefreshToken)); a.status != 204 || a.text != "" {
			t.Fatalf("logout: %d %s", a.status, a.text)
		}
	}
	wantProblem(t, request(t, "POST", refresh, "", with(out.RefreshToken)), 401, "")
	refusedSoon(t, out.Token, "an access token after the logout")

	in := ann.login(t)
	wantProblem(t, request(t, "POST", password, "", map[string]string{"current": ann.password, "new": "better horse 77"}), 401, "")
	wantProblem(t, request(t, "POST", password, in.Token, map[string]string{"current": "wrong horse 1", "new": "better horse 77"}), 400,
		"current password is wrong")
	wantProblem(t, request(t, "POST", password, in.Token, map[string]string{"current": ann.password, "new": "short"}), 400, "8 to 72")
	wantProblem(t, request(t, "POST", password, in.Token, map[string]string{"current": ann.password}), 400, "new is required")
	if a := request(t, "POST", password, in.Token, map[string]string{"current": ann.password, "new": "better horse 77"}); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.text)
	}
	refusedSoon(t, in.Token, "an access token after the password was changed")
	wantProblem(t, request(t, "POST", refresh, "", with(in.RefreshToken)), 401, "")
	wantProblem(t, request(t, "POST", "/api/v1/auth/login", "", map[string]string{"username": ann.name, "password": ann.password}), 401,
		"invalid credentials")
	ann.password = "better horse 77"
	ann.login(t)
}

// refusedSoon waits until a credential gets a 401.
func refusedSoon(t *testing.T, credential, what string) {
	t.Helper()
	testenv.Eventually(t, what+" is refused", func() bool { return request(t, "GET", "/api/v1/me", credential, nil).status == 401 })
}

// Ten registrations of one name at the same time: one 201, nine 409.
func TestSimultaneousRegistrations(t *testing.T) {
	t.Parallel()
	for what, body := range map[string]func(int, string) map[string]string{
		"name": func(n int, name string) map[string]string {
			b := registration(name)
			b["email"] = fmt.Sprintf("%s%d@example.com", name, n)
			return b
		},
		"e-mail": func(n int, name string) map[string]string {
			b := registration(name)
			b["username"] = fmt.Sprintf("%s%d", name, n)
			return b
		},
	} {
		name := newName()
		got := atOnce(t, 10, func(ctx context.Context, n int) (int, error) {
			a, err := patientRequest(ctx, "POST", "/api/v1/auth/register", "", body(n, name))
			return a.status, err
		})
		if got[201] != 1 || got[409] != 9 {
			t.Errorf("ten with one %s: %v", what, got)
		}
	}
}

// A thousand refreshes of one token at the same time: one success, and the family is gone.
func TestThousandRefreshesOfOneToken(t *testing.T) {
	t.Parallel()
	ann := newPerson(t)
	var mu sync.Mutex
	var winner sessionBody
	got := atOnce(t, 1000, func(ctx context.Context, _ int) (int, error) {
		a, err := patientRequest(ctx, "POST", "/api/v1/auth/refresh", "", map[string]string{"refreshToken": ann.refresh})
		if err == nil && a.status == 200 {
			mu.Lock()
			defer mu.Unlock()
			err = json.Unmarshal([]byte(a.text), &winner)
		}
		return a.status, err
	})
	if got[200] != 1 || got[401] != 999 {
		t.Fatalf("want one 200 and 999 times 401, got %v", got)
	}
	wantProblem(t, request(t, "POST", "/api/v1/auth/refresh", "", map[string]string{"refreshToken": winner.RefreshToken}), 401, "")
	refusedSoon(t, winner.Token, "the one that won")
	refusedSoon(t, ann.jwt, "the first one")
}

// atOnce runs f n times at the same time and counts the statuses. A call that could not be sent
// fails the test.
func atOnce(t *testing.T, n int, f func(ctx context.Context, n int) (int, error)) map[int]int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var failed error
	counts, start := map[int]int{}, make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			status, err := f(ctx, i)
			mu.Lock()
			defer mu.Unlock()
			counts[status]++
			failed = errors.Join(failed, err)
		})
	}
	close(start)
	wg.Wait()
	if failed != nil {
		t.Fatal(failed)
	}
	return counts
}
