//! Damage to the database that `used` creates: at least one kind for each check, so that none is vacuous.

use super::{COUNTS, COUNTS_OF_SOMEBODY, COUNTS_THERE, TOTALS};

/// Columns of a user that do not matter here.
const REST: &str = "real_name, email, email_isvalid, date_joined, bio, location, birthday, description, gender, \
                    status, website, avatar, cover, changed";

/// The damage, the check that finds it, and what the check reports.
pub fn all() -> Vec<(&'static str, String, &'static str)> {
    let sent = |by: i64, change: &str| {
        format!("UPDATE connection_requests SET {change} WHERE from_user_id = {by} AND to_user_id = 2")
    };
    let block = |user: i64, other: i64, at: &str| {
        format!("INSERT INTO blocks SELECT {user}, {other}, last_time, {at} FROM feed")
    };
    let user = |id: i64, position: i64| {
        format!(
            "INSERT INTO users (id, position, username, username_key, {REST}) \
             SELECT {id}, {position}, 'ghost', 'ghost', {REST} FROM users WHERE id = 3"
        )
    };
    let count =
        |user: i64, column: &str| format!("UPDATE user_counts SET {column} = {column} + 7 WHERE user_id = {user}");
    let holes = "the feed has no holes and ends at its head";
    let time = "the head has the time of the newest event";
    let head = "the head is one row whose numbers do not pass its end";
    let epochs = "the epochs are in order, and the newest is the head's";
    let events = "each event has a kind, a cause, an actor and a principal that exist, and its stretch";
    let states = "each request has a state that exists, and the times of that state";
    let swept = "the sweep for expired requests left none behind";
    let below_zero = "no count is below zero, and sends have an hour";
    let visible = "no user saw an event about them and another after the one that is stored";
    let event = |change: &str| format!("UPDATE events SET {change} WHERE sequence = 5");
    let state = "each request is in the state that its last event left";
    let open = "each request that the feed leaves open or connected is there";
    let created = "each request was created by the event of its id";
    let times = "each request was viewed, rejected and accepted when its events say";
    let blocks = "each block was made by its last event";
    let blocks_there = "each block that the feed leaves is there";
    let users = "each user was created by their last event";
    let users_there = "each user that the feed leaves is there";
    let named = "each user has a username or an external id";
    let changed = "each user was last changed by their last event";
    let across = "nothing is pending or connected across a block";
    let pairs = "each pair is there once, under its two users in order";
    let of_requests = "the users of each request are there";
    let of_blocks = "the users of each block are there";
    let cooldowns = "each cooldown began with the last rejection, and not between connected users";
    let ended = "each number of ended requests is positive and of two users who are there";
    let of_cooldowns = "the users of each cooldown are there";
    let future = "no time lies in the future";
    // A time in more than a thousand years, whatever the engine's type of a time is.
    let in_future = |table: &str, column: &str, words| {
        let time = "(SELECT max(time) + (max(time) - min(time)) * 4000 FROM events)";
        (future, format!("UPDATE {table} SET {column} = {time}"), words)
    };
    vec![
        in_future("events", "time", "events: time of "),
        in_future("connection_requests", "created", "connection_requests: created of "),
        in_future("connection_requests", "viewed", "connection_requests: viewed of "),
        in_future("connection_requests", "rejected", "connection_requests: rejected of "),
        in_future("connection_requests", "accepted", "connection_requests: accepted of "),
        in_future("blocks", "created", "blocks: created of "),
        in_future("cooldowns", "since", "cooldowns: since of "),
        in_future("ended_requests", "since", "ended_requests: since of "),
        in_future("user_counts", "sends_since", "user_counts: sends_since of "),
        in_future("request_ids", "created", "request_ids: created of "),
        (holes, "DELETE FROM events WHERE sequence = 5".to_owned(), "event 6 follows event 4"),
        (holes, "UPDATE feed SET last_sequence = last_sequence + 1".to_owned(), "the head is at "),
        (
            time,
            "UPDATE feed SET last_time = (SELECT min(time) FROM events)".to_owned(),
            "the head has another time than",
        ),
        (
            epochs,
            "INSERT INTO epochs VALUES (2, 'b', 0, NULL, NULL)".to_owned(),
            "epoch 2 begins at event 0, before an",
        ),
        (
            epochs,
            "INSERT INTO epochs VALUES (2, 'b', 900000, NULL, NULL)".to_owned(),
            "epoch 2 begins at event 900000, the ",
        ),
        (epochs, "UPDATE epochs SET number = 3".to_owned(), "epoch 3 follows epoch 0"),
        (epochs, "UPDATE epochs SET epoch = 'b'".to_owned(), "the newest epoch is b, that of the head is "),
        (epochs, "UPDATE epochs SET timeline = 7".to_owned(), "the newest epoch is "),
        (epochs, "DELETE FROM epochs".to_owned(), "the newest epoch is none"),
        (head, "UPDATE feed SET id = 2".to_owned(), "there is no head"),
        (head, "UPDATE feed SET users_changed = last_sequence + 1".to_owned(), "the head 1 has a number below zero or"),
        (head, "UPDATE feed SET forgotten = last_sequence + 1".to_owned(), "the head 1 has a number below zero or"),
        (head, "UPDATE feed SET forgetting = -1".to_owned(), "the head 1 has a number below zero or beyond event "),
        (head, "UPDATE feed SET swept_id = -1".to_owned(), "the head 1 has a number below zero or beyond event "),
        (
            head,
            "UPDATE feed SET last_assigned_user_id = 9007199254740992".to_owned(),
            "the head 1 has a number below zero or beyond event ",
        ),
        (events, event("stretch = 1"), "event 5 of stretch 1 is USER_CREATED by OPERATOR"),
        (events, event("kind = 'USER_RENAMED'"), "event 5 of stretch 0 is USER_RENAMED by OPERATOR"),
        (events, event("cause = 'WEATHER'"), "event 5 of stretch 0 is USER_CREATED because WEATHER by OPERATOR"),
        (events, event("actor = 'NOBODY'"), "event 5 of stretch 0 is USER_CREATED by NOBODY"),
        (events, event("actor_user_id = 7"), "event 5 of stretch 0 is USER_CREATED by OPERATOR 7"),
        (events, event("principal = 'NOBODY'"), "event 5 of stretch 0 is USER_CREATED by OPERATOR, called by NOBODY"),
        (events, event("principal = 'USER'"), "event 5 of stretch 0 is USER_CREATED by OPERATOR, called by USER"),
        (events, event("actor = 'SYSTEM'"), "event 5 of stretch 0 is USER_CREATED by SYSTEM, called by ANONYMOUS"),
        (states, sent(1, "state = 'LOST'"), "from user 1 to user 2 is LOST"),
        (states, sent(1, "rejected = created"), "from user 1 to user 2 is PENDING, rejected"),
        (states, sent(6, "accepted = NULL"), "from user 6 to user 2 is CONNECTED"),
        (
            states,
            sent(6, "accepted = (SELECT min(time) FROM events)"),
            "from user 6 to user 2 is CONNECTED, accepted before it was created",
        ),
        (swept, "UPDATE feed SET swept_id = last_sequence".to_owned(), "is PENDING, but the sweep is done up to "),
        (below_zero, "UPDATE user_counts SET sends = -1 WHERE user_id = 4".to_owned(), " and -1 sends"),
        (below_zero, "UPDATE user_counts SET sends_since = NULL WHERE sends > 0".to_owned(), " sends"),
        (
            visible,
            "UPDATE user_counts SET last_visible = last_visible - 1 WHERE user_id = 6".to_owned(),
            "user 6 saw event ",
        ),
        (
            visible,
            "UPDATE user_counts SET last_visible = (SELECT last_sequence + 1 FROM feed) WHERE user_id = 4".to_owned(),
            "user 4 saw event ",
        ),
        (below_zero, count(4, "requests_sent").replace("+ 7", "- 7"), "user 4 has -6, "),
        (TOTALS, "UPDATE feed SET total_users = total_users + 1".to_owned(), "total_users 14 -> 13"),
        (TOTALS, "UPDATE feed SET total_pending = -1".to_owned(), "total_pending -1 -> 3"),
        (TOTALS, "UPDATE feed SET total_silenced = 0".to_owned(), "total_silenced 0 -> 3"),
        (TOTALS, "UPDATE feed SET total_rejected = 7".to_owned(), "total_rejected 7 -> 1"),
        (TOTALS, "UPDATE feed SET total_connected = 7".to_owned(), "total_connected 7 -> 2"),
        (TOTALS, "UPDATE feed SET total_blocks = 0".to_owned(), "total_blocks 0 -> 3"),
        (state, sent(1, "state = 'REJECTED', rejected = created"), "from user 1 to user 2 is REJECTED"),
        (state, sent(3, "position = position + 1"), "from user 3 to user 2 is PENDING"),
        (state, sent(3, "position = 1"), "from user 3 to user 2 is PENDING since event 1, but its last event is "),
        (state, sent(3, "from_user_id = 2, to_user_id = 3"), "REQUEST_CREATED from user 3 to user 2"),
        (state, sent(10, "position = position - 1"), "from user 10 to user 2 is SILENCED"),
        (state, sent(12, "state = 'PENDING'"), "from user 12 to user 2 is PENDING"),
        (
            state,
            "INSERT INTO connection_requests (low_user_id, high_user_id, id, from_user_id, to_user_id, state, \
                 position, message, created) SELECT 5, 6, 9999, 5, 6, 'PENDING', 9999, '', last_time FROM feed"
                .to_owned(),
            "request 9999 from user 5 to user 6 is PENDING since event 9999, but no event created it",
        ),
        (
            open,
            "DELETE FROM connection_requests WHERE from_user_id = 6".to_owned(),
            "from user 6 to user 2 is not there, but is CONNECTED",
        ),
        (
            open,
            "DELETE FROM connection_requests WHERE from_user_id = 12".to_owned(),
            "from user 12 to user 2 is not there, but is SILENCED",
        ),
        (
            open,
            "DELETE FROM connection_requests WHERE from_user_id = 5".to_owned(),
            "from user 5 to user 2 is not there, but is PENDING",
        ),
        (created, sent(3, "created = (SELECT min(time) FROM events)"), "from user 3 to user 2"),
        (times, sent(1, "viewed = created"), "from user 1 to user 2 has another time than its events: viewed"),
        (times, sent(3, "viewed = NULL"), "from user 3 to user 2 has another time than its events: viewed"),
        // Silenced by a block, which is not a view.
        (times, sent(12, "viewed = created"), "from user 12 to user 2 has another time than its events: viewed"),
        (times, sent(4, "rejected = created"), "from user 4 to user 2 has another time than its events: rejected"),
        (times, sent(6, "accepted = created"), "from user 6 to user 2 has another time than its events: accepted"),
        (
            blocks,
            "UPDATE blocks SET position = 1 WHERE other_user_id = 11".to_owned(),
            "user 2 blocks user 11 since event 1, but event ",
        ),
        (
            blocks,
            "UPDATE blocks SET created = (SELECT min(time) FROM events) WHERE other_user_id = 11".to_owned(),
            "user 2 blocks user 11",
        ),
        (blocks, block(5, 6, "last_sequence"), "user 5 blocks user 6 since event "),
        (blocks, block(3, 4, "1"), "user 3 blocks user 4 since event 1, but no longer after event "),
        // The first user 13, who was deleted.
        (blocks, block(13, 3, "1"), "user 13 blocks user 3 since event 1, but no longer after event "),
        (
            cooldowns,
            "UPDATE cooldowns SET since = (SELECT last_time FROM feed) WHERE from_user_id = 9".to_owned(),
            "the cooldown of user 9 for user 2 began at another time",
        ),
        (
            cooldowns,
            "INSERT INTO cooldowns SELECT 5, 6, last_time FROM feed".to_owned(),
            "the cooldown of user 5 for user 6 began at another time",
        ),
        (
            cooldowns,
            "INSERT INTO cooldowns SELECT 6, 2, min(time) FROM events".to_owned(),
            "the cooldown of user 6 for user 2: they are connected",
        ),
        (ended, "UPDATE ended_requests SET requests = 0".to_owned(), "has 0 ended requests to user "),
        (ended, "INSERT INTO ended_requests SELECT 99, 2, last_time, 3 FROM feed".to_owned(), "user 99 has 3 ended"),
        (
            of_cooldowns,
            "INSERT INTO cooldowns SELECT 99, 2, min(time) FROM events".to_owned(),
            "for user 2: no user 99",
        ),
        (blocks_there, "DELETE FROM blocks WHERE other_user_id = 11".to_owned(), "user 2 blocked user 11"),
        (
            users,
            "UPDATE users SET position = 9999 WHERE id = 3".to_owned(),
            "user 3 is there since event 9999, but the last of such events is 3",
        ),
        (users, user(14, 9999), "user 14 is there since event 9999, but the last of such events is "),
        (users, user(99, 9999), "user 99 is there since event 9999, but no event created it"),
        (users_there, "DELETE FROM users WHERE id = 3".to_owned(), "user 3 was created by event 3"),
        (
            changed,
            "UPDATE users SET changed = 4 WHERE id = 3".to_owned(),
            "user 3 was last changed by event 4, but the last of such events is 3",
        ),
        (changed, user(99, 9999), "user 99 was last changed by event 3, but no event changed them"),
        (named, "UPDATE users SET username = '', username_key = '/3' WHERE id = 3".to_owned(), "user 3 has neither"),
        (
            named,
            "UPDATE users SET external_id = '' WHERE id = 3".to_owned(),
            "user 3 has an external id of 0 characters",
        ),
        (
            "each username has its key",
            "UPDATE users SET username = '', external_id = 'x' WHERE id = 3".to_owned(),
            "user 3 is \"\" under the key \"user-3\"",
        ),
        (
            "each username has its key",
            "UPDATE users SET username_key = 'user-33' WHERE id = 3".to_owned(),
            "user 3 is \"user-3\" under the key \"user-33\"",
        ),
        (COUNTS, count(4, "requests_sent"), "user 4: requests_sent 8 -> 1"),
        (COUNTS, count(2, "requests_received"), "user 2: requests_received 10 -> 3"),
        (COUNTS, count(2, "requests_unviewed"), "user 2: requests_unviewed 8 -> 1"),
        (COUNTS, count(6, "connections"), "user 6: connections 8 -> 1"),
        (
            COUNTS,
            "UPDATE user_counts SET requests_sent = 0, connections = 5 WHERE user_id = 1".to_owned(),
            "user 1: requests_sent 0 -> 1, connections 5 -> 0",
        ),
        (COUNTS_THERE, "DELETE FROM user_counts WHERE user_id = 3".to_owned(), "user 3 has no counts"),
        (COUNTS_OF_SOMEBODY, "INSERT INTO user_counts (user_id) VALUES (99)".to_owned(), "user 99 is not there"),
        (across, block(1, 2, "1"), "is PENDING, but user 1 blocks user 2"),
        (across, block(2, 6, "1"), "is CONNECTED, but user 2 blocks user 6"),
        (pairs, sent(1, "low_user_id = 2, high_user_id = 1"), "from user 1 to user 2 is stored under 2 and 1"),
        (pairs, sent(1, "low_user_id = 1, high_user_id = 9"), "from user 1 to user 2 is stored under 1 and 9"),
        (
            pairs,
            "INSERT INTO connection_requests (low_user_id, high_user_id, id, from_user_id, to_user_id, state, \
                 position, message, created) SELECT 2, 1, 9999, 2, 1, 'PENDING', 9999, '', last_time FROM feed"
                .to_owned(),
            "users 1 and 2 have 2 requests",
        ),
        (of_requests, "DELETE FROM users WHERE id = 5".to_owned(), ": no user 5"),
        (of_requests, "DELETE FROM users WHERE id = 2".to_owned(), ": no user 2"),
        (of_blocks, "DELETE FROM users WHERE id = 11".to_owned(), "the block of user 11 by user 2: no user 11"),
        (of_blocks, "DELETE FROM users WHERE id = 2".to_owned(), "the block of user 11 by user 2: no user 2"),
    ]
}
