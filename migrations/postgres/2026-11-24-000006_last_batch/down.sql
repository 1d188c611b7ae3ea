ALTER TABLE feed DROP COLUMN last_batch_id;
