package dashboards

func providers() page {
	const times = `gen_ai_server_request_duration_seconds_bucket{gen_ai_provider_name=~"$provider"}`
	return page{uid: "leaky-tokens-providers", title: "Health of Providers", variables: []variable{byProvider()},
		about: "Which provider is slow, fails or is out, and what that does to callers.",
		rows: []row{
			{"Does it answer?", []panel{
				{lines, "Calls / min", "", perMinute, 0, 0, []query{{perMinuteOf(callsServed, "gen_ai_provider_name"), "{{gen_ai_provider_name}}"}}},
				{lines, "Errors / min", "By status.", perMinute, 0, 0, []query{{
					perMinuteOf(`gen_ai_server_request_duration_seconds_count{gen_ai_provider_name=~"$provider",error_type!="none"}`,
						"gen_ai_provider_name, error_type") + " or vector(0)", "{{gen_ai_provider_name}} {{error_type}}"}}},
				{bars, "Share that failed", "In the time shown.", share, 0.02, 0.1, []query{{
					`(sum by (gen_ai_provider_name) (increase(gen_ai_server_request_duration_seconds_count{gen_ai_provider_name=~"$provider",error_type!="none"}[$__range])) or 0 * sum by (gen_ai_provider_name) (increase(` +
						callsServed + `[$__range]))) / sum by (gen_ai_provider_name) (increase(` + callsServed + `[$__range]))`, "{{gen_ai_provider_name}}"}}},
			}},
			{"How fast is it?", []panel{
				{lines, "All of a call, p95", "", seconds, 0, 0,
					[]query{{quantile("0.95", times, ", gen_ai_provider_name"), "{{gen_ai_provider_name}}"}}},
				{lines, "First token, p95", "Of streams.", seconds, 0, 0, []query{{quantile("0.95",
					`gen_ai_server_time_to_first_token_seconds_bucket{gen_ai_provider_name=~"$provider"}`, ", gen_ai_provider_name"), "{{gen_ai_provider_name}}"}}},
				{lines, "Each token after it, p95", "Of streams.", seconds, 0, 0, []query{{quantile("0.95",
					`gen_ai_server_time_per_output_token_seconds_bucket{gen_ai_provider_name=~"$provider"}`, ", gen_ai_provider_name"), "{{gen_ai_provider_name}}"}}},
			}},
			{"Is it its connection?", []panel{
				{lines, "Connections", "Open now, by cluster.", plain, 0, 0,
					[]query{{`sum by (envoy_cluster_name) (envoy_cluster_upstream_cx_active{envoy_cluster_name!~"extauthz|ratelimit|xds|metrics"})`, "{{envoy_cluster_name}}"}}},
				{lines, "Requests that found no room", "The circuit breaker was open.", perMinute, 0, 0, []query{{
					perMinuteOf("envoy_cluster_upstream_rq_pending_overflow", "envoy_cluster_name"), "{{envoy_cluster_name}}"}}},
				{lines, "Connections that failed", "", perMinute, 0, 0, []query{{
					perMinuteOf("envoy_cluster_upstream_cx_connect_fail", "envoy_cluster_name"), "{{envoy_cluster_name}}"}}},
			}},
		}}
}
