package judge

// MannerVerdict is what became of the calls of one manner. Tokens are of those whose client has
// their id: one who left before the first byte has none.
type MannerVerdict struct {
	Manner    string `json:"manner"`
	Calls     int    `json:"calls"`
	Refused   int    `json:"refused"` // by a limit
	Told      int    `json:"told"`    // charged by the provider's count
	Estimated int    `json:"estimated"`
	Free      int    `json:"free"` // nothing was charged
	Charged   int64  `json:"chargedTokens"`
	Served    int64  `json:"servedTokens"`
}

// leastEstimate is the share of what was served that estimates charge at least, in sum.
const leastEstimate = 0.9

// behaved takes a call into its manner's line.
func (j *judge) behaved(c *Call) {
	if !j.e.Rude {
		return
	}
	m := j.manners[c.Manner]
	if m == nil {
		m = &MannerVerdict{Manner: c.Manner}
		j.manners[c.Manner] = m
	}
	m.Calls++
	event := j.e.Events[c.ID]
	m.Charged += event.Charged
	m.Served += j.e.Served[c.ID].total()
	switch {
	case c.Outcome == Refused:
		m.Refused++
	case event.Source == "provider":
		m.Told++
	case event.Charged > 0:
		m.Estimated++
	case event.Times > 0:
		m.Free++
	}
}

// declined: the provider did nothing, so nothing is charged.
func (j *judge) declined(c *Call) {
	j.expect(c)
	charge, event := j.e.Charges[c.ID], j.e.Events[c.ID]
	j.account(c, charge, event)
	switch {
	case j.e.Served[c.ID].total() > 0:
		j.differ(c, "declined by the provider, and served all the same")
	case charge.State == Held:
		j.v.Books.Open++
	case charge.Charged > 0 || event.Charged > 0:
		j.differ(c, "declined by the provider, and charged all the same")
	}
}
