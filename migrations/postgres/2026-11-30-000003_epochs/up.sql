-- Each epoch of the feed. Adding a column locks the head, so no batch is committed in between.
CREATE TABLE epochs (
    number bigint PRIMARY KEY,
    epoch text NOT NULL UNIQUE,
    first_sequence bigint NOT NULL,
    system_identifier bigint,
    timeline bigint
);
COMMENT ON TABLE epochs IS 'The epochs of the feed. A sequence that a client received in one of them is valid if it lies before the first sequence of the next one.';
COMMENT ON COLUMN epochs.number IS 'Their order: 1, 2, 3, ….';
COMMENT ON COLUMN epochs.first_sequence IS 'The first sequence that was written in it.';
COMMENT ON COLUMN epochs.system_identifier IS 'The PostgreSQL cluster in which it began. NULL: not known.';
COMMENT ON COLUMN epochs.timeline IS 'The timeline on which it began: each promotion starts another one. NULL: not known.';
ALTER TABLE feed ADD COLUMN system_identifier bigint;
ALTER TABLE feed ADD COLUMN timeline bigint;
COMMENT ON COLUMN feed.epoch IS 'The newest of the epochs.';
COMMENT ON COLUMN feed.system_identifier IS 'That of the newest epoch.';
COMMENT ON COLUMN feed.timeline IS 'That of the newest epoch. A commit on another timeline begins a new epoch.';
-- What was before a restore is not known.
INSERT INTO epochs (number, epoch, first_sequence) SELECT 1, epoch, 1 FROM feed;
