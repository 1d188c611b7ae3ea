"""Compares what clients saw with the tables."""

import collections

# The events that each kind of change leaves.
EVENTS = {"sent": "REQUEST_CREATED", "accepted": "CONNECTION_CREATED", "rejected": "REQUEST_REJECTED",
          "removed": "CONNECTION_REMOVED"}


def head(database):
    """Returns the sequence of the newest event."""
    return int(database.rows("SELECT last_sequence FROM feed")[0][0])


def differences(database, reports, start):
    """Returns what differs between the tables and what clients saw, a line each."""
    return requests(database, reports) + changes(database, reports) + watchers(database, reports, start)


def requests(database, reports):
    """Each request of the table is in the state that its calls led to, and there is no other.

    A pair with a failed call may be in any state: that failure is reported.
    """
    expected, unknown = {}, set()
    for report in reports:
        for pair, outcome in report["outcomes"].items():
            if outcome is None:
                unknown.add(pair)
            elif outcome[1] != "ABSENT":
                expected[pair] = outcome
    stored = {(int(low), int(high)): (int(request), state) for low, high, request, state in database.rows(
        "SELECT low_user_id, high_user_id, id, state FROM connection_requests")}
    pairs = (expected.keys() | stored.keys()) - unknown
    return [f"the request of {pair} is {stored.get(pair)}, and its caller has {expected.get(pair)}"
            for pair in sorted(pairs) if stored.get(pair) != expected.get(pair)]


def changes(database, reports):
    """There are as many events of each kind, and stored responses, as calls that succeeded: nothing was done twice."""
    made = collections.Counter()
    for report in reports:
        made.update(report["changes"])
    stored = {kind: int(number) for kind, number in database.rows("SELECT kind, count(*) FROM events GROUP BY kind")}
    wrong = [f"{made[change]} calls {change}, and there are {stored.get(kind, 0)} events {kind}"
             for change, kind in EVENTS.items() if made[change] != stored.get(kind, 0)]
    responses = int(database.rows("SELECT count(*) FROM request_ids")[0][0])
    if responses != sum(made.values()):
        wrong.append(f"{sum(made.values())} writes succeeded, and {responses} responses are stored")
    return wrong


def watchers(database, reports, start):
    """Each watcher received each event of its kinds once, in order."""
    events = [(int(sequence), kind) for sequence, kind in database.rows(
        f"SELECT sequence, kind FROM events WHERE sequence > {start} ORDER BY sequence")]
    every = [sequence for sequence, _ in events]
    connections = [sequence for sequence, kind in events if kind == "CONNECTION_CREATED"]
    wrong = []
    for report in reports:
        for watcher in report["watchers"]:
            expected, received = connections if watcher["kinds"] else every, watcher["sequences"]
            if received != expected:
                missed, more = set(expected) - set(received), len(received) - len(set(received))
                wrong.append(f"a watcher received {len(received)} events of {len(expected)}: missed "
                             f"{sorted(missed)[:10]}, {more} twice, in order: {received == sorted(received)}")
    return wrong
