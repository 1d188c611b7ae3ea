ALTER TABLE feed DROP COLUMN total_blocks;
ALTER TABLE feed DROP COLUMN total_connected;
ALTER TABLE feed DROP COLUMN total_rejected;
ALTER TABLE feed DROP COLUMN total_silenced;
ALTER TABLE feed DROP COLUMN total_pending;
ALTER TABLE feed DROP COLUMN total_users;
