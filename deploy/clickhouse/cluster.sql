-- The tables of a ClickHouse cluster, to be made before analytics starts: those of analytics/migrations,
-- replicated and spread over shards by the call (calls) or the user (sums), so that every row of one
-- key is on one shard. {cluster}, {shard} and {replica} are macros of the servers. The user of analytics
-- needs the settings insert_quorum = 'auto', select_sequential_consistency = 1 and
-- distributed_foreground_insert = 1: marks and sums are read right after they are written.

CREATE TABLE IF NOT EXISTS usage_local ON CLUSTER '{cluster}' (
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
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/usage', '{replica}', precedence)
PARTITION BY toYYYYMMDD(timestamp)
ORDER BY (provider, user_id, timestamp, request_id)
TTL toDateTime(timestamp) + toIntervalDay(90)
SETTINGS replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS usage ON CLUSTER '{cluster}' AS usage_local
ENGINE = Distributed('{cluster}', currentDatabase(), usage_local, cityHash64(request_id));

CREATE TABLE IF NOT EXISTS usage_touched ON CLUSTER '{cluster}' (
    unit DateTime('UTC'), -- the hour
    mark DateTime64(6, 'UTC')
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/usage_touched', '{replica}', mark)
ORDER BY unit;

CREATE TABLE IF NOT EXISTS usage_rolled ON CLUSTER '{cluster}' (
    grain      LowCardinality(String), -- hour (and its minutes) or day
    unit       DateTime('UTC'),
    generation UInt64,
    mark       DateTime64(6, 'UTC')
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/usage_rolled', '{replica}', generation)
ORDER BY (grain, unit);

CREATE TABLE IF NOT EXISTS usage_minute_local ON CLUSTER '{cluster}' (
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
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/usage_minute', '{replica}', generation)
PARTITION BY toYYYYMM(unit)
ORDER BY (unit, provider, user_id, timestamp, org_id, team, key_id, tier, account, route, model_asked, model_served, source, allowed,
    price_version, currency)
TTL toDateTime(unit) + toIntervalDay(730);

CREATE TABLE IF NOT EXISTS usage_minute ON CLUSTER '{cluster}' AS usage_minute_local
ENGINE = Distributed('{cluster}', currentDatabase(), usage_minute_local, cityHash64(user_id));

CREATE TABLE IF NOT EXISTS usage_hour_local ON CLUSTER '{cluster}' (
    unit             DateTime('UTC'), -- hour or day that a generation is of
    generation       UInt64,
    timestamp        DateTime64(3, 'UTC'), -- begin of the hour
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
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/usage_hour', '{replica}', generation)
PARTITION BY toYYYYMM(unit)
ORDER BY (unit, provider, user_id, timestamp, org_id, team, key_id, tier, account, route, model_asked, model_served, source, allowed,
    price_version, currency)
TTL toDateTime(unit) + toIntervalDay(730);

CREATE TABLE IF NOT EXISTS usage_hour ON CLUSTER '{cluster}' AS usage_hour_local
ENGINE = Distributed('{cluster}', currentDatabase(), usage_hour_local, cityHash64(user_id));

CREATE TABLE IF NOT EXISTS usage_day_local ON CLUSTER '{cluster}' (
    unit             DateTime('UTC'), -- hour or day that a generation is of
    generation       UInt64,
    timestamp        DateTime64(3, 'UTC'), -- begin of the day
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
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/usage_day', '{replica}', generation)
PARTITION BY toYYYYMM(unit)
ORDER BY (unit, provider, user_id, timestamp, org_id, team, key_id, tier, account, route, model_asked, model_served, source, allowed,
    price_version, currency)
TTL toDateTime(unit) + toIntervalDay(730);

CREATE TABLE IF NOT EXISTS usage_day ON CLUSTER '{cluster}' AS usage_day_local
ENGINE = Distributed('{cluster}', currentDatabase(), usage_day_local, cityHash64(user_id));

CREATE TABLE IF NOT EXISTS purchase_events_local ON CLUSTER '{cluster}' (
    event_id   String,
    type       LowCardinality(String),
    saga_id    String,
    user_id    String,
    org_id     String,
    provider   LowCardinality(String),
    status     LowCardinality(String),
    tokens     Int64,
    amount     Int64, -- minor units of currency
    currency   LowCardinality(String),
    reason     String,
    created_at DateTime64(3, 'UTC'), -- of the purchase
    updated_at DateTime64(3, 'UTC')  -- of this event
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/purchase_events', '{replica}', updated_at)
PARTITION BY toYYYYMM(created_at)
ORDER BY (user_id, created_at, saga_id, event_id);

CREATE TABLE IF NOT EXISTS purchase_events ON CLUSTER '{cluster}' AS purchase_events_local
ENGINE = Distributed('{cluster}', currentDatabase(), purchase_events_local, cityHash64(saga_id));

CREATE TABLE IF NOT EXISTS consumer_positions ON CLUSTER '{cluster}' (
    consumer String,
    stream   String, -- when it was made
    sequence UInt64,
    noted_at DateTime64(6, 'UTC')
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{database}/consumer_positions', '{replica}', noted_at)
ORDER BY consumer;
