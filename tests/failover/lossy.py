"""Clients of a cluster whose failovers lose commits: they send epochs with positions, and do what the errors say."""

import collections
import random
import time
import uuid

import load
from google.protobuf import field_mask_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from load import (CONNECTED, REQUEST_SENT, connections_pb2, event_pb2, requests_pb2, user_pb2, users_grpc,
                  users_pb2)
from patient import Patient

NONE = load.connection_pb2.CONNECTION_STATUS_NONE
# What a write fails with if the write that it needs was lost.
MISSING = {"REQUEST_NOT_FOUND", "NOT_CONNECTED"}
# Seconds for which a former primary may be asked beside the new one.
STALE = 30


class Lost(Exception):
    """What the call needs was lost in a failover, or the server is at a former primary, which knows no later epoch."""


class Missing(Exception):
    """What the call needs is not in the database that was asked."""


def info(error):
    """Returns the reason and the metadata of an error."""
    status = rpc_status.from_call(error)
    for packed in status.details if status else []:
        found = error_details_pb2.ErrorInfo()
        if packed.Unpack(found):
            return found.reason, dict(found.metadata)
    return "", {}


def wrong_epoch(error):
    """Returns the common sequence, which may be None, and the newest epoch, or None if it is another error."""
    reason, metadata = info(error)
    if reason != "WRONG_EPOCH":
        return None
    common = metadata.get("common_sequence")
    return common and int(common), metadata["epoch"]


class Lossy(Patient):
    """Callers that note every acknowledged write and every read at a position, to be judged afterwards."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.users = users_grpc.UserServiceStub(self.channel)
        self.changes = collections.Counter()
        self.acknowledged, self.reads, self.refusals, self.wrong = [], [], [], []

    def is_passing(self, request, error):
        refused = wrong_epoch(error)
        if refused:
            common, newest = refused
            epoch, revision = request.min_revision_epoch, request.min_revision
            self.refusals.append((epoch, revision, common, newest))
            raise Lost
        if info(error)[0] in MISSING:
            raise Missing
        return super().is_passing(request, error)

    async def write(self, kind, pair, method, request, after=None):
        """Makes a write and notes its position. `after` is the response to the write without which it fails."""
        request.request_id = str(uuid.uuid4())
        deadline = time.monotonic() + STALE
        while True:
            try:
                response = await self.call(method, request)
                break
            except Missing:
                await self.read_status(*pair, after)
                if time.monotonic() > deadline:
                    raise load.Wrong(f"{kind} of {pair} is refused, and nothing was lost") from None
        has_id = "connection_request" in response.DESCRIPTOR.fields_by_name
        request_id = response.connection_request.id if has_id else None
        self.changes[kind] += 1
        self.acknowledged.append((kind, pair, response.epoch, response.revision, request_id))
        return response

    async def read(self, method, request, after):
        """Makes a read that must reflect a response."""
        request.min_revision, request.min_revision_epoch = after.revision, after.epoch
        response = await self.call(method, request)
        self.reads.append((after.epoch, after.revision, response.epoch, response.revision))
        return response

    async def read_status(self, user, other, after):
        request = connections_pb2.GetConnectionStatusRequest(user_id=user, other_user_id=other)
        return await self.read(self.connections.GetConnectionStatus, request, after)

    async def expect_status(self, user, other, status, after):
        response = await self.read_status(user, other, after)
        if response.status != status:
            raise load.Wrong(f"the status of {user} to {other} is {response.status} in {response.epoch} at "
                             f"{response.revision}, not {status}, after {after.revision} of {after.epoch}")

    async def story(self, sender, receiver):
        try:
            await self.events_between(sender, receiver)
        except Lost:
            # Which of the writes were lost is known when all epochs are.
            pass
        except load.Wrong as wrong:
            self.wrong.append(str(wrong))

    async def events_between(self, sender, receiver):
        pair = (sender, receiver)
        sent = await self.write("REQUEST_CREATED", pair, self.requests.SendConnectionRequest,
                                requests_pb2.SendConnectionRequestRequest(from_user_id=sender, to_user_id=receiver,
                                                                          message="Hello"))
        request_id = sent.connection_request.id
        await self.expect_status(sender, receiver, REQUEST_SENT, sent)
        end = random.random()
        if end < 0.1:
            return
        if end < 0.2:
            await self.write("REQUEST_REJECTED", pair, self.requests.RejectConnectionRequest,
                             requests_pb2.RejectConnectionRequestRequest(id=request_id, user_id=receiver), sent)
            return
        accepted = await self.write("CONNECTION_CREATED", pair, self.requests.AcceptConnectionRequest,
                                    requests_pb2.AcceptConnectionRequestRequest(id=request_id, user_id=receiver), sent)
        await self.expect_status(receiver, sender, CONNECTED, accepted)
        if end > 0.9:
            removed = await self.write("CONNECTION_REMOVED", pair, self.connections.RemoveConnection,
                                       connections_pb2.RemoveConnectionRequest(user_id=sender, other_user_id=receiver),
                                       accepted)
            await self.expect_status(sender, receiver, NONE, removed)
        elif end > 0.6:
            await self.update(sender)

    async def update(self, user):
        """Changes a user, whom servers keep in memory."""
        request = users_pb2.UpdateUserRequest(user=user_pb2.User(id=user, bio=str(uuid.uuid4())),
                                              update_mask=field_mask_pb2.FieldMask(paths=["bio"]))
        updated = await self.write("USER_UPDATED", (user, 0), self.users.UpdateUser, request)
        await self.read(self.users.GetUser, users_pb2.GetUserRequest(id=user), updated)

    def report(self):
        return {**super().report(), "acknowledged": self.acknowledged, "reads": self.reads, "refusals": self.refusals,
                "wrong": self.wrong}


class Consumer(load.Watcher):
    """A consumer of the feed that throws away what was lost."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.events, self.told, self.wrong = [], [], []

    def is_at_the_end(self):
        return super().is_at_the_end() and self.epoch == self.load.shared.end_epoch.value.decode()

    def receive(self, events):
        at = self.revision
        for event in events:
            if event.sequence <= at or not self.kinds and event.sequence != at + 1:
                self.wrong.append(f"a watcher received event {event.sequence} after {at}")
            at = event.sequence
            kind = event_pb2.EventKind.Name(event.kind).removeprefix("EVENT_KIND_")
            self.events.append((event.sequence, kind, event.user_id, event.other_user_id, event.connection_request_id))

    def ended(self, error):
        refused = wrong_epoch(error)
        if not refused:
            super().ended(error)
            return
        common, newest = refused
        received = self.events[-1][0] if self.events else 0
        self.told.append((self.epoch, self.revision, common, newest, received))
        if common is None:
            # As if the database were another one.
            self.events.clear()
            self.revision, self.epoch = self.load.shared.start.value, ""
            return
        while self.events and self.events[-1][0] > common:
            self.events.pop()
        self.revision, self.epoch = common, newest

    def report(self):
        return {**super().report(), "events": self.events, "told": self.told, "wrong": self.wrong}


def main(number, target, config, shared, results):
    """Runs in a process of its own."""
    load.Load, load.Watcher = Lossy, Consumer
    load.main(number, target, config, shared, results)
