-- One row per usage event. The sorting key ends in the event's own id, and the same
-- event always has the same key, so that ReplacingMergeTree (and FINAL before a merge
-- has happened) leaves exactly one row however often the event was delivered. When two
-- events claim one key, the earlier in the stream wins: precedence is the complement of
-- its sequence number. Days are partitions: reports reach back at most some days, and the
-- key alone would make them read every day of a provider.
CREATE TABLE IF NOT EXISTS usage_events (
    request_id    String,
    user_id       String,
    org_id        String,
    key_id        String,
    tier          LowCardinality(String),
    account       String,
    route         LowCardinality(String),
    provider      LowCardinality(String),
    model_asked   LowCardinality(String),
    model_served  LowCardinality(String),
    input_tokens  Int64,
    output_tokens Int64,
    cached_tokens Int64,
    reasoning_tokens Int64,
    held_tokens   Int64,
    tokens        Int64,
    source        LowCardinality(String),
    allowed       Bool,
    stream        Bool,
    status        Int32,
    reason        String,
    latency_ms    Int64,
    first_byte_ms Int64,
    timestamp     DateTime64(3, 'UTC'),
    precedence    UInt64,
    inserted_at   DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    INDEX by_request request_id TYPE bloom_filter GRANULARITY 4
) ENGINE = ReplacingMergeTree(precedence)
PARTITION BY toYYYYMMDD(timestamp)
ORDER BY (provider, user_id, timestamp, request_id)
SETTINGS non_replicated_deduplication_window = 10000
