"""PostgreSQL without fsync: what is committed survives a killed process, though not a power failure, and tests are fast."""

from __future__ import annotations

import itertools
import signal
import subprocess
from pathlib import Path

from servers.process import ServerProcess, program, run_as

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


class PostgresServer(ServerProcess):
    """One PostgreSQL cluster, with any number of databases. The superuser is `postgres`, trusted on the loopback."""

    account = "postgres"
    end = signal.SIGQUIT  # A killed one leaves a segment of shared memory, which the system has few of.

    def __init__(self) -> None:
        super().__init__()
        self._data = self.folder / "data"
        self._numbers = itertools.count(1)
        run_as(
            self.user, program("initdb", *BINARIES), "--pgdata", str(self._data), "--auth", "trust", "--username",
            "postgres", "--encoding", "UTF8", "--locale", "C", "--no-sync", cwd=self.folder,
        )  # fmt: skip

    def command(self) -> list[str]:
        """Listen on the loopback only."""
        options = {
            "port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder, "fsync": "off",
            "max_connections": 300, "shared_buffers": "32MB", "full_page_writes": "off",
        }  # fmt: skip
        words = [program("postgres", *BINARIES), "-D", str(self._data)]
        return words + [word for name, value in options.items() for word in ("-c", f"{name}={value}")]

    def answers(self) -> bool:
        """Whether connections are taken."""
        ready = [program("pg_isready", *BINARIES), "-q", "-h", "127.0.0.1", "-p", str(self.port), "-t", "1"]
        return subprocess.run(ready, check=False).returncode == 0

    def url(self, database: str = "postgres") -> str:
        """Return a database's URL, for DATABASE_URL."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, *, template: str = "template1") -> str:
        """Make a new database, empty or a copy of another one, and return its URL."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def execute(self, statement: str, database: str = "postgres") -> str:
        """Run one statement with psql and return what it prints."""
        words = [program("psql", *BINARIES), "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database]
        return subprocess.run(
            [*words, "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", statement], check=True, capture_output=True, text=True
        ).stdout.strip()
