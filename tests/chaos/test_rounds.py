"""A few rounds of random kills; `make chaos` runs twenty."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from chaos.rounds import require, run_rounds, summary
from servers import PostgresServer, RedisServer

ROUNDS = 4


def test_invariants_hold_whatever_is_killed(
    tmp_path: Path, models_dir: Path, postgres: PostgresServer, redis_server: RedisServer
) -> None:
    """Workers, Redis and PostgreSQL, while a crowd calls. What is printed repeats the run's choices."""
    seed = random.SystemRandom().randrange(10**6)
    run = asyncio.run(run_rounds(ROUNDS, seed, tmp_path, models_dir, postgres, redis_server, print))
    print(summary(run))  # noqa: T201
    assert sum(call.is_ok for call in run.calls) > 100
    assert run.revocations
    require(run)
