-- Adding a column locks the head, so no batch is committed until the numbers are counted.
ALTER TABLE feed ADD COLUMN total_users bigint NOT NULL DEFAULT 0;
ALTER TABLE feed ADD COLUMN total_pending bigint NOT NULL DEFAULT 0;
ALTER TABLE feed ADD COLUMN total_silenced bigint NOT NULL DEFAULT 0;
ALTER TABLE feed ADD COLUMN total_rejected bigint NOT NULL DEFAULT 0;
ALTER TABLE feed ADD COLUMN total_connected bigint NOT NULL DEFAULT 0;
ALTER TABLE feed ADD COLUMN total_blocks bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN feed.total_users IS 'The number of users.';
COMMENT ON COLUMN feed.total_pending IS 'The number of requests in the state PENDING. Requests that have expired count until they are deleted.';
COMMENT ON COLUMN feed.total_silenced IS 'The number of requests in the state SILENCED. Requests that have expired count until they are deleted.';
COMMENT ON COLUMN feed.total_rejected IS 'The number of requests in the state REJECTED. Requests that have expired count until they are deleted.';
COMMENT ON COLUMN feed.total_connected IS 'The number of connections.';
COMMENT ON COLUMN feed.total_blocks IS 'The number of blocks.';
UPDATE feed SET
    total_users = (SELECT count(*) FROM users),
    total_blocks = (SELECT count(*) FROM blocks),
    (total_pending, total_silenced, total_rejected, total_connected) = (
        SELECT count(*) FILTER (WHERE state = 'PENDING'), count(*) FILTER (WHERE state = 'SILENCED'),
               count(*) FILTER (WHERE state = 'REJECTED'), count(*) FILTER (WHERE state = 'CONNECTED')
        FROM connection_requests
    );
