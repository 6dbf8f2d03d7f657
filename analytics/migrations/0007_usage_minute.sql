-- Sums by minute, of the dimensions that most questions are about. A generation is written whole, and
-- counts once usage_rolled names it; earlier ones are of no account.
CREATE TABLE IF NOT EXISTS usage_minute (
    unit             DateTime('UTC'), -- hour or day that a generation is of
    generation       UInt64,
    timestamp        DateTime64(3, 'UTC'), -- begin of the minute
    provider         LowCardinality(String),
    user_id          String,
    org_id           String,
    team             String,
    key_id           String,
    tier             LowCardinality(String),
    account          String,
    route            LowCardinality(String),
    model_asked      LowCardinality(String),
    model_served     LowCardinality(String),
    source           LowCardinality(String),
    allowed          Bool,
    price_version    LowCardinality(String),
    currency         LowCardinality(String),
    events           Int64, -- calls; corrections of prices are none
    tokens           Int64,
    input_tokens     Int64,
    output_tokens    Int64,
    cached_tokens    Int64,
    cache_write_5m_tokens Int64,
    cache_write_1h_tokens Int64,
    reasoning_tokens Int64,
    audio_tokens     Int64,
    audio_output_tokens Int64,
    unpriced_tokens  Int64,
    cost_micros      Int64
) ENGINE = ReplacingMergeTree(generation)
PARTITION BY toYYYYMM(unit)
ORDER BY (unit, provider, user_id, timestamp, org_id, team, key_id, tier, account, route, model_asked, model_served, source, allowed,
    price_version, currency)
