"""Redis with an append-only file that the system syncs when it likes: every write is in it before it is acknowledged, so
a kill loses nothing, though a power failure would, and no test waits for the disk."""

from __future__ import annotations

import socket

from servers.process import ServerProcess, program


class RedisServer(ServerProcess):
    """One Redis server; `url` is for REDIS_URL."""

    def __init__(self, *options: str) -> None:
        super().__init__()
        self._options = options

    @property
    def url(self) -> str:
        """The server's URL, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """Listen on the loopback, keep everything."""
        fixed = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--daemonize", "no"]
        keep = ["--save", "", "--appendonly", "yes", "--appendfsync", "no", "--maxmemory-policy", "noeviction"]
        return [program("redis-server"), *fixed, *keep, *self._options]

    def answers(self) -> bool:
        """Whether PING is answered, which it is not while the file is being read."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def flush(self) -> None:
        """Forget everything: counters are kept by organisation, and another installation may have used the same names."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as connection:
            connection.sendall(b"FLUSHALL\r\n")
            answer = connection.recv(64)
        if not answer.startswith(b"+OK"):
            raise RuntimeError(f"FLUSHALL: {answer!r}")
