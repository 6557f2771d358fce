"""A worker as its user has it: `phalanx serve`, in a process and a data folder of its own."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from measuring.cores import pinned
from measuring.model import models_dir
from measuring.proc import rss_mib

PHALANX = Path(sys.executable).parent / "phalanx"
PATIENCE_S = 60.0
HOST = "127.0.0.1"


class Worker:
    """A ready worker with a key of tier scale. Use it as a context manager: leaving drains it and removes its data.

    `cores` pins it; `environ` are further settings, `scope` is the keys', or several by comma. `start_s` are the seconds from starting the process until
    /readyz said yes. Requests are logged, to a file, as in production.
    """

    def __init__(
        self,
        *,
        cores: Sequence[int] | None = None,
        environ: Mapping[str, str] | None = None,
        scope: str = "text",
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="phalanx-bench-")
        self._path = Path(self._folder.name)
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self._environ = {
            **kept, "DATA_DIR": str(self._path), "MODEL_DIR": str(models_dir()), "PORT": "0", "LOG_FORMAT": "json",
            "PROMETHEUS_BIND": f"{HOST}:0", **(environ or {}),
        }  # fmt: skip
        self._scope = scope
        self.key = self.make_key("bench@example.org")
        self._cores = cores

    def __enter__(self) -> Worker:
        began = time.perf_counter()
        with pinned(self._cores), self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [PHALANX, "serve"], env=self._environ, cwd=self._path, stdout=log, stderr=log
            )
        try:
            self.port = self._await_port()
            while self.get("/readyz") != 200:
                self._require_alive(began, "ready")
                time.sleep(0.005)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.start_s = time.perf_counter() - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._folder.cleanup()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def log(self) -> Path:
        """What the worker wrote."""
        return self._path / "worker.log"

    @property
    def database(self) -> str:
        """The URL of its database."""
        return f"sqlite:///{self._path / 'phalanx.db'}"

    def make_key(self, email: str) -> str:
        """Make a key of tier scale for an organisation of this name, by the command."""
        scopes = [word for scope in self._scope.split(",") for word in ("--scope", scope)]
        words = [str(PHALANX), "keys", "create", email, "--tier", "scale", *scopes, "--json"]
        done = subprocess.run(words, env=self._environ, cwd=self._path, check=True, stdout=subprocess.PIPE, text=True)
        return str(json.loads(done.stdout)["key"])

    def rss_mib(self) -> float:
        """Return its resident memory in MiB. Raises `RuntimeError` when it has died."""
        if self._process.poll() is not None:
            raise RuntimeError(f"the worker ended with status {self._process.returncode}; {self._last_words()}")
        return rss_mib(self.pid)

    def get(self, path: str) -> int:
        """Return the status of a GET, 0 when nobody answers."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def stop(self) -> int:
        """Let it drain; returns its exit status. A second time does nothing."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _await_port(self) -> int:
        began = time.perf_counter()
        while True:
            for line in self.log.read_text().splitlines():
                if line.startswith("{") and line.endswith("}") and json.loads(line).get("event") == "listening":
                    return int(json.loads(line)["port"])
            self._require_alive(began, "listening")
            time.sleep(0.005)

    def _require_alive(self, began: float, state: str) -> None:
        if self._process.poll() is not None or time.perf_counter() - began > PATIENCE_S:
            raise RuntimeError(f"the worker is not {state}; {self._last_words()}")

    def _last_words(self) -> str:
        return f"the end of its log:\n{self.log.read_text()[-2000:]}"
