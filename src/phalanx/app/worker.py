"""The composition root: settings to stores, engines, services, the table. Nothing else constructs an adapter."""

from __future__ import annotations

import functools
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from phalanx.app.closing import Closing
from phalanx.app.collections import take_up_collections
from phalanx.app.models import TOKEN_BUDGET, Kind, WorkerModels, needed_rosters, open_registry, open_store
from phalanx.app.services import open_services, open_webhooks
from phalanx.app.stores import Stores, Surroundings, open_stores
from phalanx.contract.services import ALL_SERVICES
from phalanx.edges.http.app import HttpEdge, spoken
from phalanx.edges.http.cors import Cors
from phalanx.edges.http.openapi import openapi
from phalanx.edges.http.proxies import TrustedProxies
from phalanx.edges.http.reference import reference_page
from phalanx.edges.http.security import HttpsOnly
from phalanx.edges.http.system import Documents, SystemEndpoints
from phalanx.edges.json_body import encode_json
from phalanx.ids import Uuid7
from phalanx.operations import Entrance, Operation, Services, table
from phalanx.operations.patience import MOST_TIMES
from phalanx.ports import Limiter, UsageLedger
from phalanx.services.callers.audit_trail import AuditTrail
from phalanx.services.callers.keyring import HeardHere, Keyring
from phalanx.services.callers.signing import load_secret, signing_keys
from phalanx.services.callers.tokens import TokenVerifier
from phalanx.services.gate import Gate, OpenCalls
from phalanx.services.jobs.service import JobKind
from phalanx.services.jobs.tokens import JobTokens
from phalanx.services.jobs.webhooks import Webhooks
from phalanx.services.metering.quotas import SoftQuotas
from phalanx.services.metering.tiers import tier_policies
from phalanx.services.metering.usage import expire_events
from phalanx.services.serving.agreement import Agreement
from phalanx.services.serving.face_models import FaceModels
from phalanx.services.serving.health import HealthService
from phalanx.services.serving.rollouts import Rollouts
from phalanx.services.serving.text_models import ModelRegistry
from phalanx.settings import Settings
from phalanx.stores.memory.clock import SystemClock
from phalanx.telemetry import Log, Metrics, RequestLog


@dataclass(frozen=True, slots=True)
class App:
    """A worker's parts, open. Models are loaded later, by `load_models`, since probes are answered meanwhile.

    `elsewhere` are the rows of services that this worker does not have.
    """

    settings: Settings
    entrance: Entrance
    operations: dict[str, Operation]
    elsewhere: dict[str, Operation]
    registry: ModelRegistry
    face_models: FaceModels
    models: WorkerModels
    rollouts: Rollouts
    health: HealthService
    metrics: Metrics
    log: Log
    stores: Stores
    webhooks: Webhooks
    closing: Closing

    @property
    def services(self) -> Services:
        """What the rows run on."""
        return self.entrance.services

    @property
    def usage(self) -> UsageLedger:
        """The ledger, behind this worker's journal."""
        return self.stores.usage

    @property
    def limiter(self) -> Limiter:
        """The counters of rates and quotas."""
        return self.stores.limiter

    async def load_models(self, *, threads: int | None = None, only: Kind | None = None) -> None:
        """Load the text model, warm it and check it by its canary; then the face models that are in the store.

        A model that is missing raises nothing here: each call that needs it is refused, and without the text model /readyz
        is false. `threads` is how many an engine computes on, by default as many as the CPU quota allows. `only` leaves out
        the models of other kinds.
        """
        self.models.threads, self.models.only = threads, only
        self.closing.close_with(self.rollouts.close)
        if self.settings.fallback == "simulated":
            self.log.warning("FALLBACK=simulated: stand-ins answer for models that are missing or fail")
            self.models.start_stand_ins()
        await self.rollouts.load()


@asynccontextmanager
async def build(settings: Settings, *, log: Log | None = None, is_serving: bool = False) -> AsyncIterator[App]:
    """Open a worker's parts, and close them in reverse. Migrates the database first.

    Raises `SettingsError` and `Unavailable`. With `is_serving` they include what only a worker needs, and no command.
    """
    log = log or structlog.get_logger("phalanx")
    metrics, clock, open_calls = Metrics(), SystemClock(), OpenCalls()
    new_id = Uuid7(clock)
    tiers, signing = tier_policies(settings), signing_keys(settings)
    job_tokens = JobTokens(signing, issuer=settings.jwt_issuer, clock=clock)
    async with Closing(log) as closing:
        around = Surroundings(settings, clock, new_id, log, metrics, closing, is_serving)
        stores = await open_stores(around, load_secret(settings), open_calls.oldest)
        keyring = Keyring(stores.keys, stores.sessions, clock, log=log, on_check=_counting_checks(metrics))
        await keyring.start(stores.changes, stores.broadcast, is_shared=stores.is_shared)
        closing.close_with(keyring.close)
        soft_quotas = SoftQuotas(stores.usage, clock)
        gate = Gate(
            keyring=keyring, tokens=TokenVerifier(signing, issuer=settings.jwt_issuer, clock=clock),
            limiter=stores.limiter, soft_quotas=soft_quotas, usage=stores.usage, tiers=tiers, clock=clock,
            new_id=new_id, key_prefix=settings.api_key_prefix, anonymous_scopes=settings.anonymous_scopes,
            jobs=job_tokens,
            open_to_all=settings.auth == "off", request_timeout_s=settings.request_timeout_ms / 1e3,
            max_concurrent=settings.max_concurrent_requests, max_streams=settings.max_streams, open_calls=open_calls,
        )  # fmt: skip
        # A command does what it is asked for, whatever a worker beside it serves.
        served = settings.served if is_serving else frozenset(ALL_SERVICES)
        rows = _rows(around, stores)
        registry, face_models = open_registry(settings), FaceModels()
        store, is_alone = open_store(settings), is_serving and bool(settings.services)
        rosters = needed_rosters(served, registry, face_models, store, is_alone=is_alone, remote=settings.remote)
        health = HealthService(
            rosters, stores.dependencies, clock=clock, git_sha=settings.git_sha,
            permits=lambda: (gate.calls.taken, gate.streams.taken),
        )  # fmt: skip
        models = WorkerModels(settings, metrics, registry, face_models, store, rosters=rosters)
        rollouts = Rollouts(
            models.lines, models.store.pointer_marks, health, metrics=metrics, log=log,
            linger_s=MOST_TIMES * settings.request_timeout_ms / 1e3, drain_s=settings.drain_timeout_secs,
            agreement=Agreement(stores.rollcall, f"{health.worker_id}-{secrets.token_hex(4)}", log=log),
        )  # fmt: skip
        metrics.gauge("phalanx_calls_in_flight").set_function(lambda: gate.calls.taken + gate.streams.taken)
        news = HeardHere(keyring, stores.broadcast)
        webhooks = open_webhooks(around, stores, job_tokens)
        services = open_services(
            around, stores, registry, face_models, health, news, signing, job_tokens, _kinds_of_jobs, webhooks
        )  # fmt: skip
        trail = AuditTrail(stores.audit, clock=clock, new_id=new_id, log=log)
        entrance = Entrance(gate, services, stores.idempotency, trail)
        if is_serving:
            around.closing.keep_running(soft_quotas.watch())
            if "collections" in served - set(settings.remote):
                around.closing.keep_running(take_up_collections(entrance, table()["collections.reembed"], stores, log))
            if settings.usage_retention_days:
                around.closing.keep_running(expire_events(stores.usage, settings.usage_retention_days, log))
        here = {name: row for name, row in rows.items() if row.service is None or row.service in served}
        elsewhere = {name: row for name, row in rows.items() if name not in here}
        yield App(
            settings, entrance, here, elsewhere, registry, face_models, models, rollouts, health, metrics, log, stores,
            webhooks, closing,
        )  # fmt: skip


@functools.cache
def _kinds_of_jobs() -> dict[str, JobKind]:
    rows = table().items()
    return {
        name: JobKind(row.request, None if row.scope == "open" else row.scope, row.job_names)
        for name, row in rows
        if row.job
    }


def _rows(around: Surroundings, stores: Stores) -> dict[str, Operation]:
    """Return the table, with rows that other workers run replaced by calls to these, which become dependencies."""
    rows = table()
    if not around.settings.remote:
        return rows
    # Who calls no other worker is spared gRPC's memory.
    from phalanx.app.remote import RemoteRows

    remote = RemoteRows(around, rows)
    rows = {name: remote.replaced(row) for name, row in rows.items()}
    stores.dependencies.update(remote.dependencies)
    return rows


def _counting_checks(metrics: Metrics) -> Callable[[str], None]:
    def count(outcome: str) -> None:
        metrics.counter("phalanx_credential_checks", outcome).inc()

    return count


def http_edge(
    app: App, *, requests: RequestLog | None = None, is_loop_turning: Callable[[], bool] = lambda: True
) -> HttpEdge:
    """Return the HTTP edge of a worker's parts."""
    settings = app.settings

    @functools.cache
    def documents() -> Documents:
        dialects = spoken(app.operations)
        document = openapi(app.operations, dialects, title=settings.app_name, public_url=settings.app_public_url)
        return Documents(encode_json(document), reference_page(document))

    system = SystemEndpoints(
        app.health, app.registry, documents=documents, is_loop_turning=is_loop_turning,
        max_concurrent=settings.max_concurrent_requests, max_batch_tokens=TOKEN_BUDGET,
        services=sorted(settings.served), rosters=app.models.rosters,
    )  # fmt: skip
    cors = Cors(
        settings.allowed_origins, credentials=settings.cors_allow_credentials, methods=settings.cors_allow_methods,
        headers=settings.cors_allow_headers, expose=settings.cors_expose_headers,
    )  # fmt: skip
    return HttpEdge(
        app.entrance, app.operations, elsewhere=app.elsewhere, system=system.endpoints(), metrics=app.metrics,
        log=app.log, requests=requests,
        max_body_bytes=lambda row: settings.body_limit(row.max_body_bytes), request_id_header=settings.request_id_header,
        proxies=TrustedProxies(settings.trusted_proxy_ips) if settings.trusted_proxy_ips else None,
        https=HttpsOnly(settings.app_public_url) if settings.force_https else None,
        cors=cors if settings.allowed_origins else None, on_finished=app.health.latencies.add,
    )  # fmt: skip
