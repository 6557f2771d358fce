"""Workers are kept running, whatever ends them, renewed without a gap, and ended in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import pytest

from unit.supervisor.fakes import MakeFleet

GARBAGE = "import os, sys; fd = int(sys.argv[4]); os.write(fd, b'\\0\\0\\0\\5hello'); import time; time.sleep(60)"


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_workers_share_the_socket(fleet: MakeFleet) -> None:
    """All accept; each keeps its number."""

    async def scenario() -> None:
        async with fleet(3) as workers:
            pids = await workers.serving(3)
            assert sorted(worker.slot for worker in workers.workers) == [1, 2, 3]
            assert {await workers.call() for _ in range(20)} <= set(pids)
            await workers.until(lambda: workers.value("calls_total") == 20)
            # Each reports in its own time.
            await workers.until(lambda: workers.value("open") == 3)
            await workers.until(lambda: workers.value("phalanx_workers", state="ready") == 3)
            await workers.until(lambda: workers.value("phalanx_ready") == 1)

    run(scenario())


def test_a_dead_worker_is_replaced_and_what_it_counted_stays(fleet: MakeFleet) -> None:
    """kill -9 takes nothing out of the sums."""

    async def scenario() -> None:
        async with fleet(young_s=0.0) as workers:
            first = await workers.serving()
            for _ in range(10):
                await workers.call()
            await workers.until(lambda: workers.value("calls_total") == 10)
            os.kill(first[0], signal.SIGKILL)
            await workers.until(lambda: first[0] not in workers.pids() and len(workers.pids()) == 2)
            assert workers.value("calls_total") == 10
            assert first[1] in workers.pids()
            assert workers.workers[-1].slot == 1
            (line,) = workers.log.named("worker ended")
            assert (line["pid"], line["reason"], line["next_in_s"]) == (first[0], "it was ended by SIGKILL", 0.0)
            await workers.call()
            await workers.until(lambda: workers.value("calls_total") == 11)
            assert workers.value("phalanx_worker_ends_total", reason="itself") == 1

    run(scenario())


def test_a_worker_that_ends_in_order_by_itself_is_replaced_too(fleet: MakeFleet) -> None:
    """As when an operator sends it SIGTERM."""

    async def scenario() -> None:
        async with fleet() as workers:
            first = await workers.serving()
            os.kill(first[1], signal.SIGTERM)
            await workers.until(lambda: first[1] not in workers.pids() and len(workers.pids()) == 2)
            assert workers.log.named("worker ended")[0]["reason"] == "it ended with status 0"
            assert (workers.folder / f"drained-{first[1]}").read_text() == "with delay"

    run(scenario())


def test_a_stuck_worker_is_killed_and_replaced(fleet: MakeFleet) -> None:
    """Its process lives, but its event loop does not turn."""

    async def scenario() -> None:
        async with fleet(silence_s=1.8) as workers:
            first = await workers.serving()
            os.kill(first[0], signal.SIGUSR1)
            await workers.until(lambda: first[0] not in workers.pids() and len(workers.pids()) == 2)
            assert [line["pid"] for line in workers.log.named("worker stuck")] == [first[0]]
            assert workers.value("phalanx_worker_ends_total", reason="stuck") == 1

    run(scenario())


def test_a_worker_that_cannot_be_understood_is_killed(fleet: MakeFleet) -> None:
    """It is not heard from again."""

    async def scenario() -> None:
        async with fleet(
            1, command=[sys.executable, "-c", GARBAGE], silence_s=1.0, start_silence_s=1.0, failed_starts=1
        ) as workers:
            assert await workers.running == 1
            assert workers.log.named("worker not understood")
            assert workers.log.named("worker stuck")

    run(scenario())


def test_workers_that_die_young_are_replaced_after_ever_longer_pauses(fleet: MakeFleet) -> None:
    """Once they have been ready, for ever; and at once again when they live."""

    async def scenario() -> None:
        async with fleet(failed_starts=2) as workers:
            first = await workers.serving()
            workers.behave("refuse", "there is no database")
            os.kill(first[0], signal.SIGKILL)
            await workers.until(lambda: len(workers.log.named("worker ended")) == 6)
            ends = workers.log.named("worker ended")
            assert [line["next_in_s"] for line in ends] == [0.02, 0.04, 0.08, 0.1, 0.1, 0.1]
            assert {line["reason"] for line in ends[1:]} == {"there is no database"}
            assert await workers.call() == first[1]
            workers.behave_again("refuse")
            await workers.serving()

    run(scenario())


def test_workers_that_cannot_be_started_are_given_up(fleet: MakeFleet) -> None:
    """Before any was ready, something is wrong that does not mend itself."""

    async def scenario() -> None:
        workers = fleet(2, failed_starts=3)
        workers.behave("refuse", "MODEL_PATH is no model")
        async with workers:
            assert await workers.running == 1
            (line,) = workers.log.named("workers cannot be started")
            assert (line["attempts"], line["reason"]) == (3, "MODEL_PATH is no model")

    run(scenario())


def test_a_command_that_there_is_not_is_given_up(fleet: MakeFleet) -> None:
    """And named."""

    async def scenario() -> None:
        async with fleet(1, command=["/nowhere/python"], failed_starts=2) as workers:
            assert await workers.running == 1
            assert "No such file" in workers.log.named("workers cannot be started")[0]["reason"]

    run(scenario())


def test_one_accepts_while_none_is_ready_and_the_others_when_they_are(fleet: MakeFleet) -> None:
    """Probes are answered while models load, and nobody is sent to a worker that still loads beside one that serves."""

    async def scenario() -> None:
        workers = fleet(3)
        workers.behave("hold")
        async with workers:
            (first,) = await workers.serving(1)
            assert await workers.call() == first
            await workers.until(lambda: workers.value("phalanx_ready") == 0)
            assert workers.value("phalanx_workers", state="starting") == 3
            os.kill(first, signal.SIGKILL)
            await workers.until(lambda: len(workers.pids()) == 1 and workers.pids() != [first])
            workers.behave_again("hold")
            await workers.serving(3)
            workers.behave("hold")
            os.kill(workers.pids()[0], signal.SIGKILL)
            await workers.until(lambda: workers.value("phalanx_workers", state="starting") == 1)
            await asyncio.sleep(1.0)
            assert len(workers.pids()) == 2
            assert workers.value("phalanx_ready") == 1
            workers.behave_again("hold")
            await workers.serving(3)

    run(scenario())


def test_renewal_replaces_one_after_the_other_without_a_gap(fleet: MakeFleet) -> None:
    """Every call is answered meanwhile, and there is one worker more than usual at most."""

    async def scenario() -> None:
        async with fleet(2) as workers:
            first = await workers.serving()
            answered: list[int] = []
            most = 0

            async def call() -> None:
                nonlocal most
                while not workers.log.named("rolling restart ends"):
                    answered.append(await workers.call())
                    most = max(most, len([w for w in workers.workers if w.state != "draining"]))

            os.kill(os.getpid(), signal.SIGHUP)
            await call()
            assert not set(first) & set(workers.pids())
            assert sorted(worker.slot for worker in workers.workers) == [1, 2]
            assert (most, len(answered) > 10) == (3, True)
            assert {(workers.folder / f"drained-{pid}").read_text() for pid in first} == {"at once"}
            assert not workers.log.named("worker ended")
            assert workers.value("phalanx_worker_ends_total", reason="told") == 2

    run(scenario())


def test_renewals_asked_for_meanwhile_are_one(fleet: MakeFleet) -> None:
    """However often."""

    async def scenario() -> None:
        async with fleet(1) as workers:
            await workers.serving(1)
            workers.supervisor.renew()
            await workers.until(lambda: len(workers.workers) == 2)
            for _ in range(5):
                workers.supervisor.renew()
            await workers.until(lambda: len(workers.log.named("rolling restart ends")) == 2)
            await asyncio.sleep(0.5)
            assert len(workers.log.named("rolling restart begins")) == 2

    run(scenario())


@pytest.mark.parametrize(("how", "reason"), [("refuse", "JWT_SECRET"), ("hold", "it was not ready in time")])
def test_a_renewal_that_fails_leaves_the_workers_alone(fleet: MakeFleet, how: str, reason: str) -> None:
    """Old settings that work are better than new ones that do not."""

    async def scenario() -> None:
        async with fleet(2, renewal_s=2.0) as workers:
            first = await workers.serving()
            workers.behave(how, "JWT_SECRET")
            workers.supervisor.renew()
            await workers.until(lambda: workers.log.named("rolling restart ends"))
            assert workers.log.named("worker not renewed")[0]["reason"] == reason
            assert workers.log.named("rolling restart ends")[0]["renewed"] == 0
            await workers.until(lambda: len(workers.workers) == 2)
            assert workers.pids() == first

    run(scenario())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_in_order(fleet: MakeFleet, number: signal.Signals) -> None:
    """Workers that get the signal besides, as from systemd, drain all the same, and do not hurry."""

    async def scenario() -> None:
        async with fleet(2) as workers:
            pids = await workers.serving()
            workers.behave("linger")
            for pid in (*pids, os.getpid()):
                os.kill(pid, number)
            await workers.until(lambda: all((workers.folder / f"drained-{pid}").exists() for pid in pids))
            await asyncio.sleep(0.3)
            assert len(workers.workers) == 2
            os.kill(os.getpid(), number)
            assert await workers.running == 0
            assert {(workers.folder / f"drained-{pid}").read_text() for pid in pids} == {"with delay"}
            assert not workers.log.named("worker ended")

    run(scenario())


def test_workers_that_do_not_end_are_killed(fleet: MakeFleet) -> None:
    """After the time to drain; the status says that something was cut off."""

    async def scenario() -> None:
        async with fleet(2, drain_s=0.5) as workers:
            pids = await workers.serving()
            workers.behave("deaf")
            workers.supervisor.stop()
            assert await workers.running == 1
            assert sorted(line["pid"] for line in workers.log.named("worker killed")) == sorted(pids)
            assert workers.value("phalanx_worker_ends_total", reason="overdue") == 2

    run(scenario())


def test_a_stop_while_workers_start_ends_them(fleet: MakeFleet) -> None:
    """What they were told waits for them."""

    async def scenario() -> None:
        async with fleet(2) as workers:
            workers.supervisor.stop()
            assert await workers.running == 0
            assert workers.workers == []

    run(scenario())
