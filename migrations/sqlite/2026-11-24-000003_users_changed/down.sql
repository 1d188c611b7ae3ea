ALTER TABLE feed DROP COLUMN users_changed;
