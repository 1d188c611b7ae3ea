DROP VIEW connections;
ALTER TABLE connection_requests RENAME TO old_requests;
CREATE TABLE connection_requests (
    low_user_id INTEGER NOT NULL,
    high_user_id INTEGER NOT NULL,
    id INTEGER NOT NULL UNIQUE,
    from_user_id INTEGER NOT NULL,
    to_user_id INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('PENDING', 'REJECTED', 'WITHDRAWN', 'CONNECTED')),
    position INTEGER NOT NULL,
    message TEXT NOT NULL,
    created INTEGER NOT NULL,
    viewed INTEGER,
    rejected INTEGER,
    accepted INTEGER,
    PRIMARY KEY (low_user_id, high_user_id),
    CHECK (low_user_id < high_user_id),
    CHECK (low_user_id = min(from_user_id, to_user_id) AND high_user_id = max(from_user_id, to_user_id)),
    CHECK ((rejected IS NOT NULL) = (state IN ('REJECTED', 'WITHDRAWN'))),
    CHECK ((accepted IS NOT NULL) = (state = 'CONNECTED'))
) STRICT, WITHOUT ROWID;
INSERT INTO connection_requests (id, low_user_id, high_user_id, from_user_id, to_user_id, state, position, message,
                                 created, viewed, rejected, accepted)
SELECT id, low_user_id, high_user_id, from_user_id, to_user_id, state, position, message, created, viewed, rejected,
       accepted
FROM old_requests ORDER BY low_user_id, high_user_id;
DROP TABLE old_requests;
-- A sender's list: in the order of sending, since position would tell when a request was rejected.
CREATE INDEX connection_requests_sent ON connection_requests (from_user_id, id)
    WHERE state IN ('PENDING', 'REJECTED');
-- A receiver's lists, and connections from that side.
CREATE INDEX connection_requests_received ON connection_requests (to_user_id, state, position);
-- Connections from the sender's side.
CREATE INDEX connection_requests_connected ON connection_requests (from_user_id, position)
    WHERE state = 'CONNECTED';
-- What expires next, and whose cooldown ends next.
CREATE INDEX connection_requests_open ON connection_requests (created) WHERE state IN ('PENDING', 'REJECTED');
CREATE INDEX connection_requests_withdrawn ON connection_requests (rejected) WHERE state = 'WITHDRAWN';
-- With the two of a sender above, all that a deleted user sent.
CREATE INDEX connection_requests_withdrawn_sent ON connection_requests (from_user_id) WHERE state = 'WITHDRAWN';

CREATE VIEW connections AS
    SELECT from_user_id AS user_id, to_user_id AS other_user_id, id AS connection_request_id,
           accepted AS connected, position
    FROM connection_requests WHERE state = 'CONNECTED'
    UNION ALL
    SELECT to_user_id, from_user_id, id, accepted, position
    FROM connection_requests WHERE state = 'CONNECTED';

ALTER TABLE events RENAME TO old_events;
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY CHECK (sequence > 0),
    time INTEGER NOT NULL,
    batch_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    cause TEXT,
    actor TEXT NOT NULL CHECK (actor IN ('USER', 'OPERATOR', 'SYSTEM')),
    actor_user_id INTEGER,
    user_id INTEGER NOT NULL,
    other_user_id INTEGER,
    request_id INTEGER,
    CHECK ((actor = 'USER') = (actor_user_id IS NOT NULL))
) STRICT;
INSERT INTO events SELECT * FROM old_events ORDER BY sequence;
DROP TABLE old_events;
CREATE INDEX events_user ON events ((user_id % 256), sequence, user_id);
CREATE INDEX events_other ON events ((other_user_id % 256), sequence, other_user_id) WHERE other_user_id IS NOT NULL;
