"""A worker as its user has it: a process, started by its command, spoken to over sockets."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from phalanx.app import build
from phalanx.cli.worker import call_here
from phalanx.contract.keys import CreateKeyRequest, CreateKeyResponse
from phalanx.settings import load
from servers.watchdog import watch

PHALANX = str(Path(sys.executable).parent / "phalanx")
START_S = 150.0


def make_key(
    environ: Mapping[str, str], folder: Path, email: str, *, tier: str = "scale", scopes: Sequence[str] = ("text",)
) -> CreateKeyResponse:
    """Make a key as `phalanx keys create` does with these surroundings, but in this process.

    To start a process for it is to compute for more than a second, as often as there are tests.
    """
    request = CreateKeyRequest(email=email, tier=tier, scopes=tuple(scopes))  # type: ignore[arg-type]

    async def make() -> CreateKeyResponse:
        async with build(load(environ, folder=folder).settings) as app:
            made: CreateKeyResponse = await call_here(app, app.operations["keys.create"], request)
            return made

    # The caller may have a loop already.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(make())).result()


class WorkerProcess:
    """A running worker. `environ` is all it knows of its surroundings; `command` is what serves."""

    def __init__(
        self,
        folder: Path,
        models_dir: Path,
        environ: dict[str, str],
        *,
        command: Sequence[str] = (PHALANX, "serve"),
        started: str = "listening",
    ) -> None:
        self.folder = folder
        self.log = folder / f"worker-{time.monotonic_ns()}.log"
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self.environ = {
            **kept, "DATA_DIR": str(folder), "MODEL_DIR": str(models_dir), "PORT": "0", "PROMETHEUS_BIND": "127.0.0.1:0",
            "LOG_FORMAT": "json", **environ,
        }  # fmt: skip
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(command, env=self.environ, stderr=out, stdout=out, cwd=folder)
        watch(self.process.pid)
        listening = self.wait_for_line(started)
        self.host, self.port = str(listening.get("host", "")), int(listening.get("port", 0))
        self.url = f"http://{self.host}:{self.port}"
        self.metrics_url = f"http://{listening['metrics_host']}:{listening['metrics_port']}/metrics"

    def lines(self) -> list[dict[str, Any]]:
        """The log so far, as objects."""
        found = []
        for line in self.log.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                found.append({"event": "text", "text": line})
        return found

    def wait_for_line(self, event: str) -> dict[str, Any]:
        """Wait for a log line."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            for line in self.lines():
                if line.get("event") == event:
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"no {event!r} in the worker's log:\n{self.log.read_text()[-4000:]}")

    def wait_ready(self) -> None:
        """Wait for /readyz."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.get("/readyz")[0] == 200:
                return
            time.sleep(0.05)
        raise AssertionError(f"the worker is not ready:\n{self.log.read_text()[-4000:]}")

    def key(self, email: str = "live@example.org", tier: str = "scale", scopes: tuple[str, ...] = ("text",)) -> str:
        """Make a key beside the running worker."""
        return make_key(self.environ, self.folder, email, tier=tier, scopes=scopes).key

    def run(self, *words: str) -> str:
        """Run another command with the worker's environment and return what it prints."""
        done = subprocess.run(
            [PHALANX, *words], env=self.environ, capture_output=True, check=False, text=True, cwd=self.folder
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, path: str, key: str | None = None) -> tuple[int, bytes]:
        """GET a path; returns status and body, 0 when nobody answers."""
        return self.ask("GET", path, key=key)

    def post(self, path: str, body: Any, key: str | None = None) -> tuple[int, bytes]:
        """POST JSON; returns status and body, 0 when nobody answers."""
        return self.ask("POST", path, body, key)

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, bytes]:
        """Send a request, with a body as JSON if there is one; returns status and body, 0 when nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        if key:
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
        except (urllib.error.URLError, ConnectionError, http.client.HTTPException):
            # The last one is of an answer that ends in its middle.
            return 0, b""

    def metrics(self) -> str:
        """The Prometheus text."""
        with urllib.request.urlopen(self.metrics_url, timeout=10) as answer:
            return str(answer.read().decode())

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        """End it in order; returns the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def kill(self) -> None:
        """End it at once, without a chance to write anything."""
        self.process.kill()
        self.process.wait()
