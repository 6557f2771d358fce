"""The stand-in for a Qdrant server as a process that can be killed and started again on the same data and port."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from servers.process import ServerProcess


class QdrantStandIn(ServerProcess):
    """One stand-in (see `qdrant_over_edge`); `url` is for QDRANT_URL."""

    def __init__(self, api_key: str = "") -> None:
        super().__init__()
        self.api_key = api_key

    @property
    def url(self) -> str:
        """The server's URL."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Serve this process's folder."""
        folder = self.folder / "collections"
        folder.mkdir(exist_ok=True)
        here = str(Path(__file__).parent.parent)
        script = f"import sys; sys.path.insert(0, {here!r}); from servers.qdrant_over_edge import main; main()"
        return [sys.executable, "-c", script, str(self.port), str(folder), self.api_key]

    def answers(self) -> bool:
        """Whether the port is open, which it is once the shards are."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                return True
        except OSError:
            return False


REAL_SERVER = os.environ.get("PHALANX_TEST_QDRANT", "")
"""The URL of a real Qdrant server to run the suite against besides, with `phalanx_` collections that may be dropped."""
