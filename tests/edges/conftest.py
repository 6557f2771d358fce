"""A worker's HTTP edge in this process, with the real model, and a client that speaks ASGI to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from phalanx.app import App, build, http_edge
from phalanx.cli.worker import call_here
from phalanx.contract.keys import ALL_SCOPES, CreateKeyRequest
from phalanx.contract.usage import UsageTotals
from phalanx.edges.http.app import HttpEdge
from phalanx.settings import load

T = TypeVar("T")


@dataclass
class Answer:
    """What the edge sent."""

    status: int
    headers: dict[str, str]
    body: bytes
    chunks: list[bytes] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Worker:
    """A worker in this process on a loop of its own, driven from synchronous tests."""

    def __init__(self, run: Callable[[Awaitable[Any]], Any], app: App, edge: HttpEdge) -> None:
        self._run = run
        self.app = app
        self.edge = edge
        self.keys: dict[str, str] = {}

    def run(self, work: Awaitable[T]) -> T:
        return self._run(work)  # type: ignore[no-any-return]

    def key(self, tier: str = "scale", scopes: tuple[str, ...] = ALL_SCOPES, email: str = "ann@example.org") -> str:
        """Make a key, once for each set of arguments."""
        known = f"{tier}{scopes}{email}"
        if known not in self.keys:
            request = CreateKeyRequest(email=email, tier=tier, scopes=scopes)  # type: ignore[arg-type]
            self.keys[known] = self.run(call_here(self.app, self.app.operations["keys.create"], request)).key
        return self.keys[known]

    def totals(self, organisation: str) -> UsageTotals:
        return self.run(self.app.usage.totals(organisation=organisation))

    def request(
        self,
        method: str,
        path: str,
        *,
        json_body: Any = None,
        body: bytes | list[bytes] | None = None,
        headers: dict[str, str] | None = None,
        key: str | None = "default",
        leave_after: int | None = None,
    ) -> Answer:
        """Send one request. `key` None sends none; `leave_after` closes the connection after so many chunks."""
        sent = {"content-type": "application/json", **(headers or {})}
        if key is not None:
            sent["authorization"] = f"Bearer {self.key() if key == 'default' else key}"
        parts = body if isinstance(body, list) else [json.dumps(json_body).encode() if body is None else body]
        if method in ("GET", "HEAD", "DELETE") and json_body is None and body is None:
            parts = [b""]
            sent.pop("content-type")
        return self.run(self._exchange(method, path, list(parts), sent, leave_after))

    def post(self, path: str, json_body: Any = None, **rest: Any) -> Answer:
        return self.request("POST", path, json_body=json_body, **rest)

    def get(self, path: str, **rest: Any) -> Answer:
        return self.request("GET", path, **rest)

    async def _exchange(
        self, method: str, path: str, parts: list[bytes], headers: dict[str, str], leave_after: int | None
    ) -> Answer:
        target, _, query = path.partition("?")
        scope = {
            "type": "http", "method": method, "path": target, "query_string": query.encode(), "client": ("192.0.2.7", 1),
            "headers": [(n.lower().encode(), v.encode("latin-1")) for n, v in headers.items()], "extensions": {},
        }  # fmt: skip
        waiting = [
            {"type": "http.request", "body": part, "more_body": i < len(parts) - 1} for i, part in enumerate(parts)
        ]
        answer = Answer(0, {}, b"")

        async def receive() -> dict[str, Any]:
            if waiting:
                return waiting.pop(0)
            await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {n.decode(): v.decode() for n, v in message["headers"]}
                return
            if message["body"]:
                answer.chunks.append(message["body"])
                if leave_after is not None and len(answer.chunks) >= leave_after:
                    raise asyncio.CancelledError

        try:
            await self.edge(scope, receive, send)
        except asyncio.CancelledError:
            if leave_after is None:
                raise
        answer.body = b"".join(answer.chunks)
        return answer


@pytest.fixture(scope="session")
def start_worker(text_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Worker]]:
    """Start workers with given environment variables; all are closed at the end of the session."""
    with asyncio.Runner() as runner:
        opened: list[Any] = []

        def start(**environ: str) -> Worker:
            folder = tmp_path_factory.mktemp("worker")
            loaded = load({"DATA_DIR": str(folder), "MODEL_DIR": str(text_models), **environ}, folder=folder)
            building = build(loaded.settings)
            app = runner.run(building.__aenter__())
            opened.append(building)
            runner.run(app.load_models())
            return Worker(runner.run, app, http_edge(app))  # type: ignore[arg-type]

        yield start
        for building in reversed(opened):
            runner.run(building.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def worker(start_worker: Callable[..., Worker], models_dir: Path) -> Worker:
    """One worker with all models and the default settings, but for the rate of strangers: every test of an open row comes from one address."""
    return start_worker(RATE_LIMIT_BURST="1000000", MODEL_DIR=str(models_dir))
