ALTER TABLE feed ADD COLUMN forgotten bigint NOT NULL DEFAULT 0;
ALTER TABLE feed ADD COLUMN forgetting bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN feed.forgotten IS 'No event up to this one names a user whom an event up to this one deleted.';
COMMENT ON COLUMN feed.forgetting IS 'No event up to this one names the user of the next deletion after forgotten. 0 if none is being forgotten.';
