ALTER TABLE feed ADD COLUMN last_batch_id bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN feed.last_batch_id IS 'Random, of the batch that was committed last: two batches that could follow the same head leave different ones, whatever they change.';
