"""Sends two connection requests, accepts them, and lists the connections page by page."""

import uuid

import grpc

from client import connect, error_info, retry
from kith.v1.connection_pb2 import ConnectionStatus
from kith.v1.connection_request_service_pb2 import AcceptConnectionRequestRequest, SendConnectionRequestRequest
from kith.v1.connection_request_service_pb2_grpc import ConnectionRequestServiceStub
from kith.v1.connection_service_pb2 import ListConnectionsRequest
from kith.v1.connection_service_pb2_grpc import ConnectionServiceStub
from kith.v1.user_pb2 import User
from kith.v1.user_service_pb2 import CreateUserRequest
from kith.v1.user_service_pb2_grpc import UserServiceStub


def request_id():
    """An id for one write. Retries have the same, so the write is made once, and each attempt returns its response."""
    return str(uuid.uuid4())


def create_user(users, name):
    user = User(username=f"{name}-{uuid.uuid4().hex[:8]}")
    return retry(users.CreateUser, CreateUserRequest(user=user, request_id=request_id())).user.id


def send(requests, sender, receiver):
    """Sends a request, or returns the id of the one that is already open."""
    request = SendConnectionRequestRequest(
        from_user_id=sender, to_user_id=receiver, message="Hi!", request_id=request_id()
    )
    try:
        sent = retry(requests.SendConnectionRequest, request)
    except grpc.RpcError as error:
        info = error_info(error)
        if info.reason != "REQUEST_PENDING":
            raise
        print(f"{info.reason}: request {info.metadata['connection_request_id']}")
        return int(info.metadata["connection_request_id"])
    print(f"{sender} -> {receiver}: request {sent.connection_request.id}, {ConnectionStatus.Name(sent.status)}")
    return sent.connection_request.id


def accept(requests, id, receiver):
    request = AcceptConnectionRequestRequest(id=id, user_id=receiver, request_id=request_id())
    accepted = retry(requests.AcceptConnectionRequest, request)
    print(f"{receiver} accepts {id}: {ConnectionStatus.Name(accepted.status)}")


def connections(service, user):
    """Yields the connections of a user, newest first. The service config retries the calls."""
    request = ListConnectionsRequest(user_id=user, page_size=1)  # small, to have two pages
    while True:
        page = service.ListConnections(request)
        yield from page.connections
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def main():
    with connect() as channel:
        users = UserServiceStub(channel)
        requests = ConnectionRequestServiceStub(channel)
        ann, bob, cy = (create_user(users, name) for name in ("ann", "bob", "cy"))
        for other in (bob, cy):
            send(requests, ann, other)
            id = send(requests, ann, other)
            accept(requests, id, other)
        for connection in connections(ConnectionServiceStub(channel), ann):
            print(f"{ann} is connected with {connection.user.id}")


if __name__ == "__main__":
    main()
