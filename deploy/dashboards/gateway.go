package dashboards

func gateway() page {
	return page{uid: "leaky-tokens-gateway", title: "Gateway & Security",
		about: "Who is let in, who is not, and how fast that is known.",
		rows: []row{
			{"Who calls?", []panel{
				{number, "Keys checked / min", "Cached ones too.", perMinute, 0, 0, one(perMinuteOf("gateway_api_key_validation_total", ""))},
				{number, "Of them good", "A fall is a client with an old key, or somebody who guesses.", share, 0.95, 0.8, one(
					`sum(rate(gateway_api_key_validation_total{outcome="success"}[$__rate_interval])) / sum(rate(gateway_api_key_validation_total[$__rate_interval]))`)},
				{number, "Answered from the cache", "", share, 0.7, 0.3, one(
					`sum(rate(gateway_api_key_cache_total{outcome="hit"}[$__rate_interval])) / sum(rate(gateway_api_key_cache_total[$__rate_interval]))`)},
				{number, "Registrations", "In the time shown.", plain, 0, 0, one(`sum(increase(auth_register_total{outcome="success"}[$__range])) or vector(0)`)},
				{number, "Logins", "In the time shown.", plain, 0, 0, one(`sum(increase(auth_login_total{outcome="success"}[$__range])) or vector(0)`)},
				{number, "Refused by limits / min", "", perMinute, 10, 100, one(perMinuteOf(`gateway_rate_limit_total{outcome="blocked"}`, "") + ` or vector(0)`)},
			}},
			{"Who is refused, and why?", []panel{
				{lines, "Requests that Envoy asked about", "By what extauthz said.", perMinute, 0, 0,
					[]query{{perMinuteOf("gateway_authorization_total", "outcome"), "{{outcome}}"}}},
				{bars, "Logins by reason", "In the time shown.", plain, 0, 0,
					[]query{{`sum by (outcome, reason) (increase(auth_login_total[$__range])) or vector(0)`, "{{outcome}} {{reason}}"}}},
				{rows, "Keys made, by outcome", "In the time shown.", plain, 0, 0,
					one(`sum by (outcome, reason) (increase(auth_api_key_create_total[$__range]))`)},
			}},
			{"Do limits bind where they should?", []panel{
				{lines, "Decisions / min", "By outcome.", perMinute, 0, 0, []query{{perMinuteOf("leaky_ratelimit_decisions_total", "outcome"), "{{outcome}}"}}},
				{lines, "Share refused", "", share, 0, 0, []query{{
					`(sum(rate(leaky_ratelimit_decisions_total{outcome=~"refused|balance"}[$__rate_interval])) or vector(0)) / sum(rate(leaky_ratelimit_decisions_total[$__rate_interval]))`, "refused"}}},
				{bars, "Refusals by rule", "In the time shown.", plain, 0, 0,
					[]query{{`topk(10, sum by (rule) (increase(leaky_ratelimit_refusals_total[$__range]))) or vector(0)`, "{{rule}}"}}},
			}},
			{"Does a revocation bind?", []panel{
				{number, "Since all revocations were known", "Above five seconds nothing that is remembered counts.", seconds, 3, 5,
					one(`max(gateway_revocation_staleness_seconds)`)},
				{number, "Linked", "1 while they arrive by NATS.", plain, 1, 0.5, one(`min(gateway_revocation_link)`)},
				{number, "Revocations kept", "", plain, 0, 0, one(`max(gateway_revocations_kept)`)},
			}},
			{"How long does deciding take?", []panel{
				{lines, "Who calls, and may they", "Asked by Envoy of extauthz and ratelimit, p95.", millis, 0, 0,
					[]query{{quantile("0.95", ownTimes, ", envoy_cluster_name"), "{{envoy_cluster_name}}"}}},
				{heatmap, "All of a call", "", millis, 0, 0, []query{{`sum by (le) (increase(` + gatewayTimes + `[$__rate_interval]))`, "{{le}}"}}},
			}},
		}}
}
