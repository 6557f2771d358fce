"""`make chaos`: twenty rounds, or ROUNDS, of random kills, in a SHAPE; SEED repeats a run's choices."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from chaos.checker import check
from chaos.rounds import run_rounds, summary
from chaos.shapes import SHAPES
from servers import PostgresServer, RedisServer

SHOWN = 40


def main() -> int:
    """Run the rounds and print what was violated; 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, help="the model store")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--shape", choices=list(SHAPES), default="replicas")
    parser.add_argument("--folder", type=Path, help="where data and logs stay; without it they are deleted")
    arguments = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    postgres, redis = PostgresServer(), RedisServer()
    try:
        postgres.start()
        redis.start()
        with nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as folder:
            run = asyncio.run(
                run_rounds(
                    arguments.rounds, arguments.seed, Path(folder), arguments.models.resolve(), postgres, redis,
                    console.print, SHAPES[arguments.shape],
                )
            )  # fmt: skip
    finally:
        redis.remove()
        postgres.remove()
    console.print(summary(run))
    found = check(run)
    for said in found[:SHOWN]:
        console.print(said)
    kinds = Counter(said.split(":")[0] for said in found)
    console.print(f"{len(found)} violations: {dict(kinds)}" if found else "all invariants hold")
    return 1 if found else 0


sys.exit(main())
