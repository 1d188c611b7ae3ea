-- What a user takes part in, in the order of the feed: one index for each of the two places that an event names.
CREATE INDEX events_user ON events (user_id, sequence);
CREATE INDEX events_other ON events (other_user_id, sequence) WHERE other_user_id IS NOT NULL;
