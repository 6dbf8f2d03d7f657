-- One row per event of a purchase, each once by the event's id. What a purchase has come to is what its
-- newest event says.
CREATE TABLE IF NOT EXISTS purchase_events (
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
) ENGINE = ReplacingMergeTree(updated_at)
PARTITION BY toYYYYMM(created_at)
ORDER BY (user_id, created_at, saga_id, event_id)
