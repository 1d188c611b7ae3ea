-- What a user takes part in, in the order of the feed: one index for each of the two places that an event names. By
-- bucket of users first: an event goes to the end of its two buckets, into pages that are in memory anyway. With the
-- user first each event would touch two pages anywhere in the indexes.
DROP INDEX events_user;
DROP INDEX events_other;
CREATE INDEX events_user ON events ((user_id % 256), sequence, user_id);
CREATE INDEX events_other ON events ((other_user_id % 256), sequence, other_user_id) WHERE other_user_id IS NOT NULL;
