ALTER TABLE feed DROP COLUMN forgetting;
ALTER TABLE feed DROP COLUMN forgotten;
