"""Health: whether the worker can serve now, proved by a canary inference, and how its stores do."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
from phalanx.services.serving.roster import Roster, ServedModel
from phalanx.services.ticket import Ticket

CANARY_EVERY_S = 10.0
PING_TIMEOUT_S = 2.0
CANARY_TIMEOUT_S = 10.0
RECENT_CALLS = 1000
Ping = Callable[[], Awaitable[None]]
Key = tuple[str, str]
"""A model's name and its version's."""


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

    A version is ready while its latest canary came back in time and near its first answer. The first one is compared by
    the golden check when the version is loaded, so it is right.
    """

    def __init__(
        self,
        rosters: Sequence[Roster[Any]],
        dependencies: Mapping[str, Dependency],
        *,
        clock: Clock,
        git_sha: str = "",
        permits: Callable[[], tuple[int, int]],
    ) -> None:
        self._rosters = rosters
        self._asked = dependencies
        self._answered: dict[str, float] = {}
        self._clock = clock
        self._git_sha = git_sha
        self._permits = permits
        self._first: dict[Key, Any] = {}
        self._failing: dict[Key, str] = {}
        self._warm: set[Key] = set()
        self._refused: dict[str, tuple[str, str]] = {}
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
            await self._check_all()
            # Asked also when nobody looks, so that it is known for how long a store has been silent.
            await self._dependencies()
            await asyncio.sleep(CANARY_EVERY_S)

    async def _check_all(self) -> None:
        for roster in self._rosters:
            for served in _served(roster):
                problem = await self.check(served)
                roster.mark(served.name, served.version, sick=problem is not None)

    async def check(self, served: ServedModel) -> str | None:
        """Have the canary computed through the queue, as a caller's item would be; return what is wrong with it."""
        key = (served.name, served.version)
        deadline = self._clock.monotonic() + CANARY_TIMEOUT_S
        try:
            (result,) = await served.runner.submit([Submission(served.canary())], tenant="canary", deadline=deadline)
        except PhalanxError as error:
            result = error
        if isinstance(result, PhalanxError):
            # A full queue means that the model is busy serving, which is no failure of the model.
            if result.code != "overloaded":
                self._failing[key] = f"the canary failed: {result.code}"
        elif problem := served.strays(self._first.setdefault(key, result.value), result.value):
            self._failing[key] = f"the canary came back wrong: {problem}"
        else:
            self._failing.pop(key, None)
            self._warm.add(key)
        return self._failing.get(key)

    def forget(self, name: str, version: str) -> None:
        """Know nothing more of a version, which serves no more."""
        key = (name, version)
        self._warm.discard(key)
        self._first.pop(key, None)
        self._failing.pop(key, None)

    def refuse(self, name: str, version: str, reason: str) -> None:
        """Show that a version which should serve does not, and why: what served before goes on."""
        self._refused[name] = (version, reason)

    def accept(self, name: str) -> None:
        """Show that the versions of a model which should serve do."""
        self._refused.pop(name, None)

    def is_model_ready(self, name: str, version: str) -> bool:
        """Whether a version's latest canary was right."""
        return (name, version) in self._warm and (name, version) not in self._failing

    def is_warm(self) -> bool:
        """Whether every model of the worker has answered once: `/startupz`."""
        return not any(roster.pending for roster in self._rosters) and all(
            (served.name, served.version) in self._warm for roster in self._rosters for served in _served(roster)
        )

    async def readiness(self) -> list[str]:
        """Return why the worker cannot serve now; empty when it can."""
        if self.draining:
            return ["the worker is draining"]
        reasons = []
        for roster in self._rosters:
            absent = roster.missing if roster.is_required else dict.fromkeys(roster.pending, "it is loading")
            reasons += [
                f"the model {name!r} is missing: {why}" for name, why in absent.items()
                if name in roster.pending or name not in roster.stand_ins
            ]  # fmt: skip
            for name, rollout in roster.rollouts().items():
                if name in roster.stand_ins and all((name, version) in self._failing for version in rollout.weights):
                    continue
                # One version that can serve is enough: the others take no traffic meanwhile.
                problems = [self._problem(share.served) for share in rollout.shares]
                reasons += [problem for problem in problems[:1] if problem and all(problems)]
        states = await self._dependencies()
        reasons += [f"{name} does not answer" for name in states if self._is_missed(name)]
        return reasons

    def _problem(self, served: ServedModel) -> str | None:
        key = (served.name, served.version)
        if key in self._failing:
            return f"the model {served.name!r}: {self._failing[key]}"
        if key not in self._warm:
            return f"the model {served.name!r} is warming up"
        return None if served.runner.is_alive(self._clock.monotonic()) else f"the engine of {served.name!r} is stuck"

    def models(self) -> list[ModelHealth]:
        """Return what is known of each version that serves or should."""
        found = []
        for roster in self._rosters:
            found += [
                ModelHealth(
                    name=served.name, version=served.version, ready=self.is_model_ready(served.name, served.version),
                    error=self._failing.get((served.name, served.version)),
                    simulated=served.name in roster.stand_ins and (served.name, served.version) in self._failing,
                )
                for served in _served(roster)
            ]  # fmt: skip
            found += [
                ModelHealth(
                    name=name, version="", ready=False, error=why,
                    simulated=name in roster.stand_ins and name not in roster.pending,
                )
                for name, why in roster.missing.items()
            ]  # fmt: skip
        for name, (version, reason) in self._refused.items():
            found.append(ModelHealth(name=name, version=version, ready=False, error=reason))
        return found

    async def health(self) -> Health:
        """Return the whole picture."""
        dependencies = await self._dependencies()
        models = self.models()
        serves = any(model.ready or model.simulated for model in models) or not any(
            roster.is_required for roster in self._rosters
        )
        stores = not any(self._is_missed(name) for name in dependencies)
        answered = all(state.healthy for state in dependencies.values())
        whole = serves and answered and all(model.ready for model in models) and not self.draining
        status = "healthy" if whole else "degraded" if serves and stores else "unhealthy"
        return Health(
            status=status, version=phalanx.__version__, model=self._rosters[0].default if self._rosters else "",
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
            queues=self._queues(), models=self.models(),
        )  # fmt: skip

    def _queues(self) -> dict[str, QueueStatus]:
        found = {}
        for roster in self._rosters:
            for name, rollout in roster.rollouts().items():
                for share in rollout.shares:
                    version = share.served.version
                    key = name if share.served is rollout.heaviest else f"{name}@{version}"
                    found[key] = _queue(share.served)
        return found

    async def _dependencies(self) -> dict[str, DependencyHealth]:
        names = list(self._asked)
        return dict(zip(names, await asyncio.gather(*map(self._ask, names)), strict=True))

    async def _ask(self, name: str) -> DependencyHealth:
        started = time.perf_counter()
        error = None
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                await self._asked[name].ping()
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


def _served(roster: Roster[Any]) -> list[ServedModel]:
    return [share.served for rollout in roster.rollouts().values() for share in rollout.shares]


def _queue(served: ServedModel) -> QueueStatus:
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
