package dashboards

// What the queries of several pages have in common.
const (
	gatewayAnswers = `envoy_http_downstream_rq_xx{envoy_http_conn_manager_prefix="gateway"}`
	gatewayErrors  = `envoy_http_downstream_rq_xx{envoy_http_conn_manager_prefix="gateway",envoy_response_code_class="5"}`
	gatewayTimes   = `envoy_http_downstream_rq_time_bucket{envoy_http_conn_manager_prefix="gateway"}`
	ownTimes       = `envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=~"extauthz|ratelimit"}`
	tokensUsed     = `gen_ai_client_token_usage_sum{gen_ai_provider_name=~"$provider"}`
	callsServed    = `gen_ai_server_request_duration_seconds_count{gen_ai_provider_name=~"$provider"}`
)

func quantile(q, buckets, by string) string {
	return `histogram_quantile(` + q + `, sum by (le` + by + `) (rate(` + buckets + `[$__rate_interval])))`
}

func percentiles(buckets string) []query {
	return []query{{quantile("0.5", buckets, ""), "p50"}, {quantile("0.95", buckets, ""), "p95"}, {quantile("0.99", buckets, ""), "p99"}}
}

func perMinuteOf(counter, by string) string {
	if by != "" {
		by = " by (" + by + ")"
	}
	return `60 * sum` + by + ` (rate(` + counter + `[$__rate_interval]))`
}

func overview() page {
	return page{uid: "leaky-tokens-overview", title: "Executive Overview",
		variables: []variable{{"service", "up", "application"}, byProvider()},
		about:     "Is the gateway well, what passes it, and what does it refuse?",
		rows: []row{
			{"Is it well?", []panel{
				{number, "Requests / min", "Answers of the gateway, whoever made them.", perMinute, 1000, 5000, one(perMinuteOf(gatewayAnswers, ""))},
				{number, "Errors", "Share of 5xx among the answers. The objective is 0.1 % of a month.", share, 0.01, 0.05,
					one(`sum(rate(` + gatewayErrors + `[$__rate_interval])) / sum(rate(` + gatewayAnswers + `[$__rate_interval]))`)},
				{number, "Gateway's own share, p95", "What deciding takes: the slower of who calls and may they. The objective is 100 ms.", millis, 50, 100,
					one(`max(` + quantile("0.95", ownTimes, ", envoy_cluster_name") + `)`)},
				{number, "Refused by limits / min", "Calls that a limit or an empty pool refused.", perMinute, 10, 100,
					one(perMinuteOf(`gateway_rate_limit_total{outcome="blocked"}`, "") + ` or vector(0)`)},
				{number, "Parts that answer", "Of all that Prometheus knows.", share, 1, 0.9, one(`sum(up) / count(up)`)},
				{number, "Alerts", "That fire now. docs/operations.md says what to do about each.", plain, 1, 1.5,
					one(`count(ALERTS{alertstate="firing"}) or vector(0)`)},
			}},
			{"What passes?", []panel{
				{lines, "Requests by class of status", "", perMinute, 0, 0,
					[]query{{perMinuteOf(gatewayAnswers, "envoy_response_code_class"), "{{envoy_response_code_class}}xx"}}},
				{lines, "Tokens / min by provider", "As charged: the provider's count, or an estimate where it told none.", perMinute, 0, 0,
					[]query{{perMinuteOf(tokensUsed, "gen_ai_provider_name"), "{{gen_ai_provider_name}}"}}},
				{pie, "Tokens by provider", "In the time shown.", plain, 0, 0,
					[]query{{`sum by (gen_ai_provider_name) (increase(` + tokensUsed + `[$__range]))`, "{{gen_ai_provider_name}}"}}},
			}},
			{"How fast?", []panel{
				{lines, "Gateway, all of a call", "From the first byte in to the last byte out: the provider's time too.", millis, 0, 0, percentiles(gatewayTimes)},
				{lines, "First token of a stream", "From the request to the first byte of the provider's answer.", seconds, 0, 0,
					percentiles(`gen_ai_server_time_to_first_token_seconds_bucket{gen_ai_provider_name=~"$provider"}`)},
				{heatmap, "Calls by duration", "", seconds, 0, 0, []query{{
					`sum by (le) (increase(gen_ai_server_request_duration_seconds_bucket{gen_ai_provider_name=~"$provider"}[$__rate_interval]))`, "{{le}}"}}},
			}},
			{"Who uses what?", []panel{
				{bars, "Outcomes of consume", "The predecessor's endpoint.", plain, 0, 0,
					[]query{{`sum by (outcome) (increase(token_consume_total{provider=~"$provider"}[$__range])) or vector(0)`, "{{outcome}}"}}},
				{rows, "Control API, the ten most used", "Calls of the services' own endpoints.", perMinute, 0, 0,
					one(`topk(10, ` + perMinuteOf(`http_server_requests_seconds_count{application=~"$service"}`, "application, method, uri") + `)`)},
				{dial, "Memory of the services", "Resident, all Go services together.", memory, 5e8, 1e9,
					one(`sum(process_resident_memory_bytes{application!~"prometheus|alertmanager"})`)},
			}},
		}}
}
