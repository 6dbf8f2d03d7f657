package config

// What a tier's calls to a provider have to do with the account's pool there.
const (
	BalanceIfPresent = "if_present" // an account with a pool draws on it, one without is bound by its limits only
	BalanceRequired  = "required"   // no pool, no call
	BalanceNone      = "none"       // limits only, whatever was bought
)

func (t Tier) validateBalance(v *validator, key string) {
	v.oneOf(key+".balance", t.Balance, BalanceIfPresent, BalanceRequired, BalanceNone)
}
