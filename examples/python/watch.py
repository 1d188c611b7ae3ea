"""Follows the feed of events, and resumes where it ended before."""

import json
import os
import time
from pathlib import Path

import grpc

from client import connect, error_info, is_temporary, retry
from kith.v1.event_pb2 import EventKind
from kith.v1.event_service_pb2 import WatchEventsRequest
from kith.v1.event_service_pb2_grpc import EventServiceStub
from kith.v1.user_service_pb2 import ListUsersRequest
from kith.v1.user_service_pb2_grpc import UserServiceStub

CURSOR = Path(os.environ.get("KITH_CURSOR", "kith-cursor.json"))


def load():
    """Returns the stored cursor, or None."""
    try:
        return json.loads(CURSOR.read_text())
    except FileNotFoundError:
        return None


def store(revision, epoch):
    """Replaces the cursor, in one step. Store it in the transaction of what `handle` writes, if it has one."""
    new = CURSOR.with_suffix(".new")
    new.write_text(json.dumps({"revision": revision, "epoch": epoch}))
    new.replace(CURSOR)


def begin(channel):
    """Lists what is there before the first event. What changes meanwhile is an event after the first page."""
    users = UserServiceStub(channel)
    request = ListUsersRequest(page_size=1000)
    count, revision, epoch = 0, None, ""
    while True:
        page = retry(users.ListUsers, request)
        count += len(page.users)
        if revision is None:
            revision, epoch = page.revision, page.epoch
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    print(f"listed {count} users at revision {revision}", flush=True)
    return {"revision": revision, "epoch": epoch}


def handle(event):
    """Handles an event. It comes again if the program ends before the cursor is stored."""
    print(f"{event.sequence} {EventKind.Name(event.kind)} {event.user_id} {event.other_user_id}", flush=True)


def watch(channel, cursor):
    """Handles events until the stream ends."""
    request = WatchEventsRequest(after_sequence=cursor["revision"], epoch=cursor["epoch"])
    for message in EventServiceStub(channel).WatchEvents(request):
        # The first message has no events, nor has one that is sent because nothing happens: how far the feed was read.
        for event in message.events:
            handle(event)
        store(message.revision, message.epoch)


def main():
    with connect() as channel:
        while True:
            try:
                watch(channel, load() or begin(channel))
            except grpc.RpcError as error:
                if error_info(error).reason in ("CURSOR_EXPIRED", "WRONG_EPOCH"):
                    print(f"{error_info(error).reason}: listing again", flush=True)
                    CURSOR.unlink(missing_ok=True)
                elif not is_temporary(error):
                    raise
                else:
                    time.sleep(1)


if __name__ == "__main__":
    main()
