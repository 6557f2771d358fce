"""The least that can be served over HTTP: a constant answer. Yardstick for latencies, and check of the generator."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

BODY = b'{"embedding":[' + b"0.12345678," * 383 + b'0.12345678],"tokens":4,"cached":false,"model":"none"}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Trivial(asyncio.Protocol):
    """Answers whatever arrives in one piece as one request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer."""
        self._transport.write(ANSWER)


async def serve() -> None:
    """Serve until killed; the port is printed on the first line."""
    server = await asyncio.get_running_loop().create_server(Trivial, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    sys.exit(uvloop.run(serve()))
