"""The least that can be served over gRPC: a constant answer by grpc.aio on uvloop. Yardstick for latencies."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from typing import Any

import grpc
import numpy as np

ANSWER = b"\0" * 1560
"""As many bytes as a vector of 384 numbers with its item."""
PATH = "/bare.Service/Answer"
CALLS, WARM_UP = 1000, 200


class Bare(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Reads one message and answers."""

    def service(self, handler_call_details: Any) -> Any:
        """Return what answers every method."""
        return grpc.stream_unary_rpc_method_handler(self._answer)

    async def _answer(self, messages: Any, context: Any) -> bytes:
        await context.read()
        return ANSWER


async def serve() -> None:
    """Serve until killed; the port is printed on the first line."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Bare(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


def bare_grpc_ms() -> float:
    """Return the p50 of one client of such a server, in milliseconds."""
    process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        with grpc.insecure_channel(f"127.0.0.1:{int(process.stdout.readline())}") as channel:
            call, took = channel.unary_unary(PATH), []
            for _ in range(CALLS + WARM_UP):
                began = time.perf_counter()
                call(b"Hello world", timeout=30.0)
                took.append((time.perf_counter() - began) * 1e3)
        return float(np.percentile(took[WARM_UP:], 50))
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    import uvloop

    sys.exit(asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serve()))
