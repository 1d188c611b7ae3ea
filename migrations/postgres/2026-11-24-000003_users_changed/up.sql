ALTER TABLE feed ADD COLUMN users_changed bigint NOT NULL DEFAULT 0 CHECK (users_changed >= 0);
COMMENT ON COLUMN feed.users_changed IS 'The sequence of the newest event that changed or deleted a user: whoever keeps users in memory sees here whether they may still be true.';
UPDATE feed SET users_changed = last_sequence;
