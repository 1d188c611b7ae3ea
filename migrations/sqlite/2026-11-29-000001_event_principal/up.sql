-- The kind of principal whose call made the change: ANONYMOUS, SERVICE, USER or SYSTEM. Null for events of versions that
-- did not record it.
ALTER TABLE events ADD COLUMN principal TEXT;
