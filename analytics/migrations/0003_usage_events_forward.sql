-- A process from before this version still inserts into the old table; what it inserts goes on into
-- the new one. Precedence was 2^64 - 1 - sequence there.
CREATE MATERIALIZED VIEW IF NOT EXISTS usage_events_forward TO usage AS
SELECT request_id, user_id, org_id, key_id, tier, account, route, provider, model_asked, model_served, input_tokens, output_tokens,
    cached_tokens, reasoning_tokens, held_tokens, tokens, source, allowed, stream, status, reason, latency_ms, first_byte_ms, timestamp,
    precedence - 18446462598732840960 AS precedence, inserted_at, if(allowed, tokens, 0) AS unpriced_tokens
FROM usage_events
