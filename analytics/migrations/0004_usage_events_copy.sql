-- What the old table holds. Done twice it is the same rows.
INSERT INTO usage (request_id, user_id, org_id, key_id, tier, account, route, provider, model_asked, model_served, input_tokens, output_tokens,
    cached_tokens, reasoning_tokens, held_tokens, tokens, source, allowed, stream, status, reason, latency_ms, first_byte_ms, timestamp,
    precedence, inserted_at, unpriced_tokens)
SELECT request_id, user_id, org_id, key_id, tier, account, route, provider, model_asked, model_served, input_tokens, output_tokens,
    cached_tokens, reasoning_tokens, held_tokens, tokens, source, allowed, stream, status, reason, latency_ms, first_byte_ms, timestamp,
    precedence - 18446462598732840960 AS precedence, inserted_at, if(allowed, tokens, 0)
FROM usage_events FINAL
SETTINGS max_partitions_per_insert_block = 0
