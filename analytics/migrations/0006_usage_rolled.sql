-- Which sums of an hour or a day stand: those of the newest generation, made of what was there at
-- the mark.
CREATE TABLE IF NOT EXISTS usage_rolled (
    grain      LowCardinality(String), -- hour (and its minutes) or day
    unit       DateTime('UTC'),
    generation UInt64,
    mark       DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree(generation)
ORDER BY (grain, unit)
