ALTER TABLE events ADD COLUMN principal text;
COMMENT ON COLUMN events.principal IS 'The kind of principal whose call made the change: ANONYMOUS, SERVICE, USER or SYSTEM. Null for events of versions that did not record it.';
