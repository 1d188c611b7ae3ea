-- What a user takes part in, in the order of the feed: one index for each of the two places that an event names. By
-- stretch of the feed first: an event goes among those of its own stretch, into a few dozen pages that are in memory
-- anyway. With the user first each event would touch two pages anywhere in the indexes, and with a bucket of users first
-- one in each of as many pages as there are buckets.
DROP INDEX events_user;
DROP INDEX events_other;
CREATE INDEX events_user ON events ((sequence / 4096), user_id, sequence);
CREATE INDEX events_other ON events ((sequence / 4096), other_user_id, sequence) WHERE other_user_id IS NOT NULL;
