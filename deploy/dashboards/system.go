package dashboards

func system() page {
	const here = `{application=~"$service"}`
	return page{uid: "leaky-tokens-system", title: "System Health", variables: []variable{{"service", "up", "application"}},
		about: "What runs, what it takes, and what it waits for.",
		rows: []row{
			{"Does everything run?", []panel{
				{number, "Parts up", "", plain, 9, 5, one(`sum(up)`)},
				{number, "Memory", "Resident, all parts shown.", memory, 1e9, 2e9, one(`sum(process_resident_memory_bytes` + here + `)`)},
				{number, "Goroutines", "", plain, 10_000, 50_000, one(`sum(go_goroutines` + here + `)`)},
				{number, "CPU", "Cores, all parts shown.", plain, 0, 0, one(`sum(rate(process_cpu_seconds_total` + here + `[$__rate_interval]))`)},
				{number, "Open files", "The most of any part, of what it may have.", share, 0.5, 0.8, one(`max(process_open_fds` + here + ` / process_max_fds` + here + `)`)},
				{number, "Disk left", "Of the one that the state folder is on.", share, 0.2, 0.1, one(`min(leaky_state_free_ratio)`)},
			}},
			{"Do the stores answer?", []panel{
				{rows, "Stores", "1 while the store answers the part.", plain, 0, 0, one(`min by (application, store) (leaky_store_up)`)},
				{lines, "How long they take", "", seconds, 0, 0, []query{{`max by (store) (leaky_store_answer_seconds)`, "{{store}}"}}},
				{lines, "Connections to Postgres", "Used, of those that all processes of a service may have.", plain, 0, 0, []query{
					{`sum by (application) (leaky_postgres_connections_active)`, "{{application}} used"},
					{`sum by (application) (leaky_postgres_connections_idle)`, "{{application}} idle"},
					{`sum by (application) (leaky_postgres_connections_max)`, "{{application}} most"}}},
				{lines, "What waits", "Events that are not where they go yet.", plain, 0, 0, []query{
					{`max(analytics_consumer_lag_events)`, "analytics"}, {`max(token_ledger_lag_events)`, "ledger"},
					{`max(token_outbox_backlog_events)`, "outbox"}}},
				{lines, "Spool, not settled", "", memory, 0, 0, []query{{`sum(leaky_meter_lag_bytes)`, "all meters"}}},
			}},
			{"What does it take?", []panel{
				{lines, "Memory by part", "", memory, 0, 0, []query{{`sum by (application) (process_resident_memory_bytes` + here + `)`, "{{application}}"}}},
				{lines, "CPU by part", "Cores.", plain, 0, 0, []query{{`sum by (application) (rate(process_cpu_seconds_total` + here + `[$__rate_interval]))`, "{{application}}"}}},
				{lines, "Heap in use", "", memory, 0, 0, []query{{`sum by (application) (go_memstats_heap_inuse_bytes` + here + `)`, "{{application}}"}}},
			}},
			{"Is the runtime well?", []panel{
				{lines, "Goroutines by part", "One that only grows is a leak.", plain, 0, 0, []query{{`sum by (application) (go_goroutines` + here + `)`, "{{application}}"}}},
				{lines, "Longest pause of the collector", "", seconds, 0, 0,
					[]query{{`max by (application) (go_gc_duration_seconds{application=~"$service",quantile="1"})`, "{{application}}"}}},
				{lines, "Open files by part", "", plain, 0, 0, []query{{`sum by (application) (process_open_fds` + here + `)`, "{{application}}"}}},
			}},
			{"What do Envoys run?", []panel{
				{number, "Envoys connected", "", plain, 1, 0.5, one(`max(leaky_xds_clients)`)},
				{number, "Types that one refuses", "`leaky status` says why.", plain, 1, 1.5, one(`max(leaky_xds_client_refused_types) or vector(0)`)},
				{number, "Files refused", "1 while the present content of the files is not taken.", plain, 1, 1.5, one(`max(leaky_xds_config_refused)`)},
				{rows, "Versions", "Of each type of resources, as acknowledged last.", plain, 0, 0, one(`max by (node, type, version) (leaky_xds_client_config_info)`)},
				{number, "Started", "The part that started last.", since, 0, 0, one(`max(process_start_time_seconds` + here + `) * 1000`)},
			}},
		}}
}
