ALTER TABLE user_counts ADD COLUMN last_visible bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN user_counts.last_visible IS 'The sequence of the newest event about the user and another one that the user may see.';
-- Of the events that there are, those that a user sees whatever the settings disclose.
UPDATE user_counts SET last_visible = newest.sequence FROM (
    SELECT seen.user_id, max(seen.sequence) AS sequence FROM (
        SELECT user_id, sequence FROM events
        WHERE other_user_id IS NOT NULL AND coalesce(cause, '') <> 'UNBLOCKED'
              AND kind NOT IN ('REQUEST_VIEWED', 'REQUEST_SILENCED', 'REQUEST_REJECTED', 'REQUEST_RESTORED')
        UNION ALL
        SELECT other_user_id, sequence FROM events
        WHERE other_user_id IS NOT NULL AND NOT silenced
              AND kind NOT IN ('REQUEST_SILENCED', 'USER_BLOCKED', 'USER_UNBLOCKED')
    ) AS seen GROUP BY seen.user_id
) AS newest WHERE newest.user_id = user_counts.user_id;
