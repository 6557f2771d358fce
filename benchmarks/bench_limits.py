"""What limits cost a call: rate and quota taken in one step, and settled; in memory, and in Redis on the loopback.

In process, on uvloop as in the worker. One call after another, then a thousand at once, which share round trips. The
yardstick is a GET by the same Redis client: what one round trip costs on this machine. Redis writes its log once a
second (`appendfsync everysec`, its default), since otherwise each call would measure the disk.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable

import numpy as np
import uvloop

import measuring.servers  # noqa: F401 -- the servers that the tests start can be imported after it
from measuring.load import percentile
from measuring.report import Row, main, say
from phalanx.ports import Allowance, Limiter, RatePolicy
from phalanx.stores.memory.clock import SystemClock
from phalanx.stores.memory.limiter import MemoryLimiter
from phalanx.stores.redis.client import open_redis
from phalanx.stores.redis.limiter import RedisLimiter
from servers import RedisServer

ROUNDS, CALLS, WARM_UP = 5, 2_000, 200
CROWD = 1_000
NEVER_FULL = Allowance(RatePolicy(per_minute=10**9, burst=10**9), monthly=10**12)
PERIOD = "2026-11"


def measure() -> list[Row]:
    """Return the rows."""
    server = RedisServer("--appendfsync", "everysec")
    try:
        server.start()
        return uvloop.run(_measure(server.url))
    finally:
        server.remove()


async def _measure(url: str) -> list[Row]:
    memory, clock = MemoryLimiter(SystemClock()), SystemClock()
    async with open_redis(url) as redis:
        shared = RedisLimiter(redis, clock)
        await shared.begin_counting()
        await redis.set("yardstick", 1)
        alone: dict[str, list[float]] = {"get": [], "memory": [], "redis": []}
        together: dict[str, list[float]] = {"memory": [], "redis": []}
        for number in range(ROUNDS):
            alone["get"].append(await _p50_us(lambda: redis.get("yardstick")))
            for name, limiter in (("memory", memory), ("redis", shared)):
                alone[name].append(await _p50_us(_call(limiter)))
                together[name].append(await _rate(_call(limiter)))
            say(f"limits {number + 1}/{ROUNDS}: " + ", ".join(f"{name} {alone[name][-1]:.0f} µs" for name in alone))
        await shared.close()
    get = min(alone["get"])
    return [
        _row("take and settle in memory: p50", min(alone["memory"]), None, ""),
        _row("take and settle in Redis: p50", min(alone["redis"]), get, f"a GET: {get:.0f} µs"),
        *(
            Row(
                claim=f"take and settle, {CROWD:,} at once: {name}", measured=max(rates), unit="/s", better="higher",
                noise=0.3,
            )
            for name, rates in together.items()
        ),
    ]  # fmt: skip


def _row(claim: str, us: float, yardstick_us: float | None, note: str) -> Row:
    return Row(
        claim=claim, measured=us / 1e3, unit="ms", better="lower", noise=0.3, note=note,
        yardstick=None if yardstick_us is None else yardstick_us / 1e3,
    )  # fmt: skip


def _call(limiter: Limiter) -> Callable[[], Awaitable[object]]:
    leases = map(str, itertools.count())

    async def call() -> None:
        grant = await limiter.take("somebody", NEVER_FULL, period=PERIOD, lease=next(leases))
        assert not grant.refused
        await limiter.settle(grant, billed=True)

    return call


async def _p50_us(call: Callable[[], Awaitable[object]]) -> float:
    spent = []
    for _ in range(WARM_UP + CALLS):
        began = time.perf_counter()
        await call()
        spent.append(time.perf_counter() - began)
        # What is put off until the loop is free is done between two calls.
        await asyncio.sleep(0)
    return percentile(np.asarray(spent[WARM_UP:]), 50) * 1e6


async def _rate(call: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(CROWD)))
    return CROWD / (time.perf_counter() - began)


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
