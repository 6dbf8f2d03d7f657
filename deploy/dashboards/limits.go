package dashboards

func limits() page {
	return page{uid: "leaky-tokens-limits", title: "Limits & Holds",
		about: "What is held, what becomes of it, and whether the estimates are good.",
		rows: []row{
			{"What is held now?", []panel{
				{number, "Holds", "Calls that are not settled, as of the last sweep.", plain, 10_000, 100_000, one(`max(leaky_ratelimit_holds_live)`)},
				{number, "Tokens held", "", plain, 0, 0, one(`max(leaky_ratelimit_held_tokens)`)},
				{number, "Oldest hold", "Longer than the longest call: somebody does not settle.", seconds, 900, 1800, one(`max(leaky_ratelimit_oldest_hold_seconds)`)},
				{number, "Expired", "Holds that nobody settled in time, in the time shown.", plain, 1, 10, one(`sum(increase(leaky_ratelimit_holds_expired_total[$__range]))`)},
				{number, "Above the hold", "Tokens charged above what was held, of all that were held.", share, 0.001, 0.01, one(
					`(sum(increase(leaky_meter_overshoot_tokens_total[$__range])) or vector(0)) / sum(increase(leaky_meter_held_tokens_total[$__range]))`)},
			}},
			{"Which rule binds?", []panel{
				{lines, "Refusals / min by rule", "", perMinute, 0, 0, []query{{perMinuteOf("leaky_ratelimit_refusals_total", "rule") + " or vector(0)", "{{rule}}"}}},
				{rows, "Rules that match nothing", "For limits.idle_after. Perhaps a descriptor that no request has.", plain, 0, 0,
					one(`max by (domain, rule) (leaky_ratelimit_rule_idle)`)},
				{lines, "In shadow", "Calls that a rule in shadow would have refused.", perMinute, 0, 0,
					[]query{{perMinuteOf("leaky_ratelimit_shadow_refusals_total", "rule") + " or vector(0)", "{{rule}}"}}},
			}},
			{"Are the holds right?", []panel{
				{lines, "Held and charged", "Tokens a minute. Far apart: maxima are stated too high, and limits refuse too early.", perMinute, 0, 0, []query{
					{perMinuteOf("leaky_meter_held_tokens_total", ""), "held"}, {perMinuteOf("leaky_meter_tokens_total", ""), "charged"}}},
				{lines, "Input, of what was held for it", "Above 1 the bound of the input did not hold.", share, 0, 0,
					[]query{{quantile("0.99", "leaky_meter_input_hold_ratio_bucket", ", provider"), "{{provider}}, p99"}}},
				{lines, "Error of estimates", "That an estimate would have had on answers whose usage is known.", share, 0, 0,
					percentiles("leaky_meter_estimate_error_ratio_bucket")},
			}},
			{"Do settlements arrive?", []panel{
				{lines, "Settlements / min", "late: the sweeper was before. unknown: no such hold.", perMinute, 0, 0,
					[]query{{perMinuteOf("leaky_ratelimit_settlements_total", "status"), "{{status}}"}}},
				{lines, "Lines of the spool / min", "By what became of them.", perMinute, 0, 0, []query{{perMinuteOf("leaky_meter_lines_total", "kind"), "{{kind}}"}}},
				{lines, "Without Redis", "Decisions while it was away, by the route's mode.", perMinute, 0, 0,
					[]query{{perMinuteOf("leaky_ratelimit_outage_decisions_total", "mode, outcome") + " or vector(0)", "{{mode}} {{outcome}}"}}},
			}},
		}}
}
