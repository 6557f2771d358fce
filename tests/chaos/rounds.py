"""Rounds of random kills under load, and what the checker says at their end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chaos.checker import check
from chaos.clients import Record
from chaos.crowd import ENVIRON, Crowd
from chaos.fleet import DATABASE, REDIS, Fleet
from chaos.ledger import read_counters, read_ledger
from chaos.record import Quota, Rate, Revocation, Run
from chaos.shapes import SHAPES, Shape
from servers import PostgresServer, RedisServer

SHARES = {"worker": 4, REDIS: 2, DATABASE: 2, "both servers": 1, "worker and server": 1}
SUPERVISOR_SHARE = 1
UNSEEN_S = 6.0
"""A journal is flushed each five seconds, and that takes a moment."""
"""How often what is killed."""

NONE: Mapping[str, Any] = {}
Say = Callable[[str], None]


class Violated(AssertionError):
    """Invariants that did not hold, a sentence each."""


async def run_rounds(
    rounds: int, seed: int, folder: Path, models_dir: Path, postgres: PostgresServer, redis: RedisServer,
    say: Say = lambda line: None, shape: Shape = SHAPES["replicas"],
) -> Run:  # fmt: skip
    """Let a crowd use some workers, kill something at random in each round, and return the record. The seed is said."""
    say(f"seed {seed}, {rounds} rounds")
    draw = random.Random(seed)
    fleet = Fleet(
        folder, models_dir, workers=shape.places, processes=shape.workers, postgres=postgres, redis=redis,
        environ={**ENVIRON, **shape.environ},
    )  # fmt: skip
    async with fleet:
        record = Record(f"call-{seed}")
        # Clients draw in the order in which they are answered, which no seed repeats; what is killed is drawn apart.
        crowd = Crowd(fleet, record, random.Random(draw.random()))
        admin = await asyncio.to_thread(fleet.make_caller, "admin@example.org", "scale", ("keys", "admin"))
        await crowd.start(admin)
        for number in range(1, rounds + 1):
            await asyncio.sleep(draw.uniform(0.5, 2.0))
            victims = _victims(draw, fleet)
            for name in victims:
                fleet.kill(name, record)
                await asyncio.sleep(draw.choice((0.0, 0.3)))
            await asyncio.sleep(draw.uniform(0.1, 1.5))
            await asyncio.gather(*(fleet.start(name) for name in draw.sample(victims, len(victims))))
            say(f"round {number}: {' and '.join(victims)}, {len(record.calls)} calls so far")
        await asyncio.sleep(1.0)
        await crowd.stop()
        await fleet.close()
        return await assemble(fleet, record, crowd.revocations, crowd.rates, crowd.quotas)


async def assemble(
    fleet: Fleet, record: Record, revocations: Sequence[Revocation] = (), rates: Mapping[str, Rate] = NONE,
    quotas: Mapping[str, Quota] = NONE,
) -> Run:  # fmt: skip
    """Put the record of a run together once all workers have ended. Rates and quotas are those of organisations."""
    events, daily = await read_ledger(fleet.database_url)
    run = Run(
        calls=record.calls, events=events, daily=daily, kills=fleet.kills,
        outages=[*fleet.outages, *fleet.degradations()],
        revocations=list(revocations), rates=dict(rates), quotas=dict(quotas),
        unseen_s=UNSEEN_S if fleet.supervisors else 0.0, journal_in_redis=fleet.environ.get("USAGE_JOURNAL") == "redis",
    )  # fmt: skip
    if fleet.redis is not None:
        counted = await read_counters(fleet.redis.url, run.quotas)
        run.quotas = {name: quota._replace(counted=counted[name]) for name, quota in run.quotas.items()}
    return run


def require(run: Run) -> None:
    """Raise `Violated` unless all invariants hold."""
    found = check(run)
    if found:
        raise Violated("\n".join(found))


def summary(run: Run) -> str:
    """Return what happened in a line."""
    ok, answered = sum(call.is_ok for call in run.calls), sum(call.is_answered for call in run.calls)
    left, events = sum(call.left for call in run.calls), len(run.events)
    surplus = {event.request_id for event in run.events} - {call.request_id for call in run.calls if call.is_answered}
    return (
        f"{len(run.calls)} calls: {ok} done, {answered - ok} refused, {left} left by their clients, "
        f"{len(run.calls) - answered - left} cut off; {events} events, {len(surplus)} of calls without an answer; "
        f"{len(run.kills)} kills, {len(run.revocations)} revocations, limits by shares {len(run.spans('limits'))} times"
    )


def _victims(draw: random.Random, fleet: Fleet) -> list[str]:
    shares = SHARES if fleet.supervisors == [] else {**SHARES, "supervisor": SUPERVISOR_SHARE}
    kind = draw.choices(list(shares), list(shares.values()))[0]
    worker, server = draw.choice(fleet.workers), draw.choice((DATABASE, REDIS))
    if kind == "supervisor":
        return [draw.choice(fleet.supervisors)]
    return {"worker": [worker], "both servers": [DATABASE, REDIS], "worker and server": [server, worker]}.get(
        kind, [kind]
    )
