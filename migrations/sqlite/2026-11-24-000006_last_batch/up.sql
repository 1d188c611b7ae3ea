-- Random, of the batch that was committed last: two batches that could follow the same head leave different ones, whatever
-- they change.
ALTER TABLE feed ADD COLUMN last_batch_id INTEGER NOT NULL DEFAULT 0;
