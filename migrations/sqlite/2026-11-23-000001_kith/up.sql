-- Times are microseconds since 1970-01-01T00:00:00Z.
CREATE TABLE feed (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch TEXT NOT NULL,
    token_key TEXT NOT NULL,
    last_sequence INTEGER NOT NULL CHECK (last_sequence >= 0),
    last_time INTEGER NOT NULL,
    last_user_id INTEGER NOT NULL CHECK (last_user_id >= 0)
) STRICT;
INSERT INTO feed VALUES (
    1,
    lower(hex(randomblob(16))),
    lower(hex(randomblob(32))),
    0,
    0,
    0
);

CREATE TABLE users (
    id INTEGER PRIMARY KEY CHECK (id > 0),
    position INTEGER NOT NULL UNIQUE,
    username TEXT NOT NULL,
    username_key TEXT NOT NULL GENERATED ALWAYS AS (lower(username)) STORED UNIQUE,
    real_name TEXT NOT NULL,
    email TEXT NOT NULL,
    email_isvalid INTEGER NOT NULL CHECK (email_isvalid IN (0, 1)),
    date_joined INTEGER NOT NULL,
    bio TEXT NOT NULL,
    location TEXT NOT NULL,
    birthday TEXT NOT NULL,
    description TEXT NOT NULL,
    gender TEXT NOT NULL CHECK (gender IN ('UNSPECIFIED', 'MALE', 'FEMALE')),
    status TEXT NOT NULL CHECK (status IN ('APPROVED', 'BLOCKED', 'UNREGISTERED')),
    website TEXT NOT NULL,
    avatar TEXT NOT NULL,
    cover TEXT NOT NULL
) STRICT;

CREATE TABLE user_counts (
    user_id INTEGER PRIMARY KEY,
    requests_sent INTEGER NOT NULL DEFAULT 0 CHECK (requests_sent >= 0),
    requests_received INTEGER NOT NULL DEFAULT 0 CHECK (requests_received >= 0),
    requests_unviewed INTEGER NOT NULL DEFAULT 0 CHECK (requests_unviewed >= 0),
    connections INTEGER NOT NULL DEFAULT 0 CHECK (connections >= 0),
    sends INTEGER NOT NULL DEFAULT 0 CHECK (sends >= 0),
    sends_since INTEGER
) STRICT;

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

CREATE TABLE blocks (
    user_id INTEGER NOT NULL,
    other_user_id INTEGER NOT NULL,
    created INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (user_id, other_user_id),
    CHECK (user_id <> other_user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX blocks_list ON blocks (user_id, position);
CREATE INDEX blocks_other ON blocks (other_user_id);

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

CREATE TABLE request_ids (
    caller TEXT NOT NULL,
    id TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    response BLOB NOT NULL,
    created INTEGER NOT NULL,
    PRIMARY KEY (caller, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX request_ids_created ON request_ids (created);
