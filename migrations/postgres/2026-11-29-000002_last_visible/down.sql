ALTER TABLE user_counts DROP COLUMN last_visible;
