-- +goose Up
-- The port under localhost may differ as it may under 127.0.0.1: its origin stands without one.
UPDATE oauth_clients SET origins = ARRAY(SELECT DISTINCT regexp_replace(origin, '^(http://localhost):[0-9]+$', '\1') FROM unnest(origins) AS origin)
WHERE EXISTS (SELECT 1 FROM unnest(origins) AS origin WHERE origin ~ '^http://localhost:');

-- +goose Down
SELECT 1;
