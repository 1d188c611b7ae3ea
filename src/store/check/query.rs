//! The invariants, each with a query for the rows that violate it.
//!
//! The queries run on both engines. Each scans or sorts its tables once, so that it remains usable with ten million
//! rows: it groups and joins, and runs no subquery for each row without an index.
//!
//! Events may have been removed from the front of the feed. The last event of a row is removed after the earlier ones,
//! so it can be compared with the row as long as it exists. `{oldest}` stands for the oldest stored event; a row with an
//! older position is not compared. An event with the user 0 says nothing: that user was deleted and forgotten. `{future}` stands for the time after which times lie in the future. `{states}`,
//! `{kinds}`, `{causes}` and `{principals}` stand for the lists of names.
//!
//! The tables that each batch writes to have no CHECK constraints (`migrations/` says why): what these would hold is
//! proven here.

use super::Check;
use super::repair::{COUNTS_OF_SOMEBODY, COUNTS_RIGHT, COUNTS_THERE, wrong_counts};
use super::totals::{TOTALS, TOTALS_RIGHT, WITH_TOTALS, WRONG_TOTALS};

/// The last event that changed the state of each request, and the resulting state.
const LAST_OF_REQUESTS: &str = "WITH last AS ( \
        SELECT max(sequence) AS sequence FROM events \
        WHERE request_id IS NOT NULL AND kind <> 'REQUEST_VIEWED' GROUP BY request_id \
    ), feed_says AS ( \
        SELECT request_id, events.sequence, user_id, coalesce(other_user_id, 0) AS other_user_id, kind, \
               CASE WHEN kind = 'CONNECTION_CREATED' THEN 'CONNECTED' \
                    WHEN kind = 'REQUEST_REJECTED' THEN 'REJECTED' \
                    WHEN kind = 'REQUEST_SILENCED' OR (kind = 'REQUEST_CREATED' AND silenced) THEN 'SILENCED' \
                    WHEN kind IN ('REQUEST_CREATED', 'REQUEST_RESTORED') THEN 'PENDING' \
                    ELSE 'ENDED' END AS state \
        FROM last JOIN events ON events.sequence = last.sequence \
    )";

/// The last event of each block; it holds if it made the block, and neither user was deleted afterwards.
const LAST_OF_BLOCKS: &str = "WITH last AS ( \
        SELECT user_id, other_user_id, max(sequence) AS sequence FROM events \
        WHERE kind IN ('USER_BLOCKED', 'USER_UNBLOCKED') AND user_id <> 0 AND other_user_id <> 0 \
        GROUP BY user_id, other_user_id \
    ), deleted AS ( \
        SELECT user_id, max(sequence) AS sequence FROM events WHERE kind = 'USER_DELETED' GROUP BY user_id \
    ), feed_says AS ( \
        SELECT last.user_id, last.other_user_id, last.sequence, events.time, events.cause, \
               CASE WHEN events.kind = 'USER_BLOCKED' AND coalesce(one.sequence, 0) < last.sequence \
                         AND coalesce(other.sequence, 0) < last.sequence THEN 1 ELSE 0 END AS holds \
        FROM last JOIN events ON events.sequence = last.sequence \
        LEFT JOIN deleted AS one ON one.user_id = last.user_id \
        LEFT JOIN deleted AS other ON other.user_id = last.other_user_id \
    )";

/// The last event that created or deleted each user.
const LAST_OF_USERS: &str = "WITH last AS ( \
        SELECT max(sequence) AS sequence FROM events \
        WHERE kind IN ('USER_CREATED', 'USER_DELETED') AND user_id <> 0 GROUP BY user_id \
    ), feed_says AS ( \
        SELECT user_id, events.sequence, kind FROM last JOIN events ON events.sequence = last.sequence \
    )";

/// The right counts of all users.
const COUNTED: &str = "WITH counted AS ( \
        SELECT user_id, CAST(sum(sent) AS bigint) AS sent, CAST(sum(received) AS bigint) AS received, \
               CAST(sum(unviewed) AS bigint) AS unviewed, CAST(sum(connected) AS bigint) AS connected \
        FROM ( \
            SELECT from_user_id AS user_id, CASE WHEN state IN ('PENDING', 'SILENCED', 'REJECTED') THEN 1 ELSE 0 END AS sent, \
                   0 AS received, 0 AS unviewed, CASE WHEN state = 'CONNECTED' THEN 1 ELSE 0 END AS connected \
            FROM connection_requests \
            UNION ALL \
            SELECT to_user_id, 0, CASE WHEN state = 'PENDING' THEN 1 ELSE 0 END, \
                   CASE WHEN state = 'PENDING' AND viewed IS NULL THEN 1 ELSE 0 END, \
                   CASE WHEN state = 'CONNECTED' THEN 1 ELSE 0 END \
            FROM connection_requests \
        ) AS sides GROUP BY user_id \
    )";

/// All of them, in the order in which they are reported.
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
        name: "the head has the time of the newest event",
        looks_at: "feed",
        with: "",
        finds: "SELECT last_sequence AS number, 'the head has another time than event ' || last_sequence AS said \
                FROM feed JOIN events ON sequence = last_sequence WHERE last_time <> time",
    },
    Check {
        name: "the head is one row whose numbers do not pass its end",
        looks_at: "feed",
        with: "",
        finds: "SELECT id AS number, 'the head ' || id || ' has a number below zero or beyond event ' || last_sequence \
                       AS said \
                FROM feed WHERE id <> 1 OR last_sequence < 0 \
                     OR last_assigned_user_id NOT BETWEEN 0 AND 9007199254740991 \
                     OR users_changed NOT BETWEEN 0 AND last_sequence OR swept_id NOT BETWEEN 0 AND last_sequence \
                     OR forgotten NOT BETWEEN 0 AND last_sequence OR forgetting NOT BETWEEN 0 AND last_sequence \
                UNION ALL SELECT 0, 'there is no head' WHERE NOT EXISTS (SELECT 1 FROM feed WHERE id = 1)",
    },
    Check {
        name: "the epochs are in order, and the newest is the head's",
        looks_at: "epochs",
        with: "",
        finds: "SELECT number, 'epoch ' || number || ' begins at event ' || first_sequence || ', before an earlier one' AS said \
                FROM (SELECT number, first_sequence, lag(first_sequence) OVER (ORDER BY number) AS earlier FROM epochs) AS pairs \
                WHERE first_sequence < earlier \
                UNION ALL \
                SELECT number, 'epoch ' || number || ' follows epoch ' || earlier \
                FROM (SELECT number, coalesce(lag(number) OVER (ORDER BY number), 0) AS earlier FROM epochs) AS numbers \
                WHERE number <> earlier + 1 \
                UNION ALL \
                SELECT number, 'epoch ' || number || ' begins at event ' || first_sequence || ', the feed ends at ' \
                       || last_sequence \
                FROM epochs CROSS JOIN feed WHERE first_sequence NOT BETWEEN 1 AND last_sequence + 1 \
                UNION ALL \
                SELECT 0, 'the newest epoch is ' || coalesce(newest.epoch, 'none') || ', that of the head is ' || feed.epoch \
                FROM feed LEFT JOIN (SELECT epoch, system_identifier, timeline FROM epochs ORDER BY number DESC LIMIT 1) \
                     AS newest ON true \
                WHERE newest.epoch IS NULL OR newest.epoch <> feed.epoch \
                      OR coalesce(newest.system_identifier, 0) <> coalesce(feed.system_identifier, 0) \
                      OR coalesce(newest.timeline, 0) <> coalesce(feed.timeline, 0)",
    },
    Check {
        name: "each event has a kind, a cause, an actor and a principal that exist, and its stretch",
        looks_at: "events",
        with: "",
        finds: "SELECT sequence AS number, 'event ' || sequence || ' of stretch ' || stretch || ' is ' || kind \
                       || coalesce(' because ' || cause, '') || ' by ' || actor \
                       || coalesce(' ' || actor_user_id, '') || coalesce(', called by ' || principal, '') AS said \
                FROM events WHERE sequence < 1 OR stretch <> sequence / 4096 OR kind NOT IN ({kinds}) \
                     OR cause NOT IN ({causes}) OR actor NOT IN ('USER', 'OPERATOR', 'SYSTEM') \
                     OR (actor = 'USER') <> (actor_user_id IS NOT NULL) \
                     OR principal NOT IN ({principals}) OR actor = 'SYSTEM' AND principal <> 'SYSTEM' \
                     OR actor = 'OPERATOR' AND principal = 'USER'",
    },
    Check {
        name: "each request has a state that exists, and the times of that state",
        looks_at: "connection_requests",
        with: "",
        finds: "SELECT id AS number, 'request ' || id || ' from user ' || from_user_id || ' to user ' || to_user_id \
                       || ' is ' || state || CASE WHEN rejected IS NULL THEN '' ELSE ', rejected' END \
                       || CASE WHEN accepted IS NULL THEN '' ELSE ', accepted' END \
                       || CASE WHEN viewed < created OR rejected < created OR accepted < created \
                               THEN ' before it was created' ELSE '' END AS said \
                FROM connection_requests \
                WHERE state NOT IN ({states}) OR (rejected IS NOT NULL) <> (state = 'REJECTED') \
                      OR (accepted IS NOT NULL) <> (state = 'CONNECTED') \
                      OR viewed < created OR rejected < created OR accepted < created",
    },
    Check {
        name: "the sweep for expired requests left none behind",
        looks_at: "connection_requests",
        with: "",
        finds: "SELECT connection_requests.id AS number, 'request ' || connection_requests.id || ' is ' || state \
                       || ', but the sweep is done up to ' || swept_id AS said \
                FROM connection_requests CROSS JOIN feed \
                WHERE connection_requests.id <= swept_id \
                      AND state IN ('PENDING', 'SILENCED', 'REJECTED') AND NOT out_of_order",
    },
    Check {
        name: "each request is in the state that its last event left",
        looks_at: "connection_requests",
        with: LAST_OF_REQUESTS,
        finds: "SELECT id AS number, 'request ' || id || ' from user ' || from_user_id || ' to user ' || to_user_id \
                       || ' is ' || stored.state || ' since event ' || position || ', but ' \
                       || CASE WHEN feed_says.sequence IS NULL THEN 'no event created it' \
                               ELSE 'its last event is ' || feed_says.sequence || ', ' || kind || ' from user ' \
                                    || feed_says.user_id || ' to user ' || feed_says.other_user_id END AS said \
                FROM connection_requests AS stored LEFT JOIN feed_says ON feed_says.request_id = stored.id \
                WHERE CASE WHEN feed_says.sequence IS NULL THEN position >= {oldest} \
                      ELSE feed_says.sequence <> position OR feed_says.state <> stored.state \
                           OR feed_says.user_id <> from_user_id OR feed_says.other_user_id <> to_user_id END",
    },
    Check {
        name: "each request that the feed leaves open or connected is there",
        looks_at: "events WHERE request_id IS NOT NULL AND kind <> 'REQUEST_VIEWED'",
        with: LAST_OF_REQUESTS,
        finds: "SELECT request_id AS number, 'request ' || request_id || ' from user ' || user_id || ' to user ' \
                       || other_user_id || ' is not there, but is ' || feed_says.state || ' since event ' || sequence \
                       AS said \
                FROM feed_says LEFT JOIN connection_requests AS stored ON stored.id = feed_says.request_id \
                WHERE stored.id IS NULL AND feed_says.state <> 'ENDED'",
    },
    Check {
        name: "each request was created by the event of its id",
        looks_at: "connection_requests WHERE id >= {oldest}",
        with: "",
        finds: "SELECT id AS number, 'request ' || id || ' from user ' || from_user_id || ' to user ' || to_user_id \
                       || ': event ' || id || ' did not create it then' AS said \
                FROM connection_requests LEFT JOIN events ON sequence = id AND kind = 'REQUEST_CREATED' \
                     AND request_id = id AND user_id = from_user_id AND other_user_id = to_user_id \
                     AND (time = created OR cause = 'IMPORTED') \
                WHERE id >= {oldest} AND sequence IS NULL",
    },
    Check {
        name: "each request was viewed, rejected and accepted when its events say",
        looks_at: "connection_requests WHERE id >= {oldest}",
        // A request is never viewed, rejected or accepted before its creation, even if the clock was set back in between.
        // The dates of an import are those of its rows.
        with: "WITH feed_says AS ( \
                   SELECT request_id, \
                          min(CASE WHEN kind IN ('REQUEST_VIEWED', 'REQUEST_REJECTED', 'CONNECTION_CREATED') \
                                   THEN sequence END) AS viewed, \
                          max(CASE WHEN kind = 'REQUEST_REJECTED' THEN sequence END) AS rejected, \
                          max(CASE WHEN kind = 'CONNECTION_CREATED' THEN sequence END) AS accepted \
                   FROM events WHERE request_id >= {oldest} GROUP BY request_id \
               ), timed AS ( \
                   SELECT stored.id, from_user_id, to_user_id, state, stored.viewed, stored.rejected, stored.accepted, \
                          CASE WHEN viewing.cause = 'IMPORTED' THEN coalesce(stored.viewed, created) \
                               WHEN viewing.time < created THEN created ELSE viewing.time END AS to_be_viewed, \
                          CASE WHEN rejecting.cause = 'IMPORTED' THEN coalesce(stored.rejected, created) \
                               WHEN rejecting.time < created THEN created ELSE rejecting.time END AS to_be_rejected, \
                          CASE WHEN accepting.cause = 'IMPORTED' THEN coalesce(stored.accepted, created) \
                               WHEN accepting.time < created THEN created ELSE accepting.time END AS to_be_accepted \
                   FROM connection_requests AS stored \
                   LEFT JOIN feed_says ON feed_says.request_id = stored.id \
                   LEFT JOIN events AS viewing ON viewing.sequence = feed_says.viewed \
                   LEFT JOIN events AS rejecting ON rejecting.sequence = feed_says.rejected \
                   LEFT JOIN events AS accepting ON accepting.sequence = feed_says.accepted \
                   WHERE id >= {oldest} \
               ), compared AS ( \
                   SELECT id, from_user_id, to_user_id, \
                          CASE WHEN viewed IS DISTINCT FROM to_be_viewed THEN ', viewed' ELSE '' END \
                          || CASE WHEN state <> 'REJECTED' OR rejected = to_be_rejected THEN '' ELSE ', rejected' END \
                          || CASE WHEN accepted IS DISTINCT FROM to_be_accepted THEN ', accepted' ELSE '' END AS wrong \
                   FROM timed \
               )",
        finds: "SELECT id AS number, 'request ' || id || ' from user ' || from_user_id || ' to user ' || to_user_id \
                       || ' has another time than its events:' || substr(wrong, 2) AS said \
                FROM compared WHERE wrong <> ''",
    },
    Check {
        name: "each block was made by its last event",
        looks_at: "blocks",
        with: LAST_OF_BLOCKS,
        finds: "SELECT position AS number, 'user ' || stored.user_id || ' blocks user ' || stored.other_user_id \
                       || ' since event ' || position || ', but ' \
                       || CASE WHEN feed_says.sequence IS NULL THEN 'no event created it' \
                               WHEN holds = 0 THEN 'no longer after event ' || feed_says.sequence \
                               ELSE 'event ' || feed_says.sequence || ' made the block at its time' END AS said \
                FROM blocks AS stored \
                LEFT JOIN feed_says ON feed_says.user_id = stored.user_id AND feed_says.other_user_id = stored.other_user_id \
                WHERE CASE WHEN feed_says.sequence IS NULL THEN position >= {oldest} \
                      ELSE holds = 0 OR feed_says.sequence <> position \
                           OR time <> created AND coalesce(cause, '') <> 'IMPORTED' END",
    },
    Check {
        name: "each block that the feed leaves is there",
        looks_at: "events WHERE kind IN ('USER_BLOCKED', 'USER_UNBLOCKED')",
        with: LAST_OF_BLOCKS,
        finds: "SELECT sequence AS number, 'user ' || feed_says.user_id || ' blocked user ' || feed_says.other_user_id \
                       || ' with event ' || sequence || ', and the block is not there' AS said \
                FROM feed_says LEFT JOIN blocks AS stored \
                     ON stored.user_id = feed_says.user_id AND stored.other_user_id = feed_says.other_user_id \
                WHERE holds = 1 AND stored.user_id IS NULL",
    },
    // After an error of the clock, times say nothing of the order, and the sweep may have set the cooldown right.
    Check {
        name: "each cooldown began with the last rejection, and not between connected users",
        looks_at: "cooldowns",
        with: "WITH last AS ( \
                   SELECT user_id, other_user_id, max(sequence) AS sequence FROM events \
                   WHERE kind = 'REQUEST_REJECTED' GROUP BY user_id, other_user_id \
               ), steps AS ( \
                   SELECT time, lead(time) OVER (ORDER BY sequence) AS next FROM events \
               ), feed_says AS ( \
                   SELECT max(CASE WHEN next < time OR time > {future} THEN 1 ELSE 0 END) AS clock_was_wrong, \
                          min(time) AS first FROM steps \
               )",
        finds: "SELECT from_user_id AS number, 'the cooldown of user ' || from_user_id || ' for user ' || to_user_id \
                       || CASE WHEN state = 'CONNECTED' THEN ': they are connected' \
                               ELSE ' began at another time than the last rejection' END AS said \
                FROM ( \
                    SELECT cooldowns.*, state, events.time AS rejection, events.cause, first, clock_was_wrong \
                    FROM cooldowns CROSS JOIN feed_says LEFT JOIN last ON last.user_id = cooldowns.from_user_id \
                         AND last.other_user_id = cooldowns.to_user_id \
                    LEFT JOIN events ON events.sequence = last.sequence \
                    LEFT JOIN connection_requests \
                         ON low_user_id = CASE WHEN cooldowns.from_user_id < cooldowns.to_user_id \
                                               THEN cooldowns.from_user_id ELSE cooldowns.to_user_id END \
                         AND high_user_id = CASE WHEN cooldowns.from_user_id < cooldowns.to_user_id \
                                                 THEN cooldowns.to_user_id ELSE cooldowns.from_user_id END \
                ) AS stored \
                WHERE state = 'CONNECTED' OR clock_was_wrong = 0 \
                      AND CASE WHEN rejection IS NULL THEN since > first \
                               ELSE since <> rejection AND coalesce(cause, '') <> 'IMPORTED' END",
    },
    Check {
        name: "the users of each cooldown are there",
        looks_at: "cooldowns",
        with: "",
        finds: "SELECT from_user_id AS number, 'the cooldown of user ' || from_user_id || ' for user ' || to_user_id \
                       || ': no user ' || CASE WHEN one.id IS NULL THEN from_user_id ELSE to_user_id END AS said \
                FROM cooldowns LEFT JOIN users AS one ON one.id = from_user_id \
                LEFT JOIN users AS other ON other.id = to_user_id WHERE one.id IS NULL OR other.id IS NULL",
    },
    Check {
        name: "each number of ended requests is positive and of two users who are there",
        looks_at: "ended_requests",
        with: "",
        finds: "SELECT from_user_id AS number, 'user ' || from_user_id || ' has ' || requests \
                       || ' ended requests to user ' || to_user_id AS said \
                FROM ended_requests LEFT JOIN users AS one ON one.id = from_user_id \
                LEFT JOIN users AS other ON other.id = to_user_id \
                WHERE requests < 1 OR one.id IS NULL OR other.id IS NULL",
    },
    Check {
        name: "each user was created by their last event",
        looks_at: "users",
        with: LAST_OF_USERS,
        finds: "SELECT id AS number, 'user ' || id || ' is there since event ' || position || ', but ' \
                       || CASE WHEN sequence IS NULL THEN 'no event created it' \
                               ELSE 'the last of such events is ' || sequence || ', ' || kind END AS said \
                FROM users LEFT JOIN feed_says ON user_id = id \
                WHERE CASE WHEN sequence IS NULL THEN position >= {oldest} \
                      ELSE kind <> 'USER_CREATED' OR sequence <> position END",
    },
    Check {
        name: "each user that the feed leaves is there",
        looks_at: "events WHERE kind IN ('USER_CREATED', 'USER_DELETED')",
        with: LAST_OF_USERS,
        finds: "SELECT user_id AS number, \
                       'user ' || user_id || ' was created by event ' || sequence || ' and is not there' AS said \
                FROM feed_says LEFT JOIN users ON id = user_id WHERE kind = 'USER_CREATED' AND id IS NULL",
    },
    Check {
        name: "each user has a username or an external id",
        looks_at: "users",
        with: "",
        finds: "SELECT id AS number, 'user ' || id || CASE WHEN external_id IS NULL THEN ' has neither' \
                       ELSE ' has an external id of ' || length(external_id) || ' characters' END AS said \
                FROM users WHERE username = '' AND external_id IS NULL OR length(external_id) NOT BETWEEN 1 AND 128",
    },
    Check {
        name: "each user was last changed by their last event",
        looks_at: "users",
        with: "WITH feed_says AS ( \
                   SELECT user_id, max(sequence) AS sequence FROM events \
                   WHERE kind IN ('USER_CREATED', 'USER_UPDATED') GROUP BY user_id \
               )",
        finds: "SELECT id AS number, 'user ' || id || ' was last changed by event ' || changed || ', but ' \
                       || CASE WHEN sequence IS NULL THEN 'no event changed them' \
                               ELSE 'the last of such events is ' || sequence END AS said \
                FROM users LEFT JOIN feed_says ON user_id = id \
                WHERE CASE WHEN sequence IS NULL THEN changed >= {oldest} ELSE sequence <> changed END",
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
        name: "no user saw an event about them and another after the one that is stored",
        looks_at: "user_counts",
        // What settings may hide from a user does not count: they may have been others at the time.
        with: "WITH seen AS ( \
                   SELECT user_id, sequence FROM events \
                   WHERE other_user_id IS NOT NULL AND coalesce(cause, '') <> 'UNBLOCKED' \
                         AND kind NOT IN ('REQUEST_VIEWED', 'REQUEST_SILENCED', 'REQUEST_REJECTED', 'REQUEST_RESTORED') \
                   UNION ALL \
                   SELECT other_user_id, sequence FROM events \
                   WHERE other_user_id IS NOT NULL AND NOT silenced \
                         AND kind NOT IN ('REQUEST_SILENCED', 'USER_BLOCKED', 'USER_UNBLOCKED') \
               ), newest AS ( \
                   SELECT seen.user_id, max(sequence) AS sequence FROM seen JOIN users ON id = seen.user_id \
                   WHERE sequence > position GROUP BY seen.user_id \
               )",
        finds: "SELECT stored.user_id AS number, 'user ' || stored.user_id || ' saw event ' \
                       || coalesce(newest.sequence, 0) || ', but event ' || last_visible || ' is stored' AS said \
                FROM user_counts AS stored CROSS JOIN feed LEFT JOIN newest ON newest.user_id = stored.user_id \
                WHERE last_visible < coalesce(newest.sequence, 0) OR last_visible > last_sequence",
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
    Check { name: TOTALS_RIGHT, looks_at: TOTALS, with: WITH_TOTALS, finds: WRONG_TOTALS },
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
                       || ' is stored under ' || low_user_id || ' and ' || high_user_id AS said \
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
        finds: "SELECT stored.id AS number, 'request ' || stored.id || ': no user ' \
                       || CASE WHEN one.id IS NULL THEN from_user_id ELSE to_user_id END AS said \
                FROM connection_requests AS stored LEFT JOIN users AS one ON one.id = from_user_id \
                LEFT JOIN users AS other ON other.id = to_user_id WHERE one.id IS NULL OR other.id IS NULL",
    },
    Check {
        name: "the users of each block are there",
        looks_at: "blocks",
        with: "",
        finds: "SELECT stored.position AS number, 'the block of user ' || other_user_id || ' by user ' || user_id \
                       || ': no user ' || CASE WHEN one.id IS NULL THEN user_id ELSE other_user_id END AS said \
                FROM blocks AS stored LEFT JOIN users AS one ON one.id = user_id \
                LEFT JOIN users AS other ON other.id = other_user_id WHERE one.id IS NULL OR other.id IS NULL",
    },
];
