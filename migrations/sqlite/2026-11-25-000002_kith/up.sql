-- Times are microseconds since 1970-01-01T00:00:00Z. The PostgreSQL migration of the same name comments the columns.
-- `kith check` proves the invariants of every table. The tables that each batch writes to have no CHECK constraints.
CREATE TABLE feed (
    id INTEGER PRIMARY KEY,
    epoch TEXT NOT NULL,
    token_key TEXT NOT NULL,
    last_sequence INTEGER NOT NULL,
    last_time INTEGER NOT NULL,
    last_assigned_user_id INTEGER NOT NULL,
    users_changed INTEGER NOT NULL,
    swept_id INTEGER NOT NULL,
    last_batch_id INTEGER NOT NULL
) STRICT;
INSERT INTO feed VALUES (
    1,
    lower(hex(randomblob(16))),
    lower(hex(randomblob(32))),
    0,
    0,
    0,
    0,
    0,
    0
);

CREATE TABLE users (
    id INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 9007199254740991),
    position INTEGER NOT NULL UNIQUE,
    username TEXT NOT NULL,
    username_key TEXT NOT NULL UNIQUE,
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
    cover TEXT NOT NULL,
    changed INTEGER NOT NULL
) STRICT;

CREATE TABLE user_counts (
    user_id INTEGER PRIMARY KEY,
    requests_sent INTEGER NOT NULL DEFAULT 0,
    requests_received INTEGER NOT NULL DEFAULT 0,
    requests_unviewed INTEGER NOT NULL DEFAULT 0,
    connections INTEGER NOT NULL DEFAULT 0,
    sends INTEGER NOT NULL DEFAULT 0,
    sends_since INTEGER
) STRICT;

-- The rows are stored in the order of their ids, each new one at the end. In the order of their pairs, each new row
-- would be written to a random page, and every index would refer to a row by its pair
-- (docs/adr/0009-sqlite-requests-by-id.md).
CREATE TABLE connection_requests (
    id INTEGER PRIMARY KEY,
    low_user_id INTEGER NOT NULL,
    high_user_id INTEGER NOT NULL,
    from_user_id INTEGER NOT NULL,
    to_user_id INTEGER NOT NULL,
    state TEXT NOT NULL,
    position INTEGER NOT NULL,
    message TEXT NOT NULL,
    created INTEGER NOT NULL,
    viewed INTEGER,
    rejected INTEGER,
    accepted INTEGER,
    reply TEXT NOT NULL DEFAULT '',
    out_of_order INTEGER NOT NULL DEFAULT 0,
    UNIQUE (low_user_id, high_user_id)
) STRICT;
-- A sender's list, in the order of sending: position would show when a request was rejected.
CREATE INDEX connection_requests_sent ON connection_requests (from_user_id, id)
    WHERE state IN ('PENDING', 'SILENCED', 'REJECTED');
-- A receiver's lists, and connections from that side. It has all columns that a list of connections needs, so that the
-- scattered rows are not read.
CREATE INDEX connection_requests_received ON connection_requests (to_user_id, state, position, from_user_id, accepted);
-- Connections from the sender's side. (SQLite needs the state here, although it is the same in all of them.)
CREATE INDEX connection_requests_connected
    ON connection_requests (from_user_id, position, to_user_id, accepted, state) WHERE state = 'CONNECTED';
-- The sweep finds expired requests by id, the order of creation. This index has the exceptions, usually none.
CREATE INDEX connection_requests_out_of_order ON connection_requests (created)
    WHERE out_of_order AND state IN ('PENDING', 'SILENCED', 'REJECTED');

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

-- Who may not reach whom for a time: one row for each sender whose request this receiver last rejected, at `since`.
CREATE TABLE cooldowns (
    from_user_id INTEGER NOT NULL,
    to_user_id INTEGER NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (from_user_id, to_user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX cooldowns_since ON cooldowns (since);
CREATE INDEX cooldowns_to ON cooldowns (to_user_id);

-- How many requests of a user to another have ended, for the limit of sends per pair. The first was sent at `since`.
CREATE TABLE ended_requests (
    from_user_id INTEGER NOT NULL,
    to_user_id INTEGER NOT NULL,
    since INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    PRIMARY KEY (from_user_id, to_user_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX ended_requests_since ON ended_requests (since);
CREATE INDEX ended_requests_to ON ended_requests (to_user_id);

CREATE TABLE events (
    sequence INTEGER PRIMARY KEY,
    stretch INTEGER NOT NULL,
    time INTEGER NOT NULL,
    batch_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    cause TEXT,
    actor TEXT NOT NULL,
    actor_user_id INTEGER,
    user_id INTEGER NOT NULL,
    other_user_id INTEGER,
    request_id INTEGER,
    silenced INTEGER NOT NULL DEFAULT 0
) STRICT;
-- The events of a user, in the order of the feed: one index for each of the two columns that name a user. The indexes
-- begin with the stretch of the feed: an event is added among those of its own stretch, to a few dozen pages in memory.
CREATE INDEX events_user ON events (stretch, user_id, sequence);
CREATE INDEX events_other ON events (stretch, other_user_id, sequence) WHERE other_user_id IS NOT NULL;

CREATE TABLE request_ids (
    caller TEXT NOT NULL,
    id TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    response BLOB NOT NULL,
    created INTEGER NOT NULL,
    without_profiles BLOB NOT NULL,
    -- The user on whose behalf the call was made. The row is deleted with the user.
    actor_user_id INTEGER,
    -- The users whose profiles the response has. When one is deleted, without_profiles replaces it.
    user_id INTEGER,
    other_user_id INTEGER,
    PRIMARY KEY (caller, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX request_ids_created ON request_ids (created);
CREATE INDEX request_ids_user ON request_ids (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX request_ids_other ON request_ids (other_user_id) WHERE other_user_id IS NOT NULL;
