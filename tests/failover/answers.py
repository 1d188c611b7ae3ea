"""Compares a server's answers with the tables, and asks it for what was lost."""

import collections
import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
from load import (connection_pb2, connections_grpc, connections_pb2, event_pb2, events_grpc, events_pb2, users_grpc,
                  users_pb2)
from lossy import wrong_epoch
from patient import PASSING, PATIENCE

THREADS = 8
PAGE = 1_000
# Lost positions that a server is asked for.
POSITIONS = 300
SENT, RECEIVED = connection_pb2.CONNECTION_STATUS_REQUEST_SENT, connection_pb2.CONNECTION_STATUS_REQUEST_RECEIVED
# The status to the sender and to the receiver of a request.
STATUSES = {"PENDING": (SENT, RECEIVED), "REJECTED": (SENT, connection_pb2.CONNECTION_STATUS_REQUEST_REJECTED),
            "CONNECTED": (connection_pb2.CONNECTION_STATUS_CONNECTED,) * 2}


def ask(method, request):
    """Repeats a call that fails for now."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return method(request, timeout=30)
        except grpc.RpcError as error:
            if error.code() not in PASSING or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def pages(method, request):
    """Returns the pages of a list."""
    request.page_size = PAGE
    while True:
        page = ask(method, request)
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


class Tables:
    """What the tables say of each user."""

    def __init__(self, database, pairs):
        self.users = {int(user): bio for user, bio in database.rows("SELECT id, bio FROM users")}
        none = connection_pb2.CONNECTION_STATUS_NONE
        self.statuses = {user: {} for user in self.users}
        for one, other in pairs:
            self.statuses[one][other] = self.statuses[other][one] = none
        self.counts, self.connections = collections.Counter(), collections.defaultdict(set)
        for sender, receiver, state in database.rows("SELECT from_user_id, to_user_id, state FROM connection_requests"):
            sender, receiver = int(sender), int(receiver)
            self.statuses[sender][receiver], self.statuses[receiver][sender] = STATUSES[state]
            if state == "CONNECTED":
                self.connections[sender].add(receiver)
                self.connections[receiver].add(sender)
            else:
                self.counts[(sender, SENT)] += 1
                self.counts[(receiver, state)] += 1


def server(kith, database, history, pairs, lost):
    """Returns what is wrong with the answers of a server, a line each."""
    tables, wrong = Tables(database, pairs), []
    with grpc.insecure_channel(f"127.0.0.1:{kith.port}", [("grpc.enable_http_proxy", 0)]) as channel:
        wrong += lists(channel, tables, history)
        with ThreadPoolExecutor(THREADS) as pool:
            wrong += itertools.chain(*pool.map(lambda user: answers_about(channel, tables, user), tables.users))
            step = len(lost) // POSITIONS + 1
            wrong += itertools.chain(*pool.map(lambda position: lost_position(channel, history, *position),
                                               lost[::step]))
    return [f"{kith.name}: {line}" for line in wrong]


def lists(channel, tables, history):
    """The feed and the users, from the first page to the last."""
    wrong, listed = [], []
    request = events_pb2.ListEventsRequest(after_sequence=history.start)
    for page in pages(events_grpc.EventServiceStub(channel).ListEvents, request):
        listed += [(event.sequence, event_pb2.EventKind.Name(event.kind).removeprefix("EVENT_KIND_"), event.user_id,
                    event.other_user_id, event.connection_request_id) for event in page.events]
    if listed != history.events:
        differ = set(listed) ^ set(history.events)
        wrong.append(f"lists {len(listed)} events of {len(history.events)}: {sorted(differ)[:4]} differ")
    users = users_grpc.UserServiceStub(channel)
    named = {user.id: user.bio for page in pages(users.ListUsers, users_pb2.ListUsersRequest()) for user in page.users}
    if named != tables.users:
        differ = [user for user in tables.users if named.get(user) != tables.users[user]]
        wrong.append(f"lists {len(named)} users of {len(tables.users)}: {differ[:10]} differ")
    return wrong


def answers_about(channel, tables, user):
    """What it answers of a user: the profile, which it may have in memory, and what joins the user to others."""
    wrong, connections = [], connections_grpc.ConnectionServiceStub(channel)
    answer = ask(users_grpc.UserServiceStub(channel).GetUser, users_pb2.GetUserRequest(id=user))
    if answer.user.bio != tables.users[user]:
        wrong.append(f"user {user} is {answer.user.bio!r}, and {tables.users[user]!r} in the table")
    expected = tables.statuses[user]
    request = connections_pb2.BatchGetConnectionStatusesRequest(user_id=user, other_user_ids=sorted(expected))
    found = {status.other_user_id: status.status for status in
             (ask(connections.BatchGetConnectionStatuses, request).statuses if expected else [])}
    if found != expected:
        differ = {other: (found.get(other), expected[other]) for other in expected if found.get(other) != expected[other]}
        wrong.append(f"user {user} has other statuses than in the table: {differ}")
    counts = ask(connections.GetConnectionCounts, connections_pb2.GetConnectionCountsRequest(user_id=user))
    counted = (counts.requests_sent, counts.requests_received, counts.connections)
    rows = (tables.counts[(user, SENT)], tables.counts[(user, "PENDING")], len(tables.connections[user]))
    if counted != rows:
        wrong.append(f"user {user} has the counts {counted}, and {rows} in the table")
    listed = [connection.user.id for page in
              pages(connections.ListConnections, connections_pb2.ListConnectionsRequest(user_id=user))
              for connection in page.connections]
    if sorted(listed) != sorted(tables.connections[user]):
        wrong.append(f"user {user} has the connections {listed}, and {tables.connections[user]} in the table")
    return wrong


def lost_position(channel, history, epoch, revision):
    """Every use of a lost position is refused, and the error says where to go on."""
    connections, wrong = connections_grpc.ConnectionServiceStub(channel), []
    position = {"min_revision": revision, "min_revision_epoch": epoch}
    events = events_grpc.EventServiceStub(channel)
    calls = [(users_grpc.UserServiceStub(channel).GetUser, users_pb2.GetUserRequest(id=1, **position)),
             (connections.GetConnectionStatus,
              connections_pb2.GetConnectionStatusRequest(user_id=1, other_user_id=2, **position)),
             (connections.GetConnectionCounts, connections_pb2.GetConnectionCountsRequest(user_id=1, **position)),
             (connections.ListConnections, connections_pb2.ListConnectionsRequest(user_id=1, **position)),
             (events.ListEvents, events_pb2.ListEventsRequest(after_sequence=revision, epoch=epoch))]
    expected = history.common(epoch), history.newest
    for method, request in calls:
        try:
            ask(method, request)
            refused = "OK"
        except grpc.RpcError as error:
            refused = wrong_epoch(error) or f"{error.code().name}: {error.details()}"
        if refused != expected:
            wrong.append(f"{type(request).__name__} at {revision} of {epoch}: {refused}, not {expected}")
    return wrong
