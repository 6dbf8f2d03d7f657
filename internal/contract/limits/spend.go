package limits

import "time"

// Budget says whose budget a rule is: "org" or "team" of a rule that counts tokens by the
// day or longer and is an organisation's or a team's as a whole, whoever of them spends;
// empty for every other.
func (r *Rule) Budget() string {
	if r.Unit != Tokens || r.Period < 24*time.Hour {
		return ""
	}
	whose := ""
	for _, s := range r.steps {
		switch s.key {
		case "user", "key":
			return ""
		case "team":
			whose = s.key
		case "org":
			if whose == "" {
				whose = s.key
			}
		}
	}
	return whose
}
