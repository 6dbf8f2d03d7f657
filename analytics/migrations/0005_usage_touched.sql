-- When calls of an hour were last inserted or about to be. Every insert is marked here first, so
-- that sums of an hour are believed only if they were made after its newest mark (see rollup.go).
CREATE TABLE IF NOT EXISTS usage_touched (
    unit DateTime('UTC'), -- the hour
    mark DateTime64(6, 'UTC')
) ENGINE = ReplacingMergeTree(mark)
ORDER BY unit
