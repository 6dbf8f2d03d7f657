-- One row per call, of usage events of version 2 and of all that came before.
--
-- The sorting key ends in the call's own id, and every event of a call is given the same key (the
-- store looks up what it holds before it adds a correction), so that ReplacingMergeTree, and FINAL
-- before a merge has happened, leaves exactly one row however often events come and however late.
-- precedence says which: the highest version, and of one version the earliest in the stream. It is
-- version * 2^48 + (2^48 - 1 - sequence).
--
-- Days are partitions: reports reach over some days, and the key alone would make them read every
-- day of a provider. What a repricing books stands in rows of its own (entry = 'reprice'), which
-- have a cost and no tokens.
CREATE TABLE IF NOT EXISTS usage (
    request_id       String,
    entry            LowCardinality(String) DEFAULT 'call',
    version          UInt32,
    user_id          String,
    org_id           String,
    team             String,
    key_id           String,
    tier             LowCardinality(String),
    account          String,
    end_user         String,
    session          String,
    tags             Map(LowCardinality(String), String),
    route            LowCardinality(String),
    provider         LowCardinality(String),
    model_asked      LowCardinality(String),
    model_served     LowCardinality(String),
    input_tokens     Int64,
    output_tokens    Int64,
    cached_tokens    Int64,
    cache_write_5m_tokens Int64,
    cache_write_1h_tokens Int64,
    tool_input_tokens Int64,
    reasoning_tokens Int64,
    audio_tokens     Int64,
    audio_output_tokens Int64,
    held_tokens      Int64,
    tokens           Int64,
    price_version    LowCardinality(String),
    cost_micros      Int64,
    currency         LowCardinality(String),
    unpriced_tokens  Int64, -- of an allowed call without a price; a repricing takes them back
    source           LowCardinality(String),
    pool             LowCardinality(String),
    allowed          Bool,
    stream           Bool,
    status           Int32,
    reason           String,
    skipped          Int64,
    attempts         Int64,
    latency_ms       Int64,
    first_byte_ms    Int64,
    timestamp        DateTime64(3, 'UTC'),
    precedence       UInt64,
    inserted_at      DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
    INDEX by_request request_id TYPE bloom_filter GRANULARITY 4
) ENGINE = ReplacingMergeTree(precedence)
PARTITION BY toYYYYMMDD(timestamp)
ORDER BY (provider, user_id, timestamp, request_id)
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1
