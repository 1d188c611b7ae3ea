-- The numbers of users, of requests by state, and of blocks. Requests that have expired count until they are deleted.
ALTER TABLE feed ADD COLUMN total_users INTEGER NOT NULL DEFAULT 0;
ALTER TABLE feed ADD COLUMN total_pending INTEGER NOT NULL DEFAULT 0;
ALTER TABLE feed ADD COLUMN total_silenced INTEGER NOT NULL DEFAULT 0;
ALTER TABLE feed ADD COLUMN total_rejected INTEGER NOT NULL DEFAULT 0;
ALTER TABLE feed ADD COLUMN total_connected INTEGER NOT NULL DEFAULT 0;
ALTER TABLE feed ADD COLUMN total_blocks INTEGER NOT NULL DEFAULT 0;
UPDATE feed SET
    total_users = (SELECT count(*) FROM users),
    total_blocks = (SELECT count(*) FROM blocks),
    (total_pending, total_silenced, total_rejected, total_connected) = (
        SELECT count(*) FILTER (WHERE state = 'PENDING'), count(*) FILTER (WHERE state = 'SILENCED'),
               count(*) FILTER (WHERE state = 'REJECTED'), count(*) FILTER (WHERE state = 'CONNECTED')
        FROM connection_requests
    );
