//! The invariants, each with a query for the rows that break it.
//!
//! Both engines understand the text. Each query goes through its tables once or sorts them, so that it stays usable
//! with ten million rows: groups and joins, and nothing that is asked again for each row without an index.
//!
//! Events may have been removed from the front of the feed. The last event of a thing outlives those before it, so
//! what it says holds however much is gone; `{oldest}` stands for the oldest event that is kept, and a row whose
//! position is older needs none. `{states}`, `{kinds}` and `{causes}` stand for the names that there are.
//!
//! The tables that each batch writes to have no CHECK constraints (`migrations/` says why): what these would hold is
//! proven here.

use crate::domain::event::{Cause, EventKind};
use crate::domain::id::Sequence;
use crate::domain::pair::RequestState;

/// An invariant.
pub(super) struct Check {
    /// What must hold, as it is shown.
    pub(super) name: &'static str,
    /// Of which rows: what may follow FROM.
    looks_at: &'static str,
    /// What the query builds on: a WITH clause, or nothing.
    with: &'static str,
    /// The rows that break it: `number`, to order them by, and `said`, which names who or what is wrong.
    finds: &'static str,
}

impl Check {
    pub(super) fn looks_at(&self, oldest: Sequence) -> String {
        self.looks_at.replace("{oldest}", &oldest.to_string())
    }

    /// The query for what breaks it: the first rows in words, and how many there are in all.
    pub(super) fn sql(&self, oldest: Sequence, limit: Option<usize>) -> String {
        let Self { with, finds, .. } = self;
        let limit = limit.map_or_else(String::new, |limit| format!(" LIMIT {limit}"));
        let sql = format!(
            "{with} SELECT number, said, count(*) OVER () AS total FROM ({finds}) AS found ORDER BY number{limit}"
        );
        sql.replace("{oldest}", &oldest.to_string())
            .replace("{states}", &quoted(RequestState::ALL.iter().map(|state| state.name())))
            .replace("{kinds}", &quoted(EventKind::ALL.iter().map(|kind| kind.name())))
            .replace("{causes}", &quoted(Cause::ALL.iter().map(|cause| cause.name())))
    }
}

/// A list of names, as `IN` takes it.
fn quoted<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", ")
}

pub(super) const COUNTS_RIGHT: &str = "each count equals what it counts";
pub(super) const COUNTS_THERE: &str = "each user has counts";
pub(super) const COUNTS_OF_SOMEBODY: &str = "all counts are those of a user";

/// Whether it is one of those that can be mended: what they say follows from rows that other checks prove.
pub(super) fn is_of_counts(name: &str) -> bool {
    [COUNTS_RIGHT, COUNTS_THERE, COUNTS_OF_SOMEBODY].contains(&name)
}

/// The last event that changed each request's state, and the state that it left.
const LAST_OF_REQUESTS: &str = "WITH last AS ( \
        SELECT max(sequence) AS sequence FROM events \
        WHERE request_id IS NOT NULL AND kind <> 'REQUEST_VIEWED' GROUP BY request_id \
    ), told AS ( \
        SELECT request_id, events.sequence, user_id, coalesce(other_user_id, 0) AS other_user_id, kind, \
               CASE WHEN kind IN ('REQUEST_CANCELLED', 'REQUEST_EXPIRED') THEN 'WITHDRAWN' \
                    WHEN kind = 'CONNECTION_CREATED' THEN 'CONNECTED' \
                    WHEN kind = 'REQUEST_REJECTED' OR (kind = 'REQUEST_CREATED' AND cause IS NOT NULL) \
                        THEN 'REJECTED' \
                    WHEN kind IN ('REQUEST_CREATED', 'REQUEST_RESTORED') THEN 'PENDING' \
                    ELSE 'REMOVED' END AS state \
        FROM last JOIN events ON events.sequence = last.sequence \
    )";

/// The last event of each block; it holds if it made the block, and neither user was deleted afterwards.
const LAST_OF_BLOCKS: &str = "WITH last AS ( \
        SELECT user_id, other_user_id, max(sequence) AS sequence FROM events \
        WHERE kind IN ('USER_BLOCKED', 'USER_UNBLOCKED') GROUP BY user_id, other_user_id \
    ), deleted AS ( \
        SELECT user_id, max(sequence) AS sequence FROM events WHERE kind = 'USER_DELETED' GROUP BY user_id \
    ), told AS ( \
        SELECT last.user_id, last.other_user_id, last.sequence, events.time, \
               CASE WHEN events.kind = 'USER_BLOCKED' AND coalesce(one.sequence, 0) < last.sequence \
                         AND coalesce(other.sequence, 0) < last.sequence THEN 1 ELSE 0 END AS holds \
        FROM last JOIN events ON events.sequence = last.sequence \
        LEFT JOIN deleted AS one ON one.user_id = last.user_id \
        LEFT JOIN deleted AS other ON other.user_id = last.other_user_id \
    )";

/// The last event that created or deleted each user.
const LAST_OF_USERS: &str = "WITH last AS ( \
        SELECT max(sequence) AS sequence FROM events \
        WHERE kind IN ('USER_CREATED', 'USER_DELETED') GROUP BY user_id \
    ), told AS ( \
        SELECT user_id, events.sequence, kind FROM last JOIN events ON events.sequence = last.sequence \
    )";

/// What the counts should be, of all users at once.
const COUNTED: &str = "WITH counted AS ( \
        SELECT user_id, CAST(sum(sent) AS bigint) AS sent, CAST(sum(received) AS bigint) AS received, \
               CAST(sum(unviewed) AS bigint) AS unviewed, CAST(sum(connected) AS bigint) AS connected \
        FROM ( \
            SELECT from_user_id AS user_id, CASE WHEN state IN ('PENDING', 'REJECTED') THEN 1 ELSE 0 END AS sent, \
                   0 AS received, 0 AS unviewed, CASE WHEN state = 'CONNECTED' THEN 1 ELSE 0 END AS connected \
            FROM connection_requests \
            UNION ALL \
            SELECT to_user_id, 0, CASE WHEN state = 'PENDING' THEN 1 ELSE 0 END, \
                   CASE WHEN state = 'PENDING' AND viewed IS NULL THEN 1 ELSE 0 END, \
                   CASE WHEN state = 'CONNECTED' THEN 1 ELSE 0 END \
            FROM connection_requests \
        ) AS sides GROUP BY user_id \
    )";

/// The rows of counts that are wrong, given the right numbers beside them, with the old and the right of each.
macro_rules! wrong_counts {
    ($kept:literal) => {
        concat!(
            "SELECT user_id AS number, 'user ' || user_id || ':' || substr( \
                 CASE WHEN requests_sent <> sent \
                     THEN ', requests_sent ' || requests_sent || ' -> ' || sent ELSE '' END \
                 || CASE WHEN requests_received <> received \
                     THEN ', requests_received ' || requests_received || ' -> ' || received ELSE '' END \
                 || CASE WHEN requests_unviewed <> unviewed \
                     THEN ', requests_unviewed ' || requests_unviewed || ' -> ' || unviewed ELSE '' END \
                 || CASE WHEN connections <> connected \
                     THEN ', connections ' || connections || ' -> ' || connected ELSE '' END, 2) AS said \
             FROM (",
            $kept,
            ") AS kept WHERE requests_sent <> sent OR requests_received <> received \
                 OR requests_unviewed <> unviewed OR connections <> connected"
        )
    };
}
pub(super) use wrong_counts;

/// All of them, in the order in which they are told.
pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "the feed has no holes and ends at its head",
        looks_at: "events",
        with: "",
        finds: "SELECT sequence AS number, 'event ' || sequence || ' follows event ' || earlier AS said \
                FROM (SELECT sequence, lag(sequence) OVER (ORDER BY sequence) AS earlier FROM events) AS pairs \
                WHERE sequence <> earlier + 1 \
                UNION ALL \
                SELECT last_sequence, 'the head is at ' || last_sequence || ', the newest event is ' || newest \
                FROM feed CROSS JOIN (SELECT max(sequence) AS newest FROM events) AS ends \
                WHERE last_sequence <> newest",
    },
    Check {
        name: "time never runs backwards in the feed",
        looks_at: "events",
        with: "",
        finds: "SELECT sequence AS number, 'event ' || sequence || ' is earlier than the one before' AS said \
                FROM (SELECT sequence, time, lag(time) OVER (ORDER BY sequence) AS earlier FROM events) AS pairs \
                WHERE time < earlier \
                UNION ALL \
                SELECT last_sequence, 'the head is earlier than the newest event' \
                FROM feed CROSS JOIN (SELECT max(time) AS newest FROM events) AS ends WHERE last_time < newest",
    },
    Check {
        name: "the head is one row whose numbers do not pass its end",
        looks_at: "feed",
        with: "",
        finds: "SELECT id AS number, 'the head ' || id || ' has a number below zero or beyond event ' || last_sequence \
                       AS said \
                FROM feed WHERE id <> 1 OR last_sequence < 0 OR last_user_id < 0 \
                     OR users_changed NOT BETWEEN 0 AND last_sequence OR swept_id NOT BETWEEN 0 AND last_sequence \
                UNION ALL SELECT 0, 'there is no head' WHERE NOT EXISTS (SELECT 1 FROM feed WHERE id = 1)",
    },
    Check {
        name: "each event has a kind, a cause and an actor that exist, and its stretch",
        looks_at: "events",
        with: "",
        finds: "SELECT sequence AS number, 'event ' || sequence || ' of stretch ' || stretch || ' is ' || kind \
                       || coalesce(' because ' || cause, '') || ' by ' || actor \
                       || coalesce(' ' || actor_user_id, '') AS said \
                FROM events WHERE sequence < 1 OR stretch <> sequence / 4096 OR kind NOT IN ({kinds}) \
                     OR cause NOT IN ({causes}) OR actor NOT IN ('USER', 'OPERATOR', 'SYSTEM') \
                     OR (actor = 'USER') <> (actor_user_id IS NOT NULL)",
    },
    Check {
        name: "each request has a state that exists, and the times of that state",
        looks_at: "connection_requests",
        with: "",
        finds: "SELECT id AS number, 'request ' || id || ' from user ' || from_user_id || ' to user ' || to_user_id \
                       || ' is ' || state || CASE WHEN rejected IS NULL THEN '' ELSE ', rejected' END \
                       || CASE WHEN accepted IS NULL THEN '' ELSE ', accepted' END AS said \
                FROM connection_requests \
                WHERE state NOT IN ({states}) OR (rejected IS NOT NULL) <> (state IN ('REJECTED', 'WITHDRAWN')) \
                      OR (accepted IS NOT NULL) <> (state = 'CONNECTED')",
    },
    Check {
        name: "the sweep for expired requests left none behind",
        looks_at: "connection_requests",
        with: "",
        finds: "SELECT connection_requests.id AS number, 'request ' || connection_requests.id || ' is ' || state \
                       || ', but the sweep is done up to ' || swept_id AS said \
                FROM connection_requests CROSS JOIN feed \
                WHERE connection_requests.id <= swept_id AND state IN ('PENDING', 'REJECTED') AND NOT out_of_order",
    },
    Check {
        name: "each request is in the state that its last event left",
        looks_at: "connection_requests",
        with: LAST_OF_REQUESTS,
        finds: "SELECT id AS number, 'request ' || id || ' from user ' || from_user_id || ' to user ' || to_user_id \
                       || ' is ' || kept.state || ' since event ' || position || ', but ' \
                       || CASE WHEN told.sequence IS NULL THEN 'no event tells of it' \
                               ELSE 'its last event is ' || told.sequence || ', ' || kind || ' from user ' \
                                    || told.user_id || ' to user ' || told.other_user_id END AS said \
                FROM connection_requests AS kept LEFT JOIN told ON told.request_id = kept.id \
                WHERE CASE WHEN told.sequence IS NULL THEN position >= {oldest} \
                      ELSE told.sequence <> position OR told.state <> kept.state \
                           OR told.user_id <> from_user_id OR told.other_user_id <> to_user_id END",
    },
    Check {
        name: "each request that the feed leaves open or connected is there",
        looks_at: "events WHERE request_id IS NOT NULL AND kind <> 'REQUEST_VIEWED'",
        with: LAST_OF_REQUESTS,
        finds: "SELECT request_id AS number, 'request ' || request_id || ' from user ' || user_id || ' to user ' \
                       || other_user_id || ' is not there, but is ' || told.state || ' since event ' || sequence \
                       AS said \
                FROM told LEFT JOIN connection_requests AS kept ON kept.id = told.request_id \
                WHERE kept.id IS NULL AND told.state IN ('PENDING', 'REJECTED', 'CONNECTED')",
    },
    Check {
        name: "each request was created by the event of its id",
        looks_at: "connection_requests WHERE id >= {oldest}",
        with: "",
        finds: "SELECT id AS number, 'request ' || id || ' from user ' || from_user_id || ' to user ' || to_user_id \
                       || ': event ' || id || ' did not create it then' AS said \
                FROM connection_requests LEFT JOIN events ON sequence = id AND kind = 'REQUEST_CREATED' \
                     AND request_id = id AND user_id = from_user_id AND other_user_id = to_user_id \
                     AND time = created \
                WHERE id >= {oldest} AND sequence IS NULL",
    },
    // Blocking rejects without viewing. A request that is born rejected under a cooldown keeps the time of the
    // rejection before it, whose event is another request's.
    Check {
        name: "each request was viewed, rejected and accepted when its events say",
        looks_at: "connection_requests WHERE id >= {oldest}",
        with: "WITH told AS ( \
                   SELECT request_id, \
                          min(CASE WHEN kind IN ('REQUEST_VIEWED', 'CONNECTION_CREATED') \
                                        OR (kind = 'REQUEST_REJECTED' AND cause IS NULL) THEN time END) AS viewed, \
                          max(CASE WHEN kind = 'REQUEST_REJECTED' OR (kind = 'REQUEST_CREATED' AND cause = 'BLOCKED') \
                                   THEN time END) AS rejected, \
                          max(CASE WHEN kind = 'CONNECTION_CREATED' THEN time END) AS accepted \
                   FROM events WHERE request_id >= {oldest} GROUP BY request_id \
               ), compared AS ( \
                   SELECT id, from_user_id, to_user_id, \
                          CASE WHEN kept.viewed IS DISTINCT FROM told.viewed THEN ', viewed' ELSE '' END \
                          || CASE WHEN state IN ('PENDING', 'CONNECTED') THEN \
                                      CASE WHEN kept.rejected IS NULL THEN '' ELSE ', rejected' END \
                                  WHEN kept.rejected = told.rejected \
                                       OR (told.rejected IS NULL AND kept.rejected <= created) THEN '' \
                                  ELSE ', rejected' END \
                          || CASE WHEN kept.accepted IS DISTINCT FROM told.accepted THEN ', accepted' ELSE '' END \
                          AS wrong \
                   FROM connection_requests AS kept LEFT JOIN told ON told.request_id = kept.id \
                   WHERE id >= {oldest} \
               )",
        finds: "SELECT id AS number, 'request ' || id || ' from user ' || from_user_id || ' to user ' || to_user_id \
                       || ' has another time than its events:' || substr(wrong, 2) AS said \
                FROM compared WHERE wrong <> ''",
    },
    Check {
        name: "each block was made by its last event",
        looks_at: "blocks",
        with: LAST_OF_BLOCKS,
        finds: "SELECT position AS number, 'user ' || kept.user_id || ' blocks user ' || kept.other_user_id \
                       || ' since event ' || position || ', but ' \
                       || CASE WHEN told.sequence IS NULL THEN 'no event tells of it' \
                               WHEN holds = 0 THEN 'no longer after event ' || told.sequence \
                               ELSE 'event ' || told.sequence || ' made the block at its time' END AS said \
                FROM blocks AS kept \
                LEFT JOIN told ON told.user_id = kept.user_id AND told.other_user_id = kept.other_user_id \
                WHERE CASE WHEN told.sequence IS NULL THEN position >= {oldest} \
                      ELSE holds = 0 OR told.sequence <> position OR time <> created END",
    },
    Check {
        name: "each block that the feed leaves is there",
        looks_at: "events WHERE kind IN ('USER_BLOCKED', 'USER_UNBLOCKED')",
        with: LAST_OF_BLOCKS,
        finds: "SELECT sequence AS number, 'user ' || told.user_id || ' blocked user ' || told.other_user_id \
                       || ' with event ' || sequence || ', and the block is not there' AS said \
                FROM told LEFT JOIN blocks AS kept \
                     ON kept.user_id = told.user_id AND kept.other_user_id = told.other_user_id \
                WHERE holds = 1 AND kept.user_id IS NULL",
    },
    Check {
        name: "each user was created by their last event",
        looks_at: "users",
        with: LAST_OF_USERS,
        finds: "SELECT id AS number, 'user ' || id || ' is there since event ' || position || ', but ' \
                       || CASE WHEN sequence IS NULL THEN 'no event tells of it' \
                               ELSE 'the last of such events is ' || sequence || ', ' || kind END AS said \
                FROM users LEFT JOIN told ON user_id = id \
                WHERE CASE WHEN sequence IS NULL THEN position >= {oldest} \
                      ELSE kind <> 'USER_CREATED' OR sequence <> position END",
    },
    Check {
        name: "each user that the feed leaves is there",
        looks_at: "events WHERE kind IN ('USER_CREATED', 'USER_DELETED')",
        with: LAST_OF_USERS,
        finds: "SELECT user_id AS number, \
                       'user ' || user_id || ' was created by event ' || sequence || ' and is not there' AS said \
                FROM told LEFT JOIN users ON id = user_id WHERE kind = 'USER_CREATED' AND id IS NULL",
    },
    Check {
        name: "no user has a larger id than the head knows",
        looks_at: "users",
        with: "",
        finds: "SELECT users.id AS number, 'user ' || users.id || ', but the head knows ids up to ' || last_user_id \
                       AS said \
                FROM users CROSS JOIN feed WHERE users.id > last_user_id",
    },
    Check {
        name: COUNTS_RIGHT,
        looks_at: "user_counts",
        with: COUNTED,
        finds: wrong_counts!(
            "SELECT user_counts.user_id, requests_sent, requests_received, requests_unviewed, connections, \
                    coalesce(sent, 0) AS sent, coalesce(received, 0) AS received, \
                    coalesce(unviewed, 0) AS unviewed, coalesce(connected, 0) AS connected \
             FROM user_counts LEFT JOIN counted ON counted.user_id = user_counts.user_id"
        ),
    },
    Check {
        name: "no count is below zero, and sends have an hour",
        looks_at: "user_counts",
        with: "",
        finds: "SELECT user_id AS number, 'user ' || user_id || ' has ' || requests_sent || ', ' || requests_received \
                       || ', ' || requests_unviewed || ', ' || connections || ' and ' || sends || ' sends' AS said \
                FROM user_counts WHERE requests_sent < 0 OR requests_received < 0 OR requests_unviewed < 0 \
                     OR connections < 0 OR sends < 0 OR (sends > 0 AND sends_since IS NULL)",
    },
    Check {
        name: COUNTS_THERE,
        looks_at: "users",
        with: "",
        finds: "SELECT id AS number, 'user ' || id || ' has no counts' AS said \
                FROM users LEFT JOIN user_counts ON user_id = id WHERE user_id IS NULL",
    },
    Check {
        name: COUNTS_OF_SOMEBODY,
        looks_at: "user_counts",
        with: "",
        finds: "SELECT user_id AS number, 'user ' || user_id || ' is not there, but their counts are' AS said \
                FROM user_counts LEFT JOIN users ON id = user_id WHERE id IS NULL",
    },
    Check {
        name: "nothing is pending or connected across a block",
        looks_at: "blocks",
        with: "",
        finds: "SELECT id AS number, 'request ' || id || ' is ' || state || ', but user ' || user_id \
                       || ' blocks user ' || other_user_id AS said \
                FROM blocks JOIN connection_requests \
                     ON low_user_id = CASE WHEN user_id < other_user_id THEN user_id ELSE other_user_id END \
                     AND high_user_id = CASE WHEN user_id < other_user_id THEN other_user_id ELSE user_id END \
                WHERE state IN ('PENDING', 'CONNECTED')",
    },
    Check {
        name: "each pair is there once, under its two users in order",
        looks_at: "connection_requests",
        with: "",
        finds: "SELECT id AS number, 'request ' || id || ' from user ' || from_user_id || ' to user ' || to_user_id \
                       || ' is kept under ' || low_user_id || ' and ' || high_user_id AS said \
                FROM connection_requests \
                WHERE low_user_id >= high_user_id \
                      OR low_user_id <> CASE WHEN from_user_id < to_user_id THEN from_user_id ELSE to_user_id END \
                      OR high_user_id <> CASE WHEN from_user_id < to_user_id THEN to_user_id ELSE from_user_id END \
                UNION ALL \
                SELECT min(id), 'users ' || low || ' and ' || high || ' have ' || count(*) || ' requests' FROM ( \
                    SELECT id, CASE WHEN from_user_id < to_user_id THEN from_user_id ELSE to_user_id END AS low, \
                           CASE WHEN from_user_id < to_user_id THEN to_user_id ELSE from_user_id END AS high \
                    FROM connection_requests \
                ) AS pairs GROUP BY low, high HAVING count(*) > 1",
    },
    Check {
        name: "the users of each request are there",
        looks_at: "connection_requests",
        with: "",
        finds: "SELECT kept.id AS number, 'request ' || kept.id || ': no user ' \
                       || CASE WHEN one.id IS NULL THEN from_user_id ELSE to_user_id END AS said \
                FROM connection_requests AS kept LEFT JOIN users AS one ON one.id = from_user_id \
                LEFT JOIN users AS other ON other.id = to_user_id WHERE one.id IS NULL OR other.id IS NULL",
    },
    Check {
        name: "the users of each block are there",
        looks_at: "blocks",
        with: "",
        finds: "SELECT kept.position AS number, 'the block of user ' || other_user_id || ' by user ' || user_id \
                       || ': no user ' || CASE WHEN one.id IS NULL THEN user_id ELSE other_user_id END AS said \
                FROM blocks AS kept LEFT JOIN users AS one ON one.id = user_id \
                LEFT JOIN users AS other ON other.id = other_user_id WHERE one.id IS NULL OR other.id IS NULL",
    },
];
