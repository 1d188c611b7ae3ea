ALTER TABLE feed DROP COLUMN timeline;
ALTER TABLE feed DROP COLUMN system_identifier;
DROP TABLE epochs;
