-- Whoever else inserts marks nothing before: a process from before the sums, a restore, a person. What
-- they insert is marked as it comes.
CREATE MATERIALIZED VIEW IF NOT EXISTS usage_touched_by_insert TO usage_touched AS
SELECT toStartOfHour(toDateTime(timestamp, 'UTC')) AS unit, now64(6, 'UTC') AS mark FROM usage GROUP BY unit
