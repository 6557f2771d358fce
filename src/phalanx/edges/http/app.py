"""The HTTP edge as an ASGI application: find the endpoint, let it answer, word what fails, log and count once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from phalanx.edges.http.dialects import Dialect
from phalanx.edges.http.dialects.ollama import OLLAMA
from phalanx.edges.http.dialects.openai import OPENAI
from phalanx.edges.http.dialects.smally import SMALLY
from phalanx.edges.http.dialects.tei import TEI
from phalanx.edges.http.endpoints import DialectEndpoint, OperationEndpoint
from phalanx.edges.http.exchange import ClientLeft, Exchange, Receive, Scope, Send
from phalanx.edges.http.problems import problem_body
from phalanx.edges.http.routes import Endpoint, Routes
from phalanx.errors import Cancelled, Internal, PhalanxError
from phalanx.operations import Entrance, Operation
from phalanx.telemetry import Log, Metrics, RequestLog

DIALECTS: tuple[Dialect, ...] = (SMALLY, OPENAI, TEI, OLLAMA)


class HttpEdge:
    """See the module. `system` are endpoints outside the table: probes, documents."""

    def __init__(
        self,
        entrance: Entrance,
        operations: Mapping[str, Operation],
        *,
        system: Iterable[tuple[str, str, Endpoint]],
        metrics: Metrics,
        log: Log,
        requests: RequestLog | None = None,
        max_body_bytes: int,
        request_id_header: str = "X-Request-Id",
        on_finished: Callable[[str, str, float], None] = lambda operation, code, ms: None,
    ) -> None:
        self._log = log
        self._requests = requests or RequestLog(log)
        self._metrics = metrics
        self._request_id_header = request_id_header.lower().encode()
        self._on_finished = on_finished
        self._children: dict[tuple[str, str, str], tuple[Any, Any]] = {}
        self._draining = False
        self.routes = Routes()
        adopted = {name: dialect for dialect in DIALECTS for name in dialect.adopts}
        for row in operations.values():
            answer = OperationEndpoint(entrance, row, max_body_bytes=max_body_bytes)
            dialect = adopted.get(row.name)
            envelope = dialect.envelope if dialect else problem_body
            self.routes.add(row.method, row.path, Endpoint(row.path, answer, row.name, "canonical", envelope))
        for dialect in DIALECTS:
            for route in dialect.routes:
                speak = DialectEndpoint(entrance, route, operations[route.operation], max_body_bytes=max_body_bytes)
                endpoint = Endpoint(route.path, speak, route.operation, dialect.name, dialect.envelope)
                self.routes.add(route.method, route.path, endpoint)
        for method, path, endpoint in system:
            self.routes.add(method, path, endpoint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send, self._request_id_header)
        listen = scope.get("extensions", {}).get("phalanx", {}).get("on_disconnect")
        if listen is not None:
            task = asyncio.current_task()
            assert task is not None
            listen(task.cancel)
        try:
            await self._answer(exchange)
        finally:
            self._finish(exchange)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            endpoint, params = self.routes.find(exchange.method, exchange.path)
            exchange.route, exchange.operation = endpoint.route, endpoint.operation
            exchange.dialect, exchange.envelope = endpoint.dialect, endpoint.envelope
            await endpoint.answer(exchange, params)
        except PhalanxError as error:
            await self._fail(exchange, error)
        except (ClientLeft, asyncio.CancelledError) as left:
            exchange.tag = Cancelled.row.code
            if isinstance(left, asyncio.CancelledError):
                raise
        except Exception as bug:
            self._log.error("bug", request_id=exchange.request_id, route=exchange.route, exc_info=bug)
            await self._fail(exchange, Internal())

    async def _fail(self, exchange: Exchange, error: PhalanxError) -> None:
        if exchange.started:
            # The head is out; breaking the connection is the one way left to say that the answer is not whole.
            exchange.tag = error.code
            raise ConnectionResetError(f"the answer broke off: {error.code}")
        await exchange.fail(error)

    def _finish(self, exchange: Exchange) -> None:
        line = exchange.log_line()
        labels = (exchange.operation or exchange.route or "none", exchange.dialect or "system", exchange.tag)
        children = self._children.get(labels)
        if children is None:
            children = self._children[labels] = (
                self._metrics.counter("phalanx_requests", *labels),
                self._metrics.histogram("phalanx_request_seconds", labels[0]),
            )
        children[0].inc()
        children[1].observe(line["ms"] / 1e3)
        if exchange.operation:
            self._on_finished(exchange.operation, exchange.tag, line["ms"])
        # Probes and documents are asked for all day long.
        self._requests.write(line, debug=not exchange.operation and exchange.status < 400)
