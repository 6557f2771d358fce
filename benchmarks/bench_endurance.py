"""What a queue outlives: a worker killed, Redis killed and started again, and workers replaced, with jobs under way.

Each job of `collections.upsert` keeps one point. Every job is to complete, every point to be there once, and every job to
be billed once. Workers share PostgreSQL, Redis with an append-only file that is written through, and Qdrant's stand-in of
the tests.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

# Puts the folder of the tests into the path.
import measuring.servers as servers
from live.endurance import Installation, Outcome, installation, kill_a_worker, replace_workers, restart_redis
from measuring.model import models_dir
from measuring.report import Row, main, say

JOBS, RUNNING = 1000, 50
WORKERS, BATCH = 3, 10

SCENARIOS: dict[str, Callable[[Installation], Outcome]] = {
    "kill -9 of a worker": lambda place: kill_a_worker(place, jobs=JOBS, running=RUNNING),
    "kill -9 of Redis": lambda place: restart_redis(place, jobs=JOBS, running=RUNNING),
    f"{WORKERS} workers replaced": lambda place: replace_workers(place, workers=WORKERS, batch=BATCH, running=RUNNING),
}


def measure() -> list[Row]:
    """Return the rows."""
    postgres, redis = servers.PostgresServer(), servers.RedisServer()
    rows = []
    try:
        postgres.start()
        redis.start()
        for name, scenario in SCENARIOS.items():
            with (
                tempfile.TemporaryDirectory(prefix="phalanx-bench-") as folder,
                installation(Path(folder), models_dir(), postgres, redis) as place,
            ):
                found = scenario(place)
            say(f"{name}: {found}")
            rows += _rows(name, found)
    finally:
        postgres.remove()
        redis.remove()
    return rows


def _rows(name: str, found: Outcome) -> list[Row]:
    note = f"{found.queued} jobs, {found.active} under way, {found.took_s:.0f} s in all"
    wrong = {
        "jobs that did not complete": found.queued - found.completed,
        "points missing or too many": abs(found.queued - found.points),
        "jobs billed never or twice": abs(found.queued - found.billed),
    }
    return [
        Row(claim=f"{name}: {what}", measured=float(count), unit="", better="lower", bar=0.0, note=note)
        for what, count in wrong.items()
    ]


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
