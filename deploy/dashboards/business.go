package dashboards

func business() page {
	return page{uid: "leaky-tokens-business", title: "Business Metrics", variables: []variable{byProvider()},
		about: "What was consumed, bought and refused.",
		rows: []row{
			{"How much was used?", []panel{
				{number, "Tokens", "Charged in the time shown.", plain, 0, 0, one(`sum(increase(` + tokensUsed + `[$__range]))`)},
				{number, "Calls served", "", plain, 0, 0, one(`sum(increase(` + callsServed + `[$__range]))`)},
				{number, "Estimated", "Share of the tokens that no provider counted: calls that ended early.", share, 0.05, 0.2, one(
					`(sum(increase(leaky_meter_tokens_total{source="estimated"}[$__range])) or vector(0)) / sum(increase(leaky_meter_tokens_total[$__range]))`)},
				{number, "Refused by a limit", "", plain, 0, 0, one(`sum(increase(leaky_ratelimit_decisions_total{outcome="refused"}[$__range])) or vector(0)`)},
				{number, "Refused for want of tokens", "The pool held too little, or there was none.", plain, 0, 0,
					one(`sum(increase(leaky_ratelimit_decisions_total{outcome="balance"}[$__range])) or vector(0)`)},
				{number, "Failed calls", "The provider answered with an error.", plain, 0, 0,
					one(`sum(increase(gen_ai_server_request_duration_seconds_count{gen_ai_provider_name=~"$provider",error_type!="none"}[$__range])) or vector(0)`)},
			}},
			{"Of what kind?", []panel{
				{lines, "Tokens / min by type", "", perMinute, 0, 0, []query{{perMinuteOf(tokensUsed, "gen_ai_token_type"), "{{gen_ai_token_type}}"}}},
				{lines, "Calls / min by model", "As the caller named it.", perMinute, 0, 0,
					[]query{{perMinuteOf(callsServed, "gen_ai_request_model"), "{{gen_ai_request_model}}"}}},
				{pie, "Tokens by model", "In the time shown.", plain, 0, 0,
					[]query{{`sum by (gen_ai_request_model) (increase(` + tokensUsed + `[$__range]))`, "{{gen_ai_request_model}}"}}},
			}},
			{"What is bought?", []panel{
				{number, "Purchases begun", "", plain, 0, 0, one(`sum(increase(token_purchase_saga_started_total[$__range])) or vector(0)`)},
				{number, "Completed", "", plain, 0, 0, one(`sum(increase(token_purchase_saga_completed_total[$__range])) or vector(0)`)},
				{number, "Undone", "The payment was refused, and everything taken back.", plain, 1, 10,
					one(`sum(increase(token_purchase_saga_failed_total[$__range])) or vector(0)`)},
				{number, "Under way", "", plain, 100, 1000, one(`max(token_purchase_saga_open)`)},
				{number, "Wait for a person", "`leaky sagas list` names them.", plain, 1, 1.5, one(`max(token_purchase_saga_parked)`)},
				{number, "Books that do not balance", "Differences that the last proof of the ledger found.", plain, 1, 1.5, one(`max(token_ledger_drift)`)},
			}},
			{"How do purchases and look-ups go?", []panel{
				{lines, "Purchases / min", "", perMinute, 0, 0, []query{
					{perMinuteOf("token_purchase_saga_started_total", "") + " or vector(0)", "begun"},
					{perMinuteOf("token_purchase_saga_completed_total", "") + " or vector(0)", "completed"},
					{perMinuteOf("token_purchase_saga_failed_total", "") + " or vector(0)", "undone"}}},
				{lines, "Consume by outcome", "", perMinute, 0, 0,
					[]query{{perMinuteOf(`token_consume_total{provider=~"$provider"}`, "outcome") + " or vector(0)", "{{outcome}}"}}},
				{lines, "Quota look-ups / min", "", perMinute, 0, 0, []query{{perMinuteOf("token_quota_lookup_total", "outcome") + " or vector(0)", "{{outcome}}"}}},
			}},
		}}
}
