"""Health: whether the worker can serve now, proved by a canary inference, and how its stores do."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

import phalanx
from phalanx.build import build_facts
from phalanx.contract.status import (
    DependencyHealth,
    Health,
    ModelHealth,
    OperationStatus,
    QueueStatus,
    StatusRequest,
    StatusResponse,
)
from phalanx.errors import PhalanxError, Unavailable
from phalanx.ports import Clock, Submission
from phalanx.services.models import ModelRegistry, ServedText
from phalanx.services.ticket import Ticket

CANARY_TEXT = "The canary still sings."
CANARY_EVERY_S = 10.0
PING_TIMEOUT_S = 2.0
CANARY_TIMEOUT_S = 10.0
CANARY_MIN_COSINE = 0.999
RECENT_CALLS = 1000
Ping = Callable[[], Awaitable[None]]


class Dependency(NamedTuple):
    """A store that is asked now and again. `grace_s` is for how long the worker serves without it; None: for ever."""

    ping: Ping
    grace_s: float | None = 0.0


class LatencyLog:
    """Counts and the latest thousand latencies of each operation, for `/api/status`."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[list[int], deque[float]]] = {}

    def add(self, operation: str, code: str, latency_ms: float) -> None:
        """Note one finished call."""
        known = self._calls.get(operation)
        if known is None:
            known = self._calls[operation] = ([0, 0], deque(maxlen=RECENT_CALLS))
        counts, recent = known
        counts[0] += 1
        counts[1] += code != "ok"
        recent.append(latency_ms)

    def summary(self) -> dict[str, OperationStatus]:
        """Return what is known of each operation."""
        out = {}
        for name, (counts, recent) in self._calls.items():
            p50, p95, p99 = (float(p) for p in np.percentile(list(recent), (50, 95, 99)))
            out[name] = OperationStatus(count=counts[0], errors=counts[1], p50_ms=p50, p95_ms=p95, p99_ms=p99)
        return out


class HealthService:
    """Runs the canary of every model and answers the probes.

    A model is ready while its latest canary came back in time and near its first answer. The first one is compared by
    the golden check when the model is loaded, so it is right.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        dependencies: Mapping[str, Dependency],
        *,
        clock: Clock,
        git_sha: str = "",
        permits: Callable[[], tuple[int, int]],
    ) -> None:
        self._registry = registry
        self._asked = dependencies
        self._answered: dict[str, float] = {}
        self._clock = clock
        self._git_sha = git_sha
        self._permits = permits
        self._golden: dict[str, np.ndarray] = {}
        self._failing: dict[str, str] = {}
        self._warm: set[str] = set()
        self._started = clock.monotonic()
        self.latencies = LatencyLog()
        self.draining = False

    def begin_draining(self) -> None:
        """Turn `/readyz` false for good."""
        self.draining = True

    @property
    def worker_id(self) -> str:
        """`<hostname>-<pid>`."""
        return f"{socket.gethostname()}-{os.getpid()}"

    async def watch(self) -> None:
        """Run every model's canary now and then every ten seconds, until cancelled."""
        while True:
            for served in self._registry.served():
                await self.check(served)
            # Asked also when nobody looks, so that it is known for how long a store has been silent.
            await self._dependencies()
            await asyncio.sleep(CANARY_EVERY_S)

    async def check(self, served: ServedText) -> None:
        """Embed the canary text through the queue, as a caller would, and compare."""
        prepared = served.model.prepare(CANARY_TEXT, truncate="end", prompt=None)
        deadline = self._clock.monotonic() + CANARY_TIMEOUT_S
        try:
            (result,) = await served.runner.submit([Submission(prepared)], tenant="canary", deadline=deadline)
        except PhalanxError as error:
            result = error
        if isinstance(result, PhalanxError):
            # A full queue means that the model is busy serving, which is no failure of the model.
            if result.code != "overloaded":
                self._failing[served.name] = f"the canary failed: {result.code}"
            return
        vector = result.value / max(float(np.linalg.norm(result.value)), 1e-12)
        golden = self._golden.setdefault(served.name, vector)
        cosine = float(vector @ golden)
        if cosine < CANARY_MIN_COSINE or not np.isfinite(cosine):
            self._failing[served.name] = f"the canary came back wrong: cosine {cosine:.6f}"
        else:
            self._failing.pop(served.name, None)
            self._warm.add(served.name)

    def is_model_ready(self, name: str) -> bool:
        """Whether a model's latest canary was right."""
        return name in self._warm and name not in self._failing and name not in self._registry.missing

    def is_warm(self) -> bool:
        """Whether every model of the worker has answered once: `/startupz`."""
        return all(served.name in self._warm for served in self._registry.served())

    async def readiness(self) -> list[str]:
        """Return why the worker cannot serve now; empty when it can."""
        if self.draining:
            return ["the worker is draining"]
        reasons = [f"the model {name!r} is missing: {why}" for name, why in self._registry.missing.items()]
        for served in self._registry.served():
            if served.name in self._failing:
                reasons.append(f"the model {served.name!r}: {self._failing[served.name]}")
            elif served.name not in self._warm:
                reasons.append(f"the model {served.name!r} is warming up")
            elif not served.runner.is_alive(self._clock.monotonic()):
                reasons.append(f"the engine of {served.name!r} is stuck")
        states = await self._dependencies()
        reasons += [f"{name} does not answer" for name in states if self._is_missed(name)]
        return reasons

    async def health(self) -> Health:
        """Return the whole picture."""
        dependencies = await self._dependencies()
        models = [
            ModelHealth(
                name=served.name, version=served.model.spec.version, ready=self.is_model_ready(served.name),
                error=self._failing.get(served.name),
            )
            for served in self._registry.served()
        ]  # fmt: skip
        models += [ModelHealth(name=n, version="", ready=False, error=why) for n, why in self._registry.missing.items()]
        serves = any(model.ready for model in models)
        stores = not any(self._is_missed(name) for name in dependencies)
        answered = all(state.healthy for state in dependencies.values())
        whole = serves and answered and all(model.ready for model in models) and not self.draining
        status = "healthy" if whole else "degraded" if serves and stores else "unhealthy"
        return Health(
            status=status, version=phalanx.__version__, model=self._registry.default,
            build=build_facts(self._git_sha), dependencies=dependencies, models=models,
        )  # fmt: skip

    async def status(self, ticket: Ticket, request: StatusRequest) -> StatusResponse:
        """Return counts, latencies, queues and memory of this worker."""
        in_flight, streams = self._permits()
        own = resource.getrusage(resource.RUSAGE_SELF)
        return StatusResponse(
            worker_id=self.worker_id, version=phalanx.__version__, uptime_s=self._clock.monotonic() - self._started,
            ready=not await self.readiness(), in_flight=in_flight, streams=streams, rss_bytes=_resident_bytes(),
            cpu_s=own.ru_utime + own.ru_stime, operations=self.latencies.summary(),
            queues={served.name: _queue(served) for served in self._registry.served()},
        )  # fmt: skip

    async def _dependencies(self) -> dict[str, DependencyHealth]:
        names = list(self._asked)
        return dict(zip(names, await asyncio.gather(*map(self._ask, names)), strict=True))

    async def _ask(self, name: str) -> DependencyHealth:
        started = time.perf_counter()
        error = None
        try:
            await asyncio.wait_for(self._asked[name].ping(), timeout=PING_TIMEOUT_S)
            self._answered[name] = self._clock.monotonic()
        except TimeoutError:
            error = f"no answer within {PING_TIMEOUT_S:g} s"
        except Unavailable as failure:
            error = failure.detail
        latency = (time.perf_counter() - started) * 1e3
        return DependencyHealth(healthy=error is None, latency_ms=round(latency, 3), error=error)

    def _is_missed(self, name: str) -> bool:
        """Whether a store has been silent for longer than the worker can do without it."""
        grace_s = self._asked[name].grace_s
        if grace_s is None:
            return False
        answered = self._answered.get(name, self._started)
        return self._clock.monotonic() - answered > grace_s


def _queue(served: ServedText) -> QueueStatus:
    stats = served.runner.stats()
    return QueueStatus(
        waiting_items=stats.waiting_items, waiting_tokens=stats.waiting_tokens, running_items=stats.running_items,
        batches=stats.batches, tokens_per_s=stats.tokens_per_s, padding_ratio=stats.padding_ratio,
    )  # fmt: skip


def _resident_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
