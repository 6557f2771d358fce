"""Jobs through one worker of a queue, beside BullMQ's own bare worker, and from adding a job to its end.

The operation compares two vectors of two numbers, with gate, metering and request log on; the bare worker's processor returns
at once. Both drain a queue that was filled before, in turn, on the same Redis and cores. Latency is of one job at a time
in an idle queue, until the producer hears of its end by BullMQ's events, over the same connection that it listens on.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bullmq
import uvloop

from measuring.cores import available
from measuring.model import models_dir
from measuring.report import Row, main, say
from measuring.servers import RedisServer
from measuring.worker import HOST, PHALANX

RATE_BAR, LATENCY_BAR_MS = 1200.0, 5.0
BARE_RATE = 3600.0
"""What BullMQ's bare worker does on the machine that the bars are meant for."""
JOBS, IN_A_BULK, REPETITIONS = 3000, 500, 3
SINGLE_JOBS, WARM_UP = 300, 50
PATIENCE_S = 120.0
DATA = {"a": [1.0, 2.0], "b": [2.0, 1.0]}


def measure() -> list[Row]:
    """Return the rows."""
    redis = RedisServer("--appendfsync", "everysec")
    redis.start()
    try:
        with _worker(redis.url):
            return uvloop.run(_measure(redis.url))
    finally:
        redis.remove()


@contextmanager
def _worker(url: str) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="phalanx-bench-") as folder:
        log = Path(folder) / "log"
        environ = {
            "PATH": os.environ["PATH"], "DATA_DIR": folder, "MODEL_DIR": str(models_dir()), "LOG_FORMAT": "json",
            "QUEUE_REDIS_URL": url, "PROMETHEUS_BIND": f"{HOST}:0",
        }  # fmt: skip
        words = [str(PHALANX), "keys", "create", "bench@example.org", "--tier", "scale", "--scope", "vectors", "--json"]
        made = subprocess.run(words, env=environ, capture_output=True, text=True, check=True, cwd=folder)
        bound = f"ours={json.loads(made.stdout)['record']['id']}"
        with log.open("wb") as out:
            process = subprocess.Popen([PHALANX, "work", bound], env=environ, stdout=out, stderr=out, cwd=folder)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while '"working"' not in log.read_text():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the worker did not start: {log.read_text()[-2000:]}")
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


async def _measure(url: str) -> list[Row]:
    ours, bare = bullmq.Queue("ours", {"connection": url}), bullmq.Queue("bare", {"connection": url})
    rates: list[float] = []
    ratios: list[float] = []
    await _drained(ours)
    for number in range(REPETITIONS):
        alone = await _bare(bare, url)
        rates.append(await _rate(ours))
        ratios.append(rates[-1] / alone)
        say(f"{number + 1}/{REPETITIONS}: {rates[-1]:,.0f} jobs/s, bare {alone:,.0f}")
    latencies = await _latencies(ours)
    await ours.close()
    await bare.close()
    note = f"{len(available())} cores, {JOBS} jobs a run, 20 at once"
    return [
        Row(
            claim="jobs ÷ BullMQ's bare worker", measured=statistics.median(ratios), unit="×", better="higher",
            bar=RATE_BAR / BARE_RATE, noise=0.15, note=f"{note}, median of {REPETITIONS} runs",
        ),
        Row(
            claim="jobs through one worker", measured=max(rates), unit="jobs/s", better="higher", bar=RATE_BAR,
            yardstick=max(rate / ratio for rate, ratio in zip(rates, ratios, strict=True)), noise=0.2,
            note=f"{note}, best of {REPETITIONS}; yardstick: the bare worker",
        ),
        Row(
            claim="from add to done, idle: p50", measured=statistics.median(latencies), unit="ms", better="lower",
            bar=LATENCY_BAR_MS, noise=0.3, note=f"{SINGLE_JOBS} jobs one after the other",
        ),
    ]  # fmt: skip


async def _fill(queue: Any) -> None:
    for _ in range(JOBS // IN_A_BULK):
        jobs = [
            {"name": "vectors.similarity", "data": DATA, "opts": {"removeOnComplete": True}} for _ in range(IN_A_BULK)
        ]
        await queue.addBulk(jobs)


async def _drained(queue: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        counts = await queue.getJobCounts("wait", "active", "failed")
        if counts["failed"]:
            raise RuntimeError(f"jobs failed: {counts}")
        if not counts["wait"] and not counts["active"]:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"jobs are left: {counts}")
        await asyncio.sleep(0.02)


async def _rate(queue: Any) -> float:
    """Drain a queue that was filled while it was paused, by the worker that runs."""
    await queue.pause()
    await _fill(queue)
    began = time.perf_counter()
    await queue.resume()
    await _drained(queue)
    return JOBS / (time.perf_counter() - began)


async def _bare(queue: Any, url: str) -> float:
    await _fill(queue)

    async def nothing(_job: Any, _token: str) -> dict[str, float]:
        return {"similarity": 0.8}

    began = time.perf_counter()
    worker = bullmq.Worker(queue.name, nothing, {"connection": url, "concurrency": 20})
    await _drained(queue)
    took = time.perf_counter() - began
    await worker.close()
    return JOBS / took


async def _latencies(queue: Any) -> list[float]:
    client, stream = queue.backend.conn, queue.backend.toKey("events")
    took = []
    for _ in range(SINGLE_JOBS + WARM_UP):
        seen = (await client.xrevrange(stream, count=1))[0][0]
        began = time.perf_counter()
        job = await queue.add("vectors.similarity", DATA, {"removeOnComplete": True})
        done = False
        while not done:
            for _, events in await client.xread({stream: seen}, block=5000):
                seen = events[-1][0]
                done = done or any(one["event"] == "completed" and one["jobId"] == job.id for _, one in events)
        took.append((time.perf_counter() - began) * 1e3)
    return took[WARM_UP:]


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
