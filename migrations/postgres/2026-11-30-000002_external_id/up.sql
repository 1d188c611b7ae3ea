ALTER TABLE users ADD COLUMN external_id text;
COMMENT ON COLUMN users.external_id IS 'The key of the user in the system that owns the profiles. Set once, never changed. Null if there is none.';
COMMENT ON COLUMN users.username IS 'Empty if the user has none. Then there is an external_id.';
COMMENT ON COLUMN users.username_key IS 'The username after Unicode case folding, unique: kith check proves it. A user without one has a slash and their id.';
-- Partial, so that it takes no space where nobody has an external id.
CREATE UNIQUE INDEX users_external_id ON users (external_id) WHERE external_id IS NOT NULL;
