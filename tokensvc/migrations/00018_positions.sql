-- +goose Up
-- How far the stream of events is booked, noted now and then: a database that comes back from an older
-- copy has the position of then, and what came after it is read again. server is the run of Postgres
-- that it was noted in.
CREATE TABLE token_stream_positions (
    consumer varchar(100) PRIMARY KEY,
    stream   varchar(100) NOT NULL, -- when it was made
    sequence bigint       NOT NULL CHECK (sequence >= 0),
    server   varchar(100) NOT NULL,
    noted_at timestamptz  NOT NULL DEFAULT now()
);

-- +goose Down
DROP TABLE token_stream_positions;
