"""A text-only worker's memory after 2,000 different shapes, and the time from its start until it is ready."""

from __future__ import annotations

import random
import statistics
import sys

import msgspec

from measuring.corpus import Corpus
from measuring.load import Load, send
from measuring.own import open_own
from measuring.report import Row, main, say
from measuring.worker import Worker
from measuring.yardstick import python_start_s

SHAPES = 2000
MOST_TOKENS = 768
MOST_TEXTS = 64
STARTS = 5
RSS_BAR_MIB, START_BAR_S = 420.0, 3.0


def measure() -> list[Row]:
    """Return the rows."""
    return [_start(), _worker_memory(), _engine_memory()]


def _start() -> Row:
    bare = python_start_s()
    seconds = []
    for _ in range(STARTS):
        with Worker() as worker:
            seconds.append(worker.start_s)
        say(f"ready after {seconds[-1]:.2f} s")
    return Row(
        claim="from start to ready", measured=statistics.median(seconds), unit="s", better="lower", bar=START_BAR_S,
        yardstick=bare, noise=0.2, note=f"median of {STARTS}, least {min(seconds):.2f} s; files in the page cache",
    )  # fmt: skip


def _worker_memory() -> Row:
    """Send requests of different counts and lengths of texts, each pair once."""
    pairs = [(n, length) for n in range(1, MOST_TEXTS + 1) for length in range(3, 257) if n * length <= MOST_TOKENS]
    random.Random(8).shuffle(pairs)
    corpus = Corpus(9)
    bodies = [msgspec.json.encode({"texts": [corpus.text(length) for _ in range(n)]}) for n, length in pairs[:SHAPES]]
    with Worker() as worker:
        before = worker.rss_mib()
        answers = send(Load(port=worker.port, key=worker.key, path="/v1/text/embed", bodies=bodies, seconds=600.0))
        answers.require_ok()
        after = worker.rss_mib()
    return Row(
        claim=f"worker's RSS after {len(answers):,} shapes", measured=after, unit="MiB", better="lower", bar=RSS_BAR_MIB,
        note=f"{before:.0f} MiB when it became ready",
    )  # fmt: skip


def _engine_memory() -> Row:
    """Show the engine batches of different shapes without the runner, which never makes so many."""
    with open_own() as (own, _):
        found = own.ask("shapes", count=SHAPES, most_tokens=MOST_TOKENS, seed=10)
    return Row(
        claim=f"RSS of the engine alone after {found['shapes']:,} shapes", measured=found["after_mib"], unit="MiB",
        better="lower", bar=RSS_BAR_MIB, note=f"{found['before_mib']:.0f} MiB when loaded",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(measure, __doc__))
