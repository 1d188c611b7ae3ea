-- `kith check` proves the invariants of every table. The tables that each batch writes to (feed, user_counts,
-- connection_requests, events) have no CHECK constraints: PostgreSQL parses each of them again for every statement,
-- which took 50 microseconds of a batch (docs/adr/0007-one-way-to-commit.md).

CREATE TABLE feed (
    id bigint PRIMARY KEY,
    epoch text NOT NULL,
    token_key text NOT NULL,
    last_sequence bigint NOT NULL,
    last_time timestamptz NOT NULL,
    last_assigned_user_id bigint NOT NULL,
    users_changed bigint NOT NULL,
    swept_id bigint NOT NULL,
    last_batch_id bigint NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE feed IS 'The head of the feed, one row: every writer locks it first.';
COMMENT ON COLUMN feed.epoch IS 'Random, set when the database is created: identifies this feed.';
COMMENT ON COLUMN feed.token_key IS 'Random: signs page tokens.';
COMMENT ON COLUMN feed.last_assigned_user_id IS 'The last user id that Kith assigned. Ids that callers named do not count.';
COMMENT ON COLUMN feed.users_changed IS 'The sequence of the newest event that changed or deleted a user: shows whether cached users are valid.';
COMMENT ON COLUMN feed.swept_id IS 'No open request has this id or a smaller one, except those marked out_of_order: the sweep for expired requests starts after it.';
COMMENT ON COLUMN feed.last_batch_id IS 'Random, of the last committed batch: no two batches leave the same head.';
INSERT INTO feed VALUES (
    1,
    replace(gen_random_uuid()::text, '-', ''),
    replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''),
    0,
    'epoch',
    0,
    0,
    0,
    0
);

CREATE TABLE users (
    -- JavaScript represents no larger integers exactly.
    id bigint PRIMARY KEY CHECK (id BETWEEN 1 AND 9007199254740991),
    position bigint NOT NULL UNIQUE,
    username text NOT NULL,
    -- Deferrable, so that it is checked at the end of each statement: users may exchange their names.
    username_key text NOT NULL UNIQUE DEFERRABLE,
    real_name text NOT NULL,
    email text NOT NULL,
    email_isvalid boolean NOT NULL,
    date_joined timestamptz NOT NULL,
    bio text NOT NULL,
    location text NOT NULL,
    birthday text NOT NULL,
    description text NOT NULL,
    gender text NOT NULL CHECK (gender IN ('UNSPECIFIED', 'MALE', 'FEMALE')),
    status text NOT NULL CHECK (status IN ('APPROVED', 'BLOCKED', 'UNREGISTERED')),
    website text NOT NULL,
    avatar text NOT NULL,
    cover text NOT NULL,
    changed bigint NOT NULL
);
COMMENT ON COLUMN users.position IS 'The sequence of the event that created the user: the order of the list.';
COMMENT ON COLUMN users.changed IS 'The sequence of the event that last changed the user, or created them.';
COMMENT ON COLUMN users.username_key IS 'The username after Unicode case folding, unique: kith check proves it.';

CREATE TABLE user_counts (
    user_id bigint PRIMARY KEY,
    requests_sent bigint NOT NULL DEFAULT 0,
    requests_received bigint NOT NULL DEFAULT 0,
    requests_unviewed bigint NOT NULL DEFAULT 0,
    connections bigint NOT NULL DEFAULT 0,
    sends bigint NOT NULL DEFAULT 0,
    sends_since timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE user_counts IS 'One row for each user, changed in the same transaction as the rows that it counts.';
COMMENT ON COLUMN user_counts.sends IS 'Requests sent within the hour that began at sends_since.';

CREATE TABLE connection_requests (
    low_user_id bigint NOT NULL,
    high_user_id bigint NOT NULL,
    id bigint NOT NULL UNIQUE,
    from_user_id bigint NOT NULL,
    to_user_id bigint NOT NULL,
    state text NOT NULL,
    position bigint NOT NULL,
    message text NOT NULL,
    created timestamptz NOT NULL,
    viewed timestamptz,
    rejected timestamptz,
    accepted timestamptz,
    reply text NOT NULL DEFAULT '',
    out_of_order boolean NOT NULL DEFAULT false,
    PRIMARY KEY (low_user_id, high_user_id)
) WITH (fillfactor = 85);
COMMENT ON TABLE connection_requests IS 'One row for each pair with a request or a connection.';
COMMENT ON COLUMN connection_requests.id IS 'The sequence of the event that created the request.';
COMMENT ON COLUMN connection_requests.position IS 'The sequence of the event that brought the row into its state.';
COMMENT ON COLUMN connection_requests.out_of_order IS 'Whether a request with a larger id may expire before this one.';
-- A sender's list, in the order of sending: position would show when a request was rejected.
CREATE INDEX connection_requests_sent ON connection_requests (from_user_id, id)
    WHERE state IN ('PENDING', 'SILENCED', 'REJECTED');
-- A receiver's lists, and connections from that side.
CREATE INDEX connection_requests_received ON connection_requests (to_user_id, state, position);
-- Connections from the sender's side.
CREATE INDEX connection_requests_connected ON connection_requests (from_user_id, position)
    WHERE state = 'CONNECTED';
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
COMMENT ON VIEW connections IS 'Each connection from both of its sides.';

CREATE TABLE blocks (
    user_id bigint NOT NULL,
    other_user_id bigint NOT NULL,
    created timestamptz NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (user_id, other_user_id),
    CHECK (user_id <> other_user_id)
);
CREATE INDEX blocks_list ON blocks (user_id, position);
CREATE INDEX blocks_other ON blocks (other_user_id, user_id);

CREATE TABLE cooldowns (
    from_user_id bigint NOT NULL,
    to_user_id bigint NOT NULL,
    since timestamptz NOT NULL,
    PRIMARY KEY (from_user_id, to_user_id)
);
COMMENT ON TABLE cooldowns IS 'Who may not reach whom for a time: one row for each sender whose request this receiver last rejected.';
COMMENT ON COLUMN cooldowns.since IS 'The time of the rejection. The sweep deletes the row when the cooldown is over.';
CREATE INDEX cooldowns_since ON cooldowns (since);
CREATE INDEX cooldowns_to ON cooldowns (to_user_id, from_user_id);

CREATE TABLE ended_requests (
    from_user_id bigint NOT NULL,
    to_user_id bigint NOT NULL,
    since timestamptz NOT NULL,
    requests bigint NOT NULL,
    PRIMARY KEY (from_user_id, to_user_id)
);
COMMENT ON TABLE ended_requests IS 'How many requests of a user to another have ended, for the limit of sends per pair.';
COMMENT ON COLUMN ended_requests.since IS 'When the first of them was sent. The sweep deletes the row when its time is over.';
CREATE INDEX ended_requests_since ON ended_requests (since);
CREATE INDEX ended_requests_to ON ended_requests (to_user_id, from_user_id);

CREATE TABLE events (
    sequence bigint PRIMARY KEY,
    stretch bigint NOT NULL,
    time timestamptz NOT NULL,
    batch_id bigint NOT NULL,
    kind text NOT NULL,
    cause text,
    actor text NOT NULL,
    actor_user_id bigint,
    user_id bigint NOT NULL,
    other_user_id bigint,
    request_id bigint,
    silenced boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE events IS 'The feed: one row for each committed change, sequence 1, 2, 3, ... without gaps.';
COMMENT ON COLUMN events.stretch IS 'sequence / 4096';
COMMENT ON COLUMN events.silenced IS 'Whether the other user must not know of it, because the request is silenced.';
COMMENT ON COLUMN events.batch_id IS 'Random, the same for all events of a commit: shows whether a commit whose result was lost took place.';
-- The events of a user, in the order of the feed: one index for each of the two columns that name a user. The indexes
-- begin with the stretch of the feed: an event is added among those of its own stretch, to a few dozen pages in memory.
-- If they began with the user, each event would change two random pages (docs/adr/0008-events-by-stretch.md).
CREATE INDEX events_user ON events (stretch, user_id, sequence);
CREATE INDEX events_other ON events (stretch, other_user_id, sequence) WHERE other_user_id IS NOT NULL;

CREATE TABLE request_ids (
    caller text NOT NULL,
    id text NOT NULL,
    fingerprint bytea NOT NULL,
    response bytea NOT NULL,
    created timestamptz NOT NULL,
    without_profiles bytea NOT NULL,
    actor_user_id bigint,
    user_id bigint,
    other_user_id bigint,
    PRIMARY KEY (caller, id)
);
COMMENT ON TABLE request_ids IS 'The responses to calls with a request_id, per caller, stored for 24 hours.';
COMMENT ON COLUMN request_ids.actor_user_id IS 'The user on whose behalf the call was made. The row is deleted with the user.';
CREATE INDEX request_ids_created ON request_ids (created);
COMMENT ON COLUMN request_ids.user_id IS 'With other_user_id: the users whose profiles the response has. When one is deleted, without_profiles replaces it.';
CREATE INDEX request_ids_user ON request_ids (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX request_ids_other ON request_ids (other_user_id) WHERE other_user_id IS NOT NULL;
