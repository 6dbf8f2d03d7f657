-- How far the stream of events is stored, noted now and then: a database that comes back from an older
-- copy has the position of then, and what came after it is read again.
CREATE TABLE IF NOT EXISTS consumer_positions (
    consumer String,
    stream   String, -- when it was made
    sequence UInt64,
    noted_at DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree(noted_at)
ORDER BY consumer
