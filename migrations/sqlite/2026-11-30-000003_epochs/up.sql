-- Each epoch of the feed, with the first sequence that was written in it. The PostgreSQL migration of the same name comments
-- the columns. A file has no timeline: its epochs begin by kith restore-epoch alone.
CREATE TABLE epochs (
    number INTEGER PRIMARY KEY,
    epoch TEXT NOT NULL UNIQUE,
    first_sequence INTEGER NOT NULL,
    system_identifier INTEGER,
    timeline INTEGER
) STRICT;
ALTER TABLE feed ADD COLUMN system_identifier INTEGER;
ALTER TABLE feed ADD COLUMN timeline INTEGER;
INSERT INTO epochs (number, epoch, first_sequence) SELECT 1, epoch, 1 FROM feed;
