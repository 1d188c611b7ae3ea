"""Callers that repeat what failed for now."""

import time

import grpc
import load

# Seconds after which a call is repeated, and for which it is.
load.CALL_TIME = 5
PATIENCE = 120
PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}


class Patient(load.Load):
    async def call(self, method, request):
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await self.attempt(method, request)
            except grpc.aio.AioRpcError as error:
                if not self.is_passing(request, error) or time.monotonic() > deadline:
                    self.fail(type(request).__name__, error)
                    raise
            with self.shared.repeated.get_lock():
                self.shared.repeated.value += 1
            await load.asyncio.sleep(0.2)

    def is_passing(self, _request, error):
        """Whether the call may succeed if it is repeated."""
        return error.code() in PASSING
