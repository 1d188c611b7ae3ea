-- No event up to this one names a user whom an event up to this one deleted.
ALTER TABLE feed ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0;
-- No event up to this one names the user of the next deletion after `forgotten`. 0 if none is being forgotten.
ALTER TABLE feed ADD COLUMN forgetting INTEGER NOT NULL DEFAULT 0;
