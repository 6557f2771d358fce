"""Routes outside the table: probes, the worker's facts, OpenAPI and the reference page. They need no credential."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from msgspec import Struct

import phalanx
from phalanx.contract.status import Health
from phalanx.contract.text import MAX_TEXTS
from phalanx.edges.http.exchange import Exchange
from phalanx.edges.http.routes import Answer, Endpoint
from phalanx.errors import PhalanxError, Unavailable
from phalanx.services.serving.health import HealthService
from phalanx.services.serving.roster import Roster
from phalanx.services.serving.text_models import ModelRegistry

HTML = "text/html; charset=utf-8"
PROBES = frozenset({"/livez", "/readyz", "/readiness", "/startupz", "/health", "/api/health"})
"""Asked by what runs the worker, from beside it: answered in clear too."""
CSP = b"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class ProbeAnswer(Struct, frozen=True):
    """What a probe says: `ok`, or `unavailable` with the reasons."""

    status: str
    reasons: tuple[str, ...] = ()


class ModelType(Struct, frozen=True):
    """TEI's nesting of the pooling."""

    embedding: dict[str, str]


class Info(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The worker's facts under the names of two systems: `worker_id` and `status` of one, most others of TEI.

    `services` are those that the worker has, `models` those that it serves. The model by itself is the default text model; of
    a worker without texts it is that of face vectors, else the face detector, and what is about texts is absent.
    """

    worker_id: str
    status: str
    services: list[str]
    models: list[str]
    max_concurrent_requests: int
    version: str
    device: str | None = None
    model_id: str | None = None
    model_sha: str | None = None
    model_dtype: str | None = None
    model_type: ModelType | None = None
    max_input_length: int | None = None
    max_batch_tokens: int | None = None
    max_client_batch_size: int | None = None
    embedding_dim: int | None = None
    auto_truncate: bool | None = None


class Documents(NamedTuple):
    """The generated documents, as bytes."""

    openapi: bytes
    reference: bytes


class SystemEndpoints:
    """Answers the system routes."""

    def __init__(
        self,
        health: HealthService,
        registry: ModelRegistry,
        *,
        documents: Callable[[], Documents],
        is_loop_turning: Callable[[], bool],
        max_concurrent: int,
        max_batch_tokens: int,
        services: Sequence[str],
        rosters: Sequence[Roster[Any]],
    ) -> None:
        self._health = health
        self._registry = registry
        self._documents = documents
        self._is_loop_turning = is_loop_turning
        self._max_concurrent = max_concurrent
        self._max_batch_tokens = max_batch_tokens
        self._services = list(services)
        self._rosters = rosters

    def endpoints(self) -> list[tuple[str, str, Endpoint]]:
        """Return method, path and endpoint of every system route."""
        table: list[tuple[str, Answer]] = [
            ("/", self.index), ("/health", self.health), ("/api/health", self.health), ("/livez", self.livez),
            ("/readyz", self.readyz), ("/readiness", self.readyz), ("/startupz", self.startupz), ("/info", self.info),
            ("/openapi.json", self.openapi), ("/docs", self.reference),
        ]  # fmt: skip
        return [("GET", path, Endpoint(path, answer)) for path, answer in table]

    async def index(self, exchange: Exchange, params: dict[str, str]) -> None:
        """Lead to the reference page."""
        await exchange.respond_empty(307, [(b"location", b"/docs")])

    async def health(self, exchange: Exchange, params: dict[str, str]) -> None:
        """200 healthy or degraded, 503 unhealthy."""
        health = await self._health.health()
        await self._tell(exchange, health, fails=health.status == "unhealthy")

    async def livez(self, exchange: Exchange, params: dict[str, str]) -> None:
        """200 while the event loop turns; no dependency is asked."""
        await self._probe(exchange, () if self._is_loop_turning() else ("the event loop is late",))

    async def readyz(self, exchange: Exchange, params: dict[str, str]) -> None:
        """200 when the worker can serve now."""
        await self._probe(exchange, tuple(await self._health.readiness()))

    async def startupz(self, exchange: Exchange, params: dict[str, str]) -> None:
        """200 once every model has answered."""
        await self._probe(exchange, () if self._health.is_warm() else ("models are warming up",))

    async def info(self, exchange: Exchange, params: dict[str, str]) -> None:
        """Show the default model and the worker. A worker that has no model for texts shows what it has instead."""
        ready = not await self._health.readiness()
        facts = self._text_facts() if any(one is self._registry for one in self._rosters) else self._other_facts()
        await exchange.respond_json(200, Info(
            worker_id=self._health.worker_id, status="ready" if ready else "not ready", services=self._services,
            models=sorted(name for roster in self._rosters for name in roster.rollouts()),
            max_concurrent_requests=self._max_concurrent, version=phalanx.__version__, **facts,
        ))  # fmt: skip

    def _text_facts(self) -> dict[str, Any]:
        try:
            model = self._registry.text(None).model
        except PhalanxError as error:
            raise Unavailable(error.detail) from None
        spec = model.spec
        return {
            "device": model.backend.device, "model_id": spec.name, "model_sha": spec.sha256,
            "model_dtype": model.backend.precision, "model_type": ModelType({"pooling": spec.pooling}),
            "max_input_length": spec.max_tokens, "max_batch_tokens": self._max_batch_tokens,
            "max_client_batch_size": MAX_TEXTS, "embedding_dim": spec.dimensions, "auto_truncate": True,
        }  # fmt: skip

    def _other_facts(self) -> dict[str, Any]:
        # The last roster has the model that is asked for most: embedders come behind detectors.
        for roster in reversed(self._rosters):
            with suppress(PhalanxError):
                model = roster.rollout(None).heaviest.describe()
                return {
                    "device": model.device, "model_id": model.id, "model_sha": model.sha256,
                    "model_dtype": model.precision, "embedding_dim": model.dimensions or None,
                }  # fmt: skip
        return {}

    async def openapi(self, exchange: Exchange, params: dict[str, str]) -> None:
        """OpenAPI 3.1 of every route."""
        await exchange.respond(200, self._documents().openapi)

    async def reference(self, exchange: Exchange, params: dict[str, str]) -> None:
        """Show the reference page; it loads nothing."""
        await exchange.respond(200, self._documents().reference, HTML, [(b"content-security-policy", CSP)])

    async def _probe(self, exchange: Exchange, reasons: tuple[str, ...]) -> None:
        answer = ProbeAnswer("unavailable" if reasons else "ok", reasons)
        await self._tell(exchange, answer, fails=bool(reasons))

    async def _tell(self, exchange: Exchange, answer: Health | ProbeAnswer, *, fails: bool) -> None:
        """Send 200, or what `fails` as 503: under the code `unavailable` in the log and the metrics."""
        if fails:
            exchange.tag = Unavailable.row.code
        await exchange.respond_json(Unavailable.row.http if fails else 200, answer)
