"""Keeps what is served at what the store says is active: loads, checks, swaps, drains, frees."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from phalanx.engines.runner import Runner
from phalanx.errors import PhalanxError
from phalanx.services.serving.agreement import Agreement
from phalanx.services.serving.health import HealthService
from phalanx.services.serving.roster import Roster, ServedModel, Share
from phalanx.telemetry import Log, Metrics

WATCH_S = 1.0
"""Seconds between two looks at the pointers: some microseconds of metadata."""

Marks = Mapping[str, tuple[int, int]]
"""For each model with a pointer, a mark that changes whenever that does."""


class Candidate(NamedTuple):
    """A version that should serve, with its weight and what loads it: in a thread, raising `Unavailable`.

    The version is "" where only its files know it.
    """

    version: str
    weight: float
    load: Callable[[], ServedModel]


class Line(NamedTuple):
    """One model of a worker: its name, its roster, what says which versions should serve, whose pointers decide that.

    `candidates` reads the store, in a thread, and raises `Unavailable`.
    """

    name: str
    roster: Roster[Any]
    candidates: Callable[[], Sequence[Candidate]]
    pointers: frozenset[str]


class Rollouts:
    """Serves the active versions of every line, and goes after the store when these change.

    A version takes traffic once it is loaded, its golden check has held and its canary came back. A change in which one
    of the new versions fails is refused as a whole: what served before goes on. Of the first versions of a line, those
    serve that can. Versions that are out of traffic are stopped once no call holds them, or after `linger_s` seconds,
    which is as long as a call may take; what still waits in their queue is given `drain_s`. The next change of any line
    waits for that, so that no more than one model is in memory twice. Several workers swap together: `agreement`.
    """

    def __init__(
        self,
        lines: Callable[[], Sequence[Line]],
        marks: Callable[[], Marks],
        health: HealthService,
        *,
        metrics: Metrics,
        log: Log,
        linger_s: float,
        drain_s: float,
        agreement: Agreement,
    ) -> None:
        self._agreement = agreement
        self._lines = lines
        self._marks = marks
        self._health = health
        self._metrics = metrics
        self._log = log
        self._linger_s = linger_s
        self._drain_s = drain_s
        self._rosters: dict[int, Roster[Any]] = {}
        self._seen: dict[str, tuple[Any, ...]] = {}
        self._all_seen: Marks = {}
        self._retiring: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Load every line for the first time. What is missing is said by each call."""
        marks = self._all_seen = await asyncio.to_thread(self._marks)
        lines = await asyncio.to_thread(self._lines)
        for line in lines:
            if self._note(line, marks):
                line.roster.expect(line.name)
        for line in lines:
            await self._follow(line, marks)

    async def watch(self) -> None:
        """Follow the store until cancelled."""
        beating = asyncio.create_task(self._agreement.beat())
        try:
            while True:
                await asyncio.sleep(WATCH_S)
                try:
                    await self.look()
                except Exception:
                    self._log.exception("models not followed")
        finally:
            beating.cancel()

    async def look(self) -> None:
        """Follow what has changed in the store since the last look."""
        marks = await asyncio.to_thread(self._marks)
        if marks == self._all_seen:
            return
        self._all_seen = marks
        for line in await asyncio.to_thread(self._lines):
            if self._seen.get(line.name) != _mark(line, marks):
                self._note(line, marks)
                await self._follow(line, marks)

    async def close(self) -> None:
        """Stop every runner, each after what waits in its queue, and let go of the models."""
        left = [
            served for roster in self._rosters.values() for rollout in roster.rollouts().values()
            for served, _ in rollout.shares
        ]  # fmt: skip
        left += [served for roster in self._rosters.values() for served in roster.stand_ins.values()]
        await asyncio.gather(*(self._end(served.runner, served.release) for served in left))
        await asyncio.gather(*self._retiring, return_exceptions=True)
        await self._agreement.close()

    def _note(self, line: Line, marks: Marks) -> bool:
        """Remember what a line is loaded by; return whether the model is one that should be here."""
        self._seen[line.name] = _mark(line, marks)
        self._rosters[id(line.roster)] = line.roster
        return line.roster.is_required or not line.pointers or bool(line.pointers & marks.keys())

    async def _follow(self, line: Line, marks: Marks) -> None:
        """Have the versions serve that should."""
        try:
            wanted = await asyncio.to_thread(line.candidates)
        except PhalanxError as error:
            self._do_without(line, marks, error.detail)
            return
        serving = self._serving(line)
        weights = {one.version: one.weight for one in wanted}
        fresh = [one for one in wanted if one.version not in serving]
        plan = ",".join(f"{version}={weight:g}" for version, weight in weights.items())
        if not fresh and weights == {version: share.weight for version, share in serving.items()}:
            await self._agreement.serves(line.name, plan)
            self._health.accept(line.name)
            return
        if fresh and self._retiring:
            await asyncio.wait(self._retiring)
        if serving:
            await self._agreement.loads(line.name, plan)
        loaded, refusals = await self._load_all(line, fresh, stop_at_first=bool(serving))
        if not refusals and fresh and serving:
            for version in loaded:
                self._log.info("model warm", model=line.name, version=version)
            if why := await self._agreement.reach(line.name, plan):
                refusals = {fresh[0].version: why}
        if refusals and serving:
            await self._agreement.refuses(line.name, plan, next(iter(refusals.values())))
        if refusals and (serving or not loaded):
            self._refuse(line, refusals)
            await self._end_all(loaded)
            return
        by_version = {version: share.served for version, share in serving.items()} | loaded
        self._swap(line, [Share(by_version[one.version], one.weight) for one in wanted if one.version in by_version])
        await self._agreement.serves(line.name, plan)
        self._health.accept(line.name)
        for version, reason in refusals.items():
            self._say_refused(line, version, reason)

    async def _load_all(
        self, line: Line, fresh: Sequence[Candidate], *, stop_at_first: bool
    ) -> tuple[dict[str, ServedModel], dict[str, str]]:
        """Return those that came up, by the candidate's version, and why the others did not."""
        loaded: dict[str, ServedModel] = {}
        refusals: dict[str, str] = {}
        for one in fresh:
            outcome = await self._try(one)
            if isinstance(outcome, str):
                refusals[one.version] = outcome
                if stop_at_first:
                    break
            else:
                loaded[one.version] = outcome
        return loaded, refusals

    async def _try(self, one: Candidate) -> ServedModel | str:
        """Return a version that has been loaded, checked and warmed up, or why it could not be."""
        try:
            served = await asyncio.to_thread(one.load)
        except PhalanxError as error:
            return error.detail
        except Exception:
            self._log.exception("model not loaded", version=one.version)
            return f"version {one.version} could not be loaded; the log says why"
        served.runner.start()
        problem = await self._health.check(served)
        if problem is None:
            return served
        await self._end_all({one.version: served})
        return problem

    def _swap(self, line: Line, shares: Sequence[Share[Any]]) -> None:
        """Send the callers to these versions from now on, and retire the others."""
        before = {version: share.served for version, share in self._serving(line).items()}
        after = {share.served.version for share in shares}
        for served, _ in shares:
            if served.version not in before:
                self._announce(served)
        line.roster.serve(line.name, shares)
        if before:
            self._metrics.counter("phalanx_model_swaps", line.name, "swapped").inc()
            rollout = line.roster.rollout(line.name)
            self._log.info("model swapped", model=line.name, weights=rollout.weights, before=list(before))
        for version, served in before.items():
            if version not in after:
                self._retire(served)

    def _announce(self, served: ServedModel) -> None:
        facts = served.describe()
        self._metrics.gauge("phalanx_model_info", *_info_labels(served)).set(1)
        runner = weakref.ref(served.runner)
        waiting = self._metrics.gauge("phalanx_queue_tokens", served.name, served.version)
        waiting.set_function(lambda: float(one.stats().waiting_tokens) if (one := runner()) else 0.0)
        self._log.info(
            "model ready", model=served.name, version=served.version, device=facts.device, precision=facts.precision,
            threads=served.threads,
        )  # fmt: skip

    def _retire(self, served: ServedModel) -> None:
        """Stop and free a version once no call holds it."""
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        weakref.finalize(served, _tell, loop, gone).atexit = False
        self._metrics.gauge("phalanx_model_info", *_info_labels(served)).set(0)
        task = asyncio.create_task(self._free(served.name, served.version, served.runner, served.release, gone))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _free(
        self, name: str, version: str, runner: Runner[Any, Any], release: Callable[[], None], gone: asyncio.Event
    ) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._linger_s):
                await gone.wait()
        await self._end(runner, release)
        if not self._is_served(name, version):
            self._health.forget(name, version)
        del runner, release
        self._log.info("model freed", model=name, version=version)

    async def _end(self, runner: Runner[Any, Any], release: Callable[[], None]) -> None:
        await runner.stop(self._drain_s)
        await asyncio.to_thread(release)

    async def _end_all(self, loaded: dict[str, ServedModel]) -> None:
        """Let go of versions that never served."""
        while loaded:
            _, served = loaded.popitem()
            self._health.forget(served.name, served.version)
            await self._end(served.runner, served.release)

    def _refuse(self, line: Line, refusals: Mapping[str, str]) -> None:
        for version, reason in refusals.items():
            if not self._serving(line):
                line.roster.miss(line.name, reason)
                self._log.error("model missing", model=line.name, reason=reason)
                return
            self._say_refused(line, version, reason)

    def _say_refused(self, line: Line, version: str, reason: str) -> None:
        self._health.refuse(line.name, version, reason)
        self._metrics.counter("phalanx_model_swaps", line.name, "refused").inc()
        self._log.error("model version refused", model=line.name, version=version, reason=reason)

    def _do_without(self, line: Line, marks: Marks, reason: str) -> None:
        """Go on with what serves, if anything does."""
        if self._serving(line):
            self._say_refused(line, "", reason)
        elif self._note(line, marks) or line.name in line.roster.stand_ins:
            line.roster.miss(line.name, reason)
            self._log.error("model missing", model=line.name, reason=reason)
        else:
            line.roster.lack(line.name, reason)
            self._log.info("model not served", model=line.name, reason=reason)

    def _serving(self, line: Line) -> dict[str, Share[Any]]:
        rollout = line.roster.rollouts().get(line.name)
        return {share.served.version: share for share in rollout.shares} if rollout else {}

    def _is_served(self, name: str, version: str) -> bool:
        rollouts: Iterable[Any] = (roster.rollouts().get(name) for roster in self._rosters.values())
        return any(rollout is not None and version in rollout.weights for rollout in rollouts)


def _mark(line: Line, marks: Marks) -> tuple[Any, ...]:
    return tuple(marks.get(name) for name in sorted(line.pointers))


def _info_labels(served: ServedModel) -> tuple[str, str, str, str]:
    facts = served.describe()
    return served.name, served.version, facts.device, facts.precision


def _tell(loop: asyncio.AbstractEventLoop, gone: asyncio.Event) -> None:
    """Set an event from whatever thread let go of the model last."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(gone.set)
