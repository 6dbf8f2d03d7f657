-- What is there from before the sums.
INSERT INTO usage_touched (unit, mark) SELECT toStartOfHour(toDateTime(timestamp, 'UTC')) AS unit, now64(6, 'UTC') FROM usage GROUP BY unit
