"""The HTTP edge as an ASGI application: find the endpoint, let it answer, word what fails, log and count once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from phalanx.edges.fields import fold
from phalanx.edges.http.cors import Cors
from phalanx.edges.http.dialects import Dialect
from phalanx.edges.http.dialects.aurum import AURUM
from phalanx.edges.http.dialects.ollama import OLLAMA
from phalanx.edges.http.dialects.openai import OPENAI
from phalanx.edges.http.dialects.smally import SMALLY
from phalanx.edges.http.dialects.tei import TEI
from phalanx.edges.http.endpoints import DialectEndpoint, OperationEndpoint
from phalanx.edges.http.exchange import ClientLeft, Exchange, Receive, Scope, Send
from phalanx.edges.http.problems import problem_body
from phalanx.edges.http.proxies import TrustedProxies
from phalanx.edges.http.routes import Answer, Endpoint, Routes
from phalanx.edges.http.security import HSTS, HttpsOnly
from phalanx.edges.http.system import PROBES
from phalanx.errors import Cancelled, Internal, NotFound, PhalanxError
from phalanx.operations import Entrance, Operation
from phalanx.telemetry import Log, Metrics, RequestLog


def spoken(operations: Mapping[str, Operation]) -> tuple[Dialect, ...]:
    """Return the dialects with those of their routes whose row is among the operations."""
    return tuple(
        dialect._replace(routes=tuple(route for route in dialect.routes if route.operation in operations))
        for dialect in DIALECTS
    )


DIALECTS: tuple[Dialect, ...] = (SMALLY, OPENAI, TEI, OLLAMA, AURUM)


class HttpEdge:
    """See the module. `system` are endpoints outside the table: probes, documents. `max_body_bytes` is the limit of each row.

    `proxies` are those whose word on callers is taken, `https` sends away who comes in clear, `cors` says which web pages
    may call; where one is None nothing is spent on it. `elsewhere` are rows that this worker does not serve: who asks is told
    which service has them.
    """

    def __init__(
        self,
        entrance: Entrance,
        operations: Mapping[str, Operation],
        *,
        system: Iterable[tuple[str, str, Endpoint]],
        elsewhere: Mapping[str, Operation] | None = None,
        metrics: Metrics,
        log: Log,
        requests: RequestLog | None = None,
        max_body_bytes: Callable[[Operation], int],
        proxies: TrustedProxies | None = None,
        https: HttpsOnly | None = None,
        cors: Cors | None = None,
        request_id_header: str = "X-Request-Id",
        on_finished: Callable[[str, str, float], None] = lambda operation, code, ms: None,
    ) -> None:
        self._log = log
        self._requests = requests or RequestLog(log)
        self._metrics = metrics
        self._request_id_header = request_id_header.lower().encode()
        self._on_finished = on_finished
        self._children: dict[tuple[str, str, str], tuple[Any, Any]] = {}
        self._proxies = proxies
        self._https = https
        self.cors = cors
        self.routes = Routes()
        adopted = {name: dialect for dialect in DIALECTS for name in dialect.adopts}
        for row in operations.values():
            answer = OperationEndpoint(entrance, row, max_body_bytes=max_body_bytes(row))
            dialect = adopted.get(row.name)
            envelope = dialect.envelope if dialect else problem_body
            self.routes.add(row.method, row.path, Endpoint(row.path, answer, row.name, "canonical", envelope))
        for dialect in spoken(operations):
            for route in dialect.routes:
                row = operations[route.operation]
                speak = DialectEndpoint(entrance, route, row, max_body_bytes=max_body_bytes(row))
                endpoint = Endpoint(route.path, speak, route.operation, dialect.name, dialect.envelope)
                self.routes.add(route.method, route.path, endpoint)
        for method, path, endpoint in system:
            self.routes.add(method, path, endpoint)
        self._add_elsewhere(elsewhere or {})

    def _add_elsewhere(self, rows: Mapping[str, Operation]) -> None:
        for row in rows.values():
            self.routes.add(row.method, row.path, Endpoint(row.path, _refusal(row), row.name, "canonical"))
        for dialect in spoken(rows):
            for route in dialect.routes:
                refuse = _refusal(rows[route.operation])
                endpoint = Endpoint(route.path, refuse, route.operation, dialect.name, dialect.envelope)
                self.routes.add(route.method, route.path, endpoint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send, self._request_id_header)
        scope.get("extensions", {}).get("phalanx", {})["cancelled_on_disconnect"] = True
        try:
            await self._answer(exchange)
        finally:
            self._finish(exchange)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            self._identify(exchange)
            if await self._answered_at_the_door(exchange):
                return
            endpoint, params = self.routes.find(exchange.method, exchange.path)
            exchange.route, exchange.operation = endpoint.route, endpoint.operation
            exchange.dialect, exchange.envelope = endpoint.dialect, endpoint.envelope
            await endpoint.answer(exchange, params)
        except PhalanxError as error:
            if not exchange.route and not isinstance(error, NotFound):
                # Refused at the door, in the words of the route that was asked for.
                with suppress(NotFound):
                    exchange.envelope = self.routes.find(exchange.method, exchange.path).endpoint.envelope
            await self._fail(exchange, error)
        except (ClientLeft, asyncio.CancelledError) as left:
            exchange.tag = Cancelled.row.code
            if isinstance(left, asyncio.CancelledError):
                raise
        except Exception as bug:
            self._log.error("bug", request_id=exchange.request_id, route=exchange.route, exc_info=bug)
            await self._fail(exchange, Internal())

    def _identify(self, exchange: Exchange) -> None:
        """Settle who sent the request, over what, and for which page."""
        if self.cors is not None:
            exchange.extra = self.cors.answer(exchange.headers.get(b"origin"))
        fields = exchange.scope["headers"]
        if len(exchange.headers) != len(fields):
            exchange.headers = fold(fields)
        if self._proxies is not None:
            sender = self._proxies.sender(exchange.peer, exchange.is_secure, exchange.headers)
            exchange.address, exchange.is_secure = sender
        if self._https is not None and exchange.is_secure:
            exchange.extra = (*exchange.extra, HSTS)

    async def _answered_at_the_door(self, exchange: Exchange) -> bool:
        """Answer what comes in clear and may not, and preflights: neither needs a credential. Return whether it did."""
        if self._https is not None and not exchange.is_secure and exchange.path not in PROBES:
            location = self._https.redirection(exchange.scope, exchange.headers)
            await exchange.respond_empty(308, [location])
            return True
        if self.cors is None or exchange.method != "OPTIONS":
            return False
        permission = self.cors.preflight(exchange.headers, self.routes.methods(exchange.path))
        if permission is not None:
            await exchange.respond_empty(204, permission)
        return permission is not None

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


def _refusal(row: Operation) -> Answer:
    """Return what answers a route of a service that this worker does not have."""

    async def answer(exchange: Exchange, params: dict[str, str]) -> None:
        raise NotFound(f"this worker does not have the service {row.service!r}, which {row.name} is part of")

    return answer
