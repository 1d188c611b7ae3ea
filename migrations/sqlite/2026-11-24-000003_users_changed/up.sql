-- The sequence of the newest event that changed or deleted a user: whoever keeps users in memory sees here whether they
-- may still be true.
ALTER TABLE feed ADD COLUMN users_changed INTEGER NOT NULL DEFAULT 0 CHECK (users_changed >= 0);
UPDATE feed SET users_changed = last_sequence;
