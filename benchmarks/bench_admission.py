"""What it costs to know, limit and bill a caller: key check, rate, quota, permit and usage event of one call.

In process, one call after another, between `admit` and the end of `settle`, for a free key, which has every limit. Once
embedded (SQLite and memory), once on PostgreSQL and Redis servers of its own on the loopback. Then over HTTP: the rate
of cached answers with all of that on, against AUTH=off.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from measuring.cores import split
from measuring.corpus import Corpus
from measuring.load import Load, json_bodies, percentile, send
from measuring.report import Row, main, say
from measuring.servers import postgres_and_redis
from measuring.worker import Worker
from phalanx.app import App, build
from phalanx.cli.worker import call_here
from phalanx.contract.keys import CreateKeyRequest
from phalanx.operations import Kind
from phalanx.services.ticket import Call, Credential
from phalanx.settings import Secret, load
from phalanx.telemetry import configure_logs

MEMORY_BAR, SERVERS_BAR, RATE_BAR = 0.15, 0.35, 2 / 3
CALLS, WARM_UP = 3000, 300
ROUNDS = 3
CACHED_TEXTS, CONNECTIONS, CACHED_S = 64, 32, 3.0
MANY = str(10**9)
LIMITS = {"RATE_LIMIT_REQUESTS_PER_MINUTE": MANY, "RATE_LIMIT_BURST": MANY, "FREE_TIER_LIMIT": MANY}


def measure() -> list[Row]:
    """Return the rows."""
    configure_logs(level="error")
    with postgres_and_redis() as servers:
        embedded, shared = [], []
        for number in range(ROUNDS):
            embedded.append(asyncio.run(_admissions({})))
            shared.append(asyncio.run(_admissions(servers)))
            say(
                f"admission {number + 1}/{ROUNDS}: p50 {percentile(embedded[-1], 50):.3f} ms embedded, "
                f"{percentile(shared[-1], 50):.3f} ms on servers"
            )
    return [
        _row("key check, limits and metering, embedded: p50", embedded, MEMORY_BAR),
        _row("key check, limits and metering, PostgreSQL and Redis: p50", shared, SERVERS_BAR),
        _cached(),
    ]


def _row(claim: str, runs: list[NDArray[np.float64]], bar: float) -> Row:
    worst = min(percentile(run, 99) for run in runs)
    return Row(
        claim=claim, measured=min(percentile(run, 50) for run in runs), unit="ms", better="lower", bar=bar, noise=0.3,
        note=f"p99 {worst:.3f} ms; {CALLS} calls a run, best of {ROUNDS}",
    )  # fmt: skip


async def _admissions(environ: Mapping[str, str]) -> NDArray[np.float64]:
    """Return the milliseconds that each of many calls spent at the gate."""
    async with _app(environ) as app:
        request = CreateKeyRequest(email="bench@example.org", tier="free", scopes=("text",))
        made = await call_here(app, app.operations["keys.create"], request)
        credential = Credential("key", Secret(made.key), "127.0.0.1")
        spent = [await _one(app, credential) for _ in range(WARM_UP + CALLS)]
    return np.asarray(spent[WARM_UP:])


async def _one(app: App, credential: Credential) -> float:
    gate, row = app.entrance.gate, app.operations["text.embed"]
    call = Call(credential, "bench")
    began = time.perf_counter()
    await gate.admit(call, row.scope, metered=row.metered)
    ticket = gate.reserve(
        call, operation=row.name, unit=row.unit, computed=row.computed, streaming=row.kind is not Kind.UNARY
    )
    ticket.meter.units = ticket.meter.tokens = 4
    await gate.settle(ticket, status="ok", computed=row.computed)
    spent = time.perf_counter() - began
    # Whatever the adapters put off until the loop is free is theirs to do between two calls.
    await asyncio.sleep(0)
    return spent * 1e3


@asynccontextmanager
async def _app(environ: Mapping[str, str]) -> AsyncIterator[App]:
    with tempfile.TemporaryDirectory(prefix="phalanx-bench-") as folder:
        loaded = load({"DATA_DIR": folder, **LIMITS, **environ}, folder=Path(folder))
        async with build(loaded.settings, is_serving=True) as app:
            yield app


def _cached() -> Row:
    """The rate with key and metering by that without, in turns."""
    server, client = split()
    bodies = json_bodies(Corpus(5).short(CACHED_TEXTS))
    shares, rates = [], []
    with Worker(cores=server) as known, Worker(cores=server, environ={"AUTH": "off"}) as stranger:
        for number in range(ROUNDS):
            with_key, without = (
                send(
                    Load(
                        port=worker.port, key=key, bodies=bodies, repeat=True, connections=CONNECTIONS,
                        seconds=CACHED_S, warm_up=4 * CACHED_TEXTS, cores=client,
                    )
                ).rate
                for worker, key in ((known, known.key), (stranger, ""))
            )  # fmt: skip
            rates.append(with_key)
            shares.append(with_key / without)
            say(f"cached {number + 1}/{ROUNDS}: {with_key:,.0f} req/s with a key, {without:,.0f} with AUTH=off")
    return Row(
        claim="cached rate with key and metering ÷ AUTH=off", measured=statistics.median(shares), unit="×",
        better="higher", bar=RATE_BAR, note=f"{max(rates):,.0f} req/s with a key",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
