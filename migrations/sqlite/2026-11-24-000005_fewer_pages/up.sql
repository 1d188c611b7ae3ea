-- The same table with a check that costs less: for an IN of more than two values SQLite makes a table in memory each time
-- that it is evaluated.
ALTER TABLE events RENAME TO old_events;
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY CHECK (sequence > 0),
    time INTEGER NOT NULL,
    batch_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    cause TEXT,
    actor TEXT NOT NULL CHECK (actor = 'USER' OR actor = 'OPERATOR' OR actor = 'SYSTEM'),
    actor_user_id INTEGER,
    user_id INTEGER NOT NULL,
    other_user_id INTEGER,
    request_id INTEGER,
    CHECK ((actor = 'USER') = (actor_user_id IS NOT NULL))
) STRICT;
INSERT INTO events SELECT * FROM old_events ORDER BY sequence;
DROP TABLE old_events;

-- What a user takes part in, in the order of the feed: one index for each of the two places that an event names. By
-- stretch of the feed first: an event goes among those of its own stretch, into a few dozen pages that are in memory
-- anyway. With the user first each event would touch two pages anywhere in the indexes, and with a bucket of users first
-- one in each of as many pages as there are buckets.
CREATE INDEX events_user ON events (sequence / 4096, user_id, sequence);
CREATE INDEX events_other ON events (sequence / 4096, other_user_id, sequence) WHERE other_user_id IS NOT NULL;

-- The rows of requests in the order of their ids, each new one at the end. In the order of their pairs each was written
-- to a page of its own, and every index named a row by its pair. (The check of the state is no IN of more than two values:
-- for such a list SQLite makes a table in memory each time that it is evaluated.)
DROP VIEW connections;
ALTER TABLE connection_requests RENAME TO old_requests;
CREATE TABLE connection_requests (
    id INTEGER PRIMARY KEY,
    low_user_id INTEGER NOT NULL,
    high_user_id INTEGER NOT NULL,
    from_user_id INTEGER NOT NULL,
    to_user_id INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state = 'PENDING' OR state = 'REJECTED' OR state = 'WITHDRAWN' OR state = 'CONNECTED'),
    position INTEGER NOT NULL,
    message TEXT NOT NULL,
    created INTEGER NOT NULL,
    viewed INTEGER,
    rejected INTEGER,
    accepted INTEGER,
    UNIQUE (low_user_id, high_user_id),
    CHECK (low_user_id < high_user_id),
    CHECK (low_user_id = min(from_user_id, to_user_id) AND high_user_id = max(from_user_id, to_user_id)),
    CHECK ((rejected IS NOT NULL) = (state IN ('REJECTED', 'WITHDRAWN'))),
    CHECK ((accepted IS NOT NULL) = (state = 'CONNECTED'))
) STRICT;
INSERT INTO connection_requests (id, low_user_id, high_user_id, from_user_id, to_user_id, state, position, message,
                                 created, viewed, rejected, accepted)
SELECT id, low_user_id, high_user_id, from_user_id, to_user_id, state, position, message, created, viewed, rejected,
       accepted
FROM old_requests ORDER BY id;
DROP TABLE old_requests;
-- A sender's list: in the order of sending, since position would tell when a request was rejected.
CREATE INDEX connection_requests_sent ON connection_requests (from_user_id, id)
    WHERE state IN ('PENDING', 'REJECTED');
-- A receiver's lists, and connections from that side. With all that a list of connections tells: it need not look at the
-- rows, which lie anywhere.
CREATE INDEX connection_requests_received ON connection_requests (to_user_id, state, position, from_user_id, accepted);
-- Connections from the sender's side. (SQLite wants the state although it is the same in all of them.)
CREATE INDEX connection_requests_connected
    ON connection_requests (from_user_id, position, to_user_id, accepted, state) WHERE state = 'CONNECTED';
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
