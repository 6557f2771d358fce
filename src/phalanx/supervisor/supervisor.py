"""Keeps a number of workers running, renews them one by one, and ends them together."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from phalanx.signals import ENDING, on_signal, restore_signals
from phalanx.supervisor.messages import Accept, Drain, Family, Hurry
from phalanx.supervisor.process import WorkerProcess
from phalanx.supervisor.sums import Member, SummedMetrics, snapshot
from phalanx.telemetry import SUPERVISOR_METRICS, Log, Metrics

LATE_S = 1.0
"""Seconds by which the supervisor may be late itself and still judge the silence of others."""
REAP_S = 5.0
"""Seconds that the system is given to end a process that was killed."""
STATES = ("starting", "ready", "unready", "draining")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long the supervisor waits, in seconds.

    A worker that was ready may be silent for `silence_s`, one that starts for `start_silence_s`, since what it loads
    may hold the interpreter. One that is told to drain is killed after `drain_s`. A rolling restart waits `renewal_s`
    for a new worker to be ready. A worker that ends within `young_s`, or before it is ready, is replaced after a pause
    that doubles from `first_pause_s` to `longest_pause_s`, any other one at once. When `failed_starts` in a row end before
    any worker was ever ready, the supervisor gives up.
    """

    silence_s: float = 10.0
    start_silence_s: float = 120.0
    drain_s: float = 45.0
    hurry_s: float = 10.0
    renewal_s: float = 600.0
    young_s: float = 30.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    failed_starts: int = 5


class Slot:
    """A place for one worker, whose number its successors inherit."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.worker: WorkerProcess | None = None
        self.failed_starts = 0
        self.young_ends = 0


class Supervisor:
    """Runs `workers` processes of `command`, which accept on `listeners`, until it is stopped; then it closes those.

    Some worker always accepts, so that probes are answered while models load; one that starts beside others accepts
    only once it is ready, so that nobody is sent to it in vain. `sums` has the metrics of all.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        workers: int,
        listeners: Sequence[socket.socket],
        log: Log,
        patience: Patience | None = None,
    ) -> None:
        self.sums = SummedMetrics(self._members)
        self.workers: list[WorkerProcess] = []
        self._command = command
        self._listeners = listeners
        self._log = log
        self._patience = patience or Patience()
        self._slots = [Slot(number) for number in range(1, workers + 1)]
        self._metrics = Metrics(SUPERVISOR_METRICS)
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()
        self._renewal = asyncio.Event()
        self._was_ready = False
        self._gave_up = False

    def stop(self) -> None:
        """Have all workers drain; the second time, have them wait for nothing more. SIGTERM and SIGINT do this."""
        if self._stopping.is_set():
            self._hurried.set()
        self._stopping.set()

    def renew(self) -> None:
        """Replace all workers, one after the other, each by one that is ready. SIGHUP does this.

        Asked for while it is done, it is done once more, since those renewed first have not seen what has changed since.
        """
        self._renewal.set()

    async def run(self, *, keeps_signals: bool = False) -> int:
        """Keep the workers running until `stop`, or until they cannot be started; return the exit status.

        With `keeps_signals` further signals mean nothing then; else they have their defaults back.
        """
        on_signal(self.stop)
        on_signal(self.renew, (signal.SIGHUP,))
        try:
            async with asyncio.TaskGroup() as self._tasks:
                watching = self._tasks.create_task(self._watch())
                renewing = self._tasks.create_task(self._renew_when_asked())
                for slot in self._slots:
                    slot.worker = self._start(slot)
                await self._stopping.wait()
                renewing.cancel()
                in_order = await self._end_all()
                watching.cancel()
        finally:
            if not keeps_signals:
                restore_signals((*ENDING, signal.SIGHUP))
        return 0 if in_order and not self._gave_up else 1

    def _start(self, slot: Slot) -> WorkerProcess:
        worker = WorkerProcess(
            slot.number, self._command, self._listeners, log=self._log, on_change=self._someone_must_accept
        )
        self.workers.append(worker)
        self._someone_must_accept()
        self._tasks.create_task(self._attend(slot, worker))
        return worker

    async def _attend(self, slot: Slot, worker: WorkerProcess) -> None:
        """See one worker through its life; start the next one if the slot is still its own."""
        try:
            await worker.run()
        finally:
            self.workers.remove(worker)
        self.sums.depart(worker.families)
        self._metrics.counter("phalanx_worker_ends", _reason(worker)).inc()
        self._someone_must_accept()
        if slot.worker is not worker or self._stopping.is_set():
            return
        pause_s = self._pause_after(slot, worker)
        if slot.failed_starts >= self._patience.failed_starts and not self._was_ready:
            self._log.error("workers cannot be started", attempts=slot.failed_starts, reason=worker.ending)
            self._gave_up = True
            self._stopping.set()
            return
        self._log.error(
            "worker ended", slot=slot.number, pid=worker.pid, reason=worker.ending, killed_for=worker.killed_for or None,
            next_in_s=pause_s,
        )  # fmt: skip
        await _first_of(self._stopping.wait(), timeout_s=pause_s)
        if slot.worker is worker and not self._stopping.is_set():
            slot.worker = self._start(slot)

    def _pause_after(self, slot: Slot, worker: WorkerProcess) -> float:
        """Return how long to wait before the next worker, by how the latest ones of the slot fared."""
        patience = self._patience
        was_ready = worker.became_ready.is_set()
        slot.failed_starts = 0 if was_ready else slot.failed_starts + 1
        if was_ready and monotonic() - worker.started_at >= patience.young_s:
            slot.young_ends = 0
            return 0.0
        slot.young_ends += 1
        return float(min(patience.longest_pause_s, patience.first_pause_s * 2.0 ** min(slot.young_ends - 1, 32)))

    def _someone_must_accept(self) -> None:
        staying = [worker for worker in self.workers if Drain not in worker.told and not worker.ended.is_set()]
        self._was_ready = self._was_ready or any(worker.ready for worker in staying)
        if staying and not any(worker.accepting or Accept in worker.told for worker in staying):
            staying[0].tell(Accept())

    async def _watch(self) -> None:
        """Kill workers whose event loop does not turn."""
        patience = self._patience
        tick_s = min(0.5, patience.silence_s / 4)
        due = monotonic() + tick_s
        while True:
            await asyncio.sleep(tick_s)
            now = monotonic()
            if now - due > LATE_S:
                # Stopped or starved itself, the supervisor has not heard what was said meanwhile.
                for worker in self.workers:
                    worker.heard_at = now
            due = now + tick_s
            for worker in self.workers:
                limit_s = patience.silence_s
                if not worker.became_ready.is_set():
                    limit_s = max(limit_s, patience.start_silence_s)
                if now - worker.heard_at > limit_s and not worker.killed_for:
                    self._log.error("worker stuck", slot=worker.slot, pid=worker.pid, silent_s=round(limit_s, 1))
                    worker.kill("stuck")

    async def _renew_when_asked(self) -> None:
        while True:
            await self._renewal.wait()
            self._renewal.clear()
            self._log.info("rolling restart begins", workers=len(self._slots))
            renewed = 0
            for slot in self._slots:
                if not await self._renew(slot):
                    break
                renewed += 1
            self._log.info("rolling restart ends", renewed=renewed, workers=len(self._slots))

    async def _renew(self, slot: Slot) -> bool:
        """Put a new worker in a slot once it is ready; return whether it came to that."""
        successor = self._start(slot)
        await _first_of(successor.became_ready.wait(), successor.ended.wait(), timeout_s=self._patience.renewal_s)
        if not successor.ready:
            reason = successor.ending if successor.ended.is_set() else "it was not ready in time"
            self._log.error("worker not renewed", slot=slot.number, pid=successor.pid, reason=reason)
            successor.kill("not_ready")
            return False
        former, slot.worker = slot.worker, successor
        slot.failed_starts = slot.young_ends = 0
        assert former is not None
        former.tell(Drain(at_once=True))
        await _first_of(former.ended.wait(), timeout_s=self._patience.drain_s)
        self._kill_overdue(former)
        await former.ended.wait()
        return True

    async def _end_all(self) -> bool:
        """Have all workers drain, hurry, and at last die; return whether all ended by themselves."""
        for listener in self._listeners:
            # Once the workers have closed theirs, callers are refused and not left to wait.
            listener.close()
        for worker in self.workers:
            worker.tell(Drain())
        await _first_of(self._all_ended(), self._hurried.wait(), timeout_s=self._patience.drain_s)
        if self._hurried.is_set():
            for worker in self.workers:
                worker.tell(Hurry())
            await _first_of(self._all_ended(), timeout_s=self._patience.hurry_s)
        left = list(self.workers)
        for worker in left:
            self._kill_overdue(worker)
        await _first_of(self._all_ended(), timeout_s=REAP_S)
        return not left

    def _kill_overdue(self, worker: WorkerProcess) -> None:
        if not worker.ended.is_set():
            self._log.error("worker killed", slot=worker.slot, pid=worker.pid, reason="it did not end in time")
            worker.kill("overdue")

    async def _all_ended(self) -> None:
        while self.workers:
            await self.workers[0].ended.wait()

    def _members(self) -> Iterable[Member]:
        states = Counter(worker.state for worker in self.workers)
        for state in STATES:
            self._metrics.gauge("phalanx_workers", state).set(states[state])
        return [_Own(snapshot(self._metrics.registry)), *self.workers]


@dataclass(frozen=True)
class _Own:
    """The supervisor's own metrics."""

    families: list[Family]
    accepting: bool = False


def _reason(worker: WorkerProcess) -> str:
    """Return the label of an ending: one of few."""
    return worker.killed_for or ("told" if Drain in worker.told else "itself")


async def _first_of(*waits: Coroutine[Any, Any, Any], timeout_s: float) -> None:
    """Wait for the first of some, but not longer than `timeout_s`."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
