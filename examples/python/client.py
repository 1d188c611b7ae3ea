"""Connects to Kith, retries calls, and decodes errors."""

import os
import random
import sys
import time
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

# A copy of it belongs beside your code.
SERVICE_CONFIG = Path(__file__).parent / "../../docs/service-config.json"
TIMEOUT = 10  # seconds, for one attempt
ATTEMPTS = 10  # of a call


class TokenFile(grpc.AuthMetadataPlugin):
    """Sends the token of a file. It is read for each call, since tokens expire and are replaced."""

    def __init__(self, path):
        self.path = Path(path)

    def __call__(self, context, callback):
        try:
            token = self.path.read_text().strip()
        except OSError as error:
            callback((), error)
        else:
            callback([("authorization", f"Bearer {token}")], None)


def connect():
    """Opens a channel to KITH_SERVER. `https://` is TLS, with the authorities of KITH_TLS_CA or the system's.

    KITH_TOKEN_FILE has an API key or a token. It is sent over TLS only.
    """
    scheme, _, address = os.environ.get("KITH_SERVER", "127.0.0.1:50051").rpartition("://")
    options = [
        # Retries reads, and balances over all addresses of the name.
        ("grpc.service_config", SERVICE_CONFIG.read_text()),
        # Notices a server that is gone without a word, also while a watch is silent.
        ("grpc.keepalive_time_ms", 30_000),
    ]
    token_file = os.environ.get("KITH_TOKEN_FILE")
    if scheme != "https":
        if token_file:
            raise SystemExit("KITH_TOKEN_FILE needs KITH_SERVER=https://…")
        return grpc.insecure_channel(address, options)
    authorities = os.environ.get("KITH_TLS_CA")
    credentials = grpc.ssl_channel_credentials(Path(authorities).read_bytes() if authorities else None)
    if token_file:
        token = grpc.metadata_call_credentials(TokenFile(token_file))
        credentials = grpc.composite_channel_credentials(credentials, token)
    return grpc.secure_channel(address, credentials, options)


def detail(error, kind):
    """Returns the detail of this type in an error of Kith, or an empty one."""
    found = kind()
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        if detail.Unpack(found):
            break
    return found


def error_info(error):
    """Returns the ErrorInfo of an error. Its `reason` is a name of the enum ErrorReason, or empty."""
    return detail(error, error_details_pb2.ErrorInfo)


def is_temporary(error):
    """Whether the same call may succeed later."""
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return True
    return error_info(error).reason in ("OVERLOADED", "RATE_LIMITED")


def retry(method, request):
    """Calls a method, again if it fails temporarily. A write needs a `request_id`: then it is made once only."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return method(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            if attempt == ATTEMPTS or not is_temporary(error):
                raise
            asked = detail(error, error_details_pb2.RetryInfo).retry_delay.ToTimedelta().total_seconds()
            pause = max(asked, min(0.1 * 2**attempt, 2) * random.uniform(0.5, 1))
            print(f"retrying in {pause:.1f} s: {error.code().name}", file=sys.stderr)
            time.sleep(pause)
