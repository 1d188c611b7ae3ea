"""gRPC accepts docs/service-config.json, and does what it says: it retries reads, and nothing else."""

import concurrent.futures
import os

import grpc

from kith.v1.connection_request_service_pb2 import SendConnectionRequestRequest, SendConnectionRequestResponse
from kith.v1.connection_request_service_pb2_grpc import ConnectionRequestServiceStub
from kith.v1.connection_service_pb2 import ListConnectionsRequest, ListConnectionsResponse
from kith.v1.connection_service_pb2_grpc import ConnectionServiceStub

calls = []


class Failing(grpc.GenericRpcHandler):
    """Answers the first two calls of a method with UNAVAILABLE, and the third with an empty message."""

    def service(self, details):
        def answer(_, context):
            calls.append(details.method)
            if calls.count(details.method) < 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


def main():
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(), handlers=[Failing()])
    os.environ["KITH_SERVER"] = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    from client import connect

    with connect() as channel:
        # A call that retries has two seconds, in which a busy machine may not even connect.
        grpc.channel_ready_future(channel).result(timeout=60)
        assert ConnectionServiceStub(channel).ListConnections(ListConnectionsRequest()) == ListConnectionsResponse()
        assert len(calls) == 3, calls
        calls.clear()
        requests = ConnectionRequestServiceStub(channel)
        for attempt in (1, 2):
            try:
                requests.SendConnectionRequest(SendConnectionRequestRequest())
                raise AssertionError("it was retried")
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error
            assert len(calls) == attempt, calls
        assert requests.SendConnectionRequest(SendConnectionRequestRequest()) == SendConnectionRequestResponse()
    server.stop(None)


main()
