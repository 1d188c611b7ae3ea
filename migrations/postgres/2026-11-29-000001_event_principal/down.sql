ALTER TABLE events DROP COLUMN principal;
