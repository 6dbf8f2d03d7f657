package extauthz

import (
	"net/http"
	"testing"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/leaky-tokens/leaky-tokens/internal/contract/attributes"
	"github.com/leaky-tokens/leaky-tokens/internal/testing/prover"
)

// TestATokenThatIsBoundNeedsItsKey each time, also once it is remembered.
func TestATokenThatIsBoundNeedsItsKey(t *testing.T) {
	t.Parallel()
	s := ready(t, launch(t, newIssuer(t), ""))
	mine, other, user := prover.New(t), prover.New(t), uuid.NewString()
	claims := func(cnf any) jwt.MapClaims {
		c := claimsOf(user, "USER")
		if cnf != nil {
			c["cnf"] = cnf
		}
		return c
	}
	bound, free := sign(t, claims(map[string]string{"jkt": mine.Thumbprint}), nil), sign(t, claims(nil), nil)
	const path, at = "/v1/models?limit=1", publicIssuer + "/v1/models"
	send := func(scheme, token, proof string) int {
		headers := map[string]string{"authorization": scheme + " " + token}
		if proof != "" {
			headers["dpop"] = proof
		}
		return statusOf(t, s, request(path, headers))
	}
	for range 3 {
		if got := send("DPoP", bound, mine.Proof("POST", at, bound)); got != http.StatusOK {
			t.Fatalf("with a proof: want 200, got %d", got)
		}
	}
	once := mine.Proof("POST", at, bound)
	send("dpop", bound, once)
	for name, got := range map[string]int{
		"stolen":               send("Bearer", bound, ""),
		"stolen with a proof":  send("Bearer", bound, mine.Proof("POST", at, bound)),
		"no proof":             send("DPoP", bound, ""),
		"another's":            send("DPoP", bound, other.Proof("POST", at, bound)),
		"of another method":    send("DPoP", bound, mine.Proof("GET", at, bound)),
		"of another path":      send("DPoP", bound, mine.Proof("POST", at+"/x", bound)),
		"of another token":     send("DPoP", bound, mine.Proof("POST", at, free)),
		"of no token":          send("DPoP", bound, mine.Proof("POST", at, "")),
		"used":                 send("DPoP", bound, once),
		"two":                  send("DPoP", bound, mine.Proof("POST", at, bound)+","+mine.Proof("POST", at, bound)),
		"a free token by DPoP": send("DPoP", free, mine.Proof("POST", at, free)),
		"bound in another way": send("Bearer", sign(t, claims(map[string]string{"x5t#S256": "x"}), nil), ""),
		"bound to nothing":     send("Bearer", sign(t, claims(map[string]string{}), nil), ""),
		"cnf is a text":        send("Bearer", sign(t, claims("x"), nil), ""),
		"an API key by DPoP":   send("DPoP", newIssuer(t).newKey(user, nil, "USER"), ""),
	} {
		if got != http.StatusUnauthorized {
			t.Errorf("%s: want 401, got %d", name, got)
		}
	}
	if got := send("Bearer", free, ""); got != http.StatusOK {
		t.Errorf("a free token: want 200, got %d", got)
	}
	// Where nobody has to sign in, a credential that is there has to be good all the same.
	public := request("/api/v1/auth/login", map[string]string{"authorization": "DPoP " + bound}, attributes.ContextRule, attributes.RulePublic)
	if got := statusOf(t, s, public); got != http.StatusUnauthorized {
		t.Errorf("without a proof on a public path: want 401, got %d", got)
	}
}
