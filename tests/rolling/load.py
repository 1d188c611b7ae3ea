"""One process of clients: callers that write and read, and watchers of the feed."""

import asyncio
import itertools
import random
import time
import uuid

import grpc

from kith.v1 import (connection_pb2, connection_request_service_pb2 as requests_pb2,
                     connection_request_service_pb2_grpc as requests_grpc,
                     connection_service_pb2 as connections_pb2, connection_service_pb2_grpc as connections_grpc,
                     event_pb2, event_service_pb2 as events_pb2, event_service_pb2_grpc as events_grpc, user_pb2,
                     user_service_pb2 as users_pb2, user_service_pb2_grpc as users_grpc)

CALLERS = 32
# Users of one process. Each pair of them is used once.
USERS = 1_000
CALL_TIME = 20
REQUEST_SENT = connection_pb2.CONNECTION_STATUS_REQUEST_SENT
CONNECTED = connection_pb2.CONNECTION_STATUS_CONNECTED
# What the filtered watcher receives.
KIND = event_pb2.EVENT_KIND_CONNECTION_CREATED


def seed(target, users):
    """Creates the users 1, 2, … of all processes."""
    rows = (users_pb2.ImportUsersRequest(user=user_pb2.User(id=number, username=f"user-{number}"))
            for number in range(1, users + 1))
    with grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
        created = users_grpc.UserServiceStub(channel).ImportUsers(rows).created
    if created != users:
        raise RuntimeError(f"{created} of {users} users were created")


class Wrong(Exception):
    """A response that is not what the calls before it lead to."""


class Load:
    """The callers and watchers of a process, and what they saw."""

    def __init__(self, number, target, config, shared):
        self.shared = shared
        self.number = number
        # Of several addresses, gRPC in C makes one authority that no server of HTTP/2 accepts.
        options = [("grpc.service_config", config), ("grpc.enable_retries", 1), ("grpc.enable_http_proxy", 0),
                   ("grpc.default_authority", "kith")]
        self.channel = grpc.aio.insecure_channel(target, options)
        self.requests = requests_grpc.ConnectionRequestServiceStub(self.channel)
        self.connections = connections_grpc.ConnectionServiceStub(self.channel)
        self.events = events_grpc.EventServiceStub(self.channel)
        first = 1 + number * USERS
        # (1, 2), (2, 3), … (1, 3), (2, 4), …
        self.pairs = ((first + one, first + (one + step) % USERS)
                      for step, one in itertools.product(range(1, USERS // 2), range(USERS)))
        self.next_call = time.monotonic()
        # Of each pair that was written to: the id of its request and its state, or None if a call failed.
        self.outcomes = {}
        self.changes = {"sent": 0, "accepted": 0, "rejected": 0, "removed": 0}
        self.failures = []
        self.watchers = []

    async def attempt(self, method, request):
        """Makes a call when it is due at the rate."""
        rate = self.shared.rate.value
        if rate > 0:
            now = time.monotonic()
            self.next_call = max(self.next_call + 1 / rate, now)
            await asyncio.sleep(self.next_call - now)
        response = await method(request, timeout=CALL_TIME)
        self.shared.calls[self.number] += 1
        return response

    async def call(self, method, request):
        """Makes a call, an error of which is a failure."""
        try:
            return await self.attempt(method, request)
        except grpc.aio.AioRpcError as error:
            self.fail(type(request).__name__, error)
            raise

    def fail(self, call, error):
        self.failures.append({"time": time.time(), "call": call, "code": error.code().name,
                              "details": error.details(), "debug": error.debug_error_string()})
        self.shared.failed[self.number] += 1

    async def expect_status(self, user, other, status, revision):
        """Reads a status, from any server, at or after a revision."""
        request = connections_pb2.GetConnectionStatusRequest(user_id=user, other_user_id=other, min_revision=revision)
        response = await self.call(self.connections.GetConnectionStatus, request)
        if response.status != status:
            raise Wrong(f"the status of {user} to {other} is {response.status}, not {status}, after {revision}")

    async def story(self, sender, receiver):
        """What happens between two users."""
        pair = (min(sender, receiver), max(sender, receiver))
        self.outcomes[pair] = None
        key = lambda: str(uuid.uuid4())
        sent = await self.call(self.requests.SendConnectionRequest, requests_pb2.SendConnectionRequestRequest(
            from_user_id=sender, to_user_id=receiver, message="Hello", request_id=key()))
        request_id = sent.connection_request.id
        self.changes["sent"] += 1
        await self.expect_status(sender, receiver, REQUEST_SENT, sent.revision)
        end = random.random()
        if end < 0.1:
            self.outcomes[pair] = (request_id, "PENDING")
        elif end < 0.2:
            await self.call(self.requests.RejectConnectionRequest, requests_pb2.RejectConnectionRequestRequest(
                id=request_id, user_id=receiver, request_id=key()))
            self.changes["rejected"] += 1
            self.outcomes[pair] = (request_id, "REJECTED")
        else:
            accepted = await self.call(self.requests.AcceptConnectionRequest,
                                       requests_pb2.AcceptConnectionRequestRequest(
                                           id=request_id, user_id=receiver, request_id=key()))
            self.changes["accepted"] += 1
            await self.expect_status(receiver, sender, CONNECTED, accepted.revision)
            if end < 0.9:
                await self.call(self.connections.ListConnections,
                                connections_pb2.ListConnectionsRequest(user_id=sender))
                self.outcomes[pair] = (request_id, "CONNECTED")
            else:
                await self.call(self.connections.RemoveConnection, connections_pb2.RemoveConnectionRequest(
                    user_id=sender, other_user_id=receiver, request_id=key()))
                self.changes["removed"] += 1
                self.outcomes[pair] = (None, "ABSENT")

    async def caller(self):
        while not self.shared.stop.is_set():
            try:
                await self.story(*next(self.pairs))
            except grpc.aio.AioRpcError:
                # It is among the failures.
                continue

    async def run(self):
        self.watchers = [Watcher(self, []), Watcher(self, []), Watcher(self, [KIND])]
        watching = [asyncio.ensure_future(watcher.follow()) for watcher in self.watchers]
        callers = [asyncio.ensure_future(self.caller()) for _ in range(CALLERS)]
        await asyncio.gather(*callers)
        self.shared.idle.release()
        # The watchers go on until they have seen the end of the feed.
        await asyncio.to_thread(self.shared.end_known.wait)
        await asyncio.wait_for(asyncio.gather(*watching), 60)
        await self.channel.close()

    def report(self):
        return {"outcomes": self.outcomes, "changes": self.changes, "failures": self.failures,
                "watchers": [watcher.report() for watcher in self.watchers]}


class Watcher:
    """A consumer of the feed that resumes from its cursor."""

    def __init__(self, load, kinds):
        self.load, self.kinds = load, kinds
        # The cursor.
        self.revision, self.epoch = load.shared.start.value, ""
        self.sequences = []
        self.ends = {}
        self.attempts = 0

    async def follow(self):
        while not self.is_at_the_end():
            try:
                request = events_pb2.WatchEventsRequest(after_sequence=self.revision, epoch=self.epoch, kinds=self.kinds)
                # Short, so that the end of the trial is noticed.
                request.heartbeat_interval.FromMilliseconds(1_000)
                self.attempts += 1
                async for message in self.load.events.WatchEvents(request):
                    self.receive(message.events)
                    self.revision, self.epoch = message.revision, message.epoch
                    if self.is_at_the_end():
                        return
            except grpc.aio.AioRpcError as error:
                words = f"{error.code().name}: {error.details()}"
                self.ends[words] = self.ends.get(words, 0) + 1
                self.ended(error)
                await asyncio.sleep(0.05)

    def is_at_the_end(self):
        shared = self.load.shared
        return shared.end_known.is_set() and self.revision >= shared.end.value

    def receive(self, events):
        self.sequences.extend(event.sequence for event in events)

    def ended(self, error):
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            self.load.fail("WatchEvents", error)

    def report(self):
        return {"kinds": list(self.kinds), "sequences": self.sequences, "attempts": self.attempts, "ends": self.ends}


def main(number, target, config, shared, results):
    """Runs in a process of its own."""

    async def run():
        load = Load(number, target, config, shared)
        try:
            await load.run()
        finally:
            results.put(load.report())

    asyncio.run(run())
