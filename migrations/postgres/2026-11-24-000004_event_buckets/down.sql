DROP INDEX events_user;
DROP INDEX events_other;
CREATE INDEX events_user ON events (user_id, sequence);
CREATE INDEX events_other ON events (other_user_id, sequence) WHERE other_user_id IS NOT NULL;
