"""One text over HTTP: latency uncached, rate cached, and what is spent outside the engine.

`POST /v1/embed` with two-word texts of four tokens, with key check, metering and request log on. Uncached: one client,
every text new, the worker on all cores (the client sleeps while the worker works). Cached: the worker on one core, the
load generator on another, all texts in the cache. Other users of a machine only ever add time, so of several
repetitions the best one counts.
"""

from __future__ import annotations

import statistics
import sys

import numpy as np

from measuring.cores import available, split
from measuring.corpus import Corpus
from measuring.load import Answers, Load, json_bodies, percentile, send
from measuring.report import Row, main, say
from measuring.worker import Worker
from measuring.yardstick import trivial_latency_ms, trivial_rate

P50_BAR, P99_BAR, OVERHEAD_BAR, CACHED_BAR = 1.2, 2.5, 0.3, 8000.0
REPETITIONS = 5
REQUESTS = 1500
WARM_UP = 200
CACHED_TEXTS = 64
CONNECTIONS = 32
CACHED_S = 3.0


def measure() -> list[Row]:
    """Return the rows."""
    return [*_uncached(), _cached()]


def _uncached() -> list[Row]:
    corpus, yard = Corpus(4), [trivial_latency_ms()]
    runs: list[Answers] = []
    with Worker() as worker:
        for number in range(REPETITIONS):
            bodies = json_bodies(corpus.short(REQUESTS + WARM_UP))
            answers = send(Load(port=worker.port, key=worker.key, bodies=bodies, warm_up=WARM_UP))
            answers.require_ok()
            if float(np.min(answers.engine_ms)) <= 0:
                raise RuntimeError("a text that should have been new came from the cache")
            runs.append(answers)
            yard.append(trivial_latency_ms())
            say(f"uncached {number + 1}/{REPETITIONS}: p50 {percentile(answers.latency_ms, 50):.3f} ms")
    overhead = [one.total_ms - one.engine_ms for one in runs]
    outside = [one.latency_ms - one.engine_ms for one in runs]
    bare_p50, bare_p99 = min(p50 for p50, _ in yard), min(p99 for _, p99 in yard)
    engine = min(percentile(one.engine_ms, 50) for one in runs)
    cores = f"{len(available())} cores, one client, {REQUESTS} new texts a run, best of {REPETITIONS} runs"
    return [
        Row(
            claim="uncached: p50", measured=min(percentile(one.latency_ms, 50) for one in runs), unit="ms",
            better="lower", bar=P50_BAR, yardstick=bare_p50, noise=0.2, note=cores,
        ),
        Row(
            claim="uncached: p99", measured=min(percentile(one.latency_ms, 99) for one in runs), unit="ms",
            better="lower", bar=P99_BAR, yardstick=bare_p99, noise=0.5, note=f"bare loopback HTTP: {bare_p99:.3f} ms",
        ),
        Row(
            claim="all but the engine, by Server-Timing: p50", measured=min(percentile(one, 50) for one in overhead),
            unit="ms", better="lower", bar=OVERHEAD_BAR, yardstick=bare_p50, noise=0.2,
            note=f"engine {engine:.3f} ms",
        ),
        Row(
            claim="all but the engine, as the client sees it: p50", measured=min(percentile(one, 50) for one in outside),
            unit="ms", better="lower", yardstick=bare_p50, noise=0.2, note=f"bare loopback HTTP: {bare_p50:.3f} ms",
        ),
    ]  # fmt: skip


def _cached() -> Row:
    server, client = split()
    bodies = json_bodies(Corpus(5).short(CACHED_TEXTS))
    rates, bare = [], []
    with Worker(cores=server) as worker:
        send(Load(port=worker.port, key=worker.key, bodies=bodies)).require_ok()
        for number in range(REPETITIONS):
            load = Load(
                port=worker.port, key=worker.key, bodies=bodies, repeat=True, connections=CONNECTIONS,
                seconds=CACHED_S, warm_up=WARM_UP, cores=client,
            )  # fmt: skip
            answers = send(load)
            answers.require_ok()
            if float(np.max(answers.engine_ms)) > 0:
                raise RuntimeError("a text that should have been cached went to the engine")
            rates.append(answers.rate)
            bare.append(trivial_rate(server, client, CONNECTIONS, seconds=1.0))
            say(f"cached {number + 1}/{REPETITIONS}: {rates[-1]:,.0f} req/s, the trivial server {bare[-1]:,.0f}")
    shared = "" if server != client else "; one core only: the generator shares it"
    return Row(
        claim="cached, on one core", measured=max(rates), unit="req/s", better="higher", bar=CACHED_BAR,
        yardstick=statistics.median(bare), note=f"{CONNECTIONS} connections; bare loopback HTTP: {statistics.median(bare):,.0f} req/s{shared}",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
