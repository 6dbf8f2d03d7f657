-- name: ReadPosition :one
SELECT coalesce(p.stream, '')::text AS stream, coalesce(p.sequence, 0)::bigint AS sequence, coalesce(p.server, '')::text AS noted,
    pg_postmaster_start_time()::timestamptz AS server
FROM (SELECT @consumer::text AS consumer) c LEFT JOIN token_stream_positions p ON p.consumer = c.consumer;

-- name: NotePosition :execrows
-- Only at the run of the server that started at a time.
INSERT INTO token_stream_positions (consumer, stream, sequence, server)
SELECT @consumer::text, @stream::text, @sequence::bigint, @server::text WHERE pg_postmaster_start_time() = @started::timestamptz
ON CONFLICT (consumer) DO UPDATE SET stream = excluded.stream, sequence = excluded.sequence, server = excluded.server, noted_at = now();
