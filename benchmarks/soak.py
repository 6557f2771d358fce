"""A long mixed load on one worker: is its memory flat, are its answers sound, does its ledger agree with its clients?

Clients send texts of all lengths in every dialect, new ones and old ones, large requests, bad requests, and one in four times
images of all kinds and sizes, or vectors; some send slowly, some read slowly, some leave in the middle. Those who leave have a key of their own, since only the worker
knows how far their calls came; for all others the ledger must hold exactly what they were answered.

    .venv/bin/python benchmarks/soak.py --services faces,images,vectors     # a face application's worker: no texts
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import numpy as np

from measuring.answer import Answer, parse
from measuring.corpus import Corpus
from measuring.mixed_images import draw_call
from measuring.report import Row, console, say, table
from measuring.worker import HOST, Worker
from phalanx.contract.usage import UsageTotals
from phalanx.stores.sql.database import open_database
from phalanx.stores.sql.usage import SqlUsageLog

STAYING, LEAVING = "stays@example.org", "leaves@example.org"
CLIENTS = 24
PAUSE_S = 0.05
SAMPLE_S = 0.5
WINDOWS = 15
"""Parts of the second half, of each of which the least sample counts: twenty seconds of ten minutes."""
GROWTH_BAR_MIB = 1.0
FACES = "faces,images,vectors"
FACES_BAR_MIB = 600.0
IMAGES = 0.25
"""The part of the requests that are of images and vectors."""
TIMEOUT_S = 60.0


class Asked(NamedTuple):
    """A request and the status that it deserves; `manner` is how it is sent and read."""

    path: str
    body: bytes
    status: int = 200
    manner: str = "plain"
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)
    has_key: bool = True


class Texts:
    """Texts new and old."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self._corpus = Corpus(seed)
        self._old = self._corpus.mixed(200)

    def one(self) -> str:
        """Return a text that is new in two of three cases."""
        return self.draw.choice(self._old) if self.draw.random() < 1 / 3 else self._corpus.mixed(1)[0]

    def some(self, most: int = 8) -> list[str]:
        """Return up to `most` texts."""
        return [self.one() for _ in range(self.draw.randint(1, most))]


def encoded(value: Any) -> bytes:
    """Return JSON."""
    return msgspec.json.encode(value)


GOOD: tuple[Callable[[Texts], Asked], ...] = (
    lambda t: Asked("/v1/embed", encoded({"text": t.one()})),
    lambda t: Asked("/v1/embed", encoded({"text": t.one(), "normalize": True})),
    lambda t: Asked("/v1/text/embed", encoded({"texts": t.some(), "dimensions": t.draw.randint(1, 384)})),
    lambda t: Asked("/v1/text/embed", encoded({"texts": t.some(64), "output": "base64"})),
    lambda t: Asked("/v1/text/embed", encoded({"texts": t.some(), "output": t.draw.choice(["int8", "ubinary"])})),
    lambda t: Asked("/v1/embeddings", encoded({"input": t.some(), "model": "all-MiniLM-L6-v2", "encoding_format": "base64"})),
    lambda t: Asked("/v1/embeddings", encoded({"input": [[7592, 2088], [2023, 2003]], "model": "all-MiniLM-L6-v2"})),
    lambda t: Asked("/embed", encoded({"inputs": t.some()})),
    lambda t: Asked("/embed_all", encoded({"inputs": t.some(2)})),
    lambda t: Asked("/tokenize", encoded({"inputs": t.some()})),
    lambda t: Asked("/similarity", encoded({"inputs": {"source_sentence": t.one(), "sentences": t.some()}})),
    lambda t: Asked("/api/embed", encoded({"model": "all-MiniLM-L6-v2", "input": t.some()})),
    lambda t: Asked("/api/embeddings", encoded({"model": "all-MiniLM-L6-v2", "prompt": t.one()})),
)  # fmt: skip

BAD: tuple[Callable[[Texts], Asked], ...] = (
    lambda t: Asked("/v1/embed", encoded({"text": " \t"}), 400),
    lambda t: Asked("/v1/embed", b'{"text": "trunca', 400),
    lambda t: Asked("/v1/embed", b'{"text": "\xff\xfe"}', 400),
    lambda t: Asked("/v1/embed", encoded({"text": "word " * 5000}), 400),
    lambda t: Asked("/v1/text/embed", encoded({"texts": t.some(), "colour": "red"}), 400),
    lambda t: Asked("/v1/text/embed", encoded({"texts": t.some(), "dimensions": 385}), 400),
    lambda t: Asked("/v1/text/embed", encoded({"texts": t.some(), "model": "no-such-model"}), 404),
    lambda t: Asked("/v1/text/embed", b"[" * 10_000, 400),
    lambda t: Asked("/v1/text/embed", base64.b64encode(t.draw.randbytes(300)), 415, headers=(("Content-Type", "text/plain"),)),
    lambda t: Asked("/v1/text/embed", encoded({"texts": t.some()}), 401, has_key=False),
    lambda t: Asked("/v1/nowhere", b"{}", 404),
)  # fmt: skip

MANNERS = (("plain", 0.86), ("sends slowly", 0.03), ("reads slowly", 0.03), ("leaves", 0.08))


def draw_request(texts: Texts, images: float) -> Asked:
    """Draw what a client sends next: one in ten is bad, those that are good are sent in any manner, `images` is the part of images."""
    asked = _draw_good(texts, images)
    if asked is None:
        return texts.draw.choice(BAD)(texts)
    if asked.status != 200:
        return asked
    manner = texts.draw.choices([name for name, _ in MANNERS], [weight for _, weight in MANNERS])[0]
    return asked._replace(manner=manner)


def _draw_good(texts: Texts, images: float) -> Asked | None:
    """Draw a request, or None where it is to be a bad one of texts."""
    if texts.draw.random() < images:
        call = draw_call(texts.draw)
        return Asked(call.path, call.body, call.status, headers=(("Content-Type", call.content_type),))
    return texts.draw.choice(GOOD)(texts) if texts.draw.random() >= 0.1 else None


class Tally:
    """What the clients saw."""

    def __init__(self) -> None:
        self.answered = self.overloads = self.left = self.broken = 0
        self.wrong: Counter[str] = Counter()

    def note(self, asked: Asked, answer: Answer) -> None:
        """Count an answer, and remember it when it is not what the request deserved."""
        self.answered += answer.status == 200
        if answer.status == 503 and answer.retry_after_s > 0:
            self.overloads += 1
        elif answer.status != asked.status:
            self.wrong[f"{asked.path}: {answer.status} instead of {asked.status}"] += 1


class Client:
    """One client: its requests one after the other, on one connection for as long as that lasts."""

    def __init__(self, port: int, keys: dict[str, str], tally: Tally, seed: int, images: float) -> None:
        self._port, self._keys, self._tally, self._images = port, keys, tally, images
        self._texts = Texts(seed)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, until: float) -> None:
        """Send until `until`, by `time.monotonic()`."""
        while time.monotonic() < until:
            asked = draw_request(self._texts, self._images)
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._send(asked)
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self._tally.broken += 1
                say(f"{asked.path} {asked.manner}: {error!r}")
                self._drop()
            await asyncio.sleep(self._texts.draw.expovariate(1 / PAUSE_S))
        self._drop()

    async def _send(self, asked: Asked) -> None:
        reader, writer = self._streams = self._streams or await asyncio.open_connection(HOST, self._port, limit=2**26)
        request, draw = self._request(asked), self._texts.draw
        if asked.manner == "sends slowly":
            cuts = sorted(draw.sample(range(1, len(request)), 3))
            for start, end in zip([0, *cuts], [*cuts, len(request)], strict=True):
                writer.write(request[start:end])
                await asyncio.sleep(draw.uniform(0.05, 0.5))
        else:
            writer.write(request)
            await writer.drain()
        if asked.manner == "leaves":
            await asyncio.sleep(draw.uniform(0, 0.02))
            self._tally.left += 1
            self._drop()
            return
        if asked.manner == "reads slowly":
            await asyncio.sleep(draw.uniform(0.2, 2.0))
        answer = await _read(reader)
        self._tally.note(asked, answer)
        if not answer.keeps:
            self._drop()
        if answer.retry_after_s > 0:
            await asyncio.sleep(answer.retry_after_s)

    def _request(self, asked: Asked) -> bytes:
        headers = [*asked.headers, ("Content-Length", str(len(asked.body)))]
        if asked.has_key:
            owner = LEAVING if asked.manner == "leaves" else STAYING
            headers.append(("Authorization", f"Bearer {self._keys[owner]}"))
        lines = [f"POST {asked.path} HTTP/1.1", f"Host: {HOST}", *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join([*lines, "", ""]).encode() + asked.body

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _read(reader: asyncio.StreamReader) -> Answer:
    data = bytearray()
    while (answer := parse(data)) is None:
        more = await reader.read(2**18)
        if not more:
            raise asyncio.IncompleteReadError(bytes(data), None)
        data += more
    return answer


class Memory:
    """The worker's memory over time."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.samples: list[tuple[float, float]] = []

    async def watch(self) -> None:
        """Take samples until cancelled."""
        began = time.monotonic()
        while True:
            self.samples.append((time.monotonic() - began, self._worker.rss_mib()))
            if len(self.samples) % 60 == 0:
                say(f"{self.samples[-1][0]:.0f} s: {self.samples[-1][1]:.0f} MiB")
            await asyncio.sleep(SAMPLE_S)

    def growth(self) -> tuple[float, float, float]:
        """Return MiB a minute, by least squares over the second half, and the least MiB of that half's first and last part.

        Pictures under way come and go by tens of MiB from one sample to the next: what stays is the least of each part.
        """
        half = self.samples[len(self.samples) // 2 :]
        size = max(1, len(half) // WINDOWS)
        windows = [half[at : at + size] for at in range(0, len(half), size)]
        least = np.array([(window[0][0] / 60, min(mib for _, mib in window)) for window in windows])
        slope = np.polyfit(least[:, 0], least[:, 1], 1)[0]
        return float(slope), float(least[0, 1]), float(least[-1, 1])


async def soak(worker: Worker, seconds: float, images: float) -> tuple[Tally, Memory]:
    """Load the worker for a while."""
    keys = {owner: worker.make_key(owner) for owner in (STAYING, LEAVING)}
    tally, memory = Tally(), Memory(worker)
    watching = asyncio.create_task(memory.watch())
    until = time.monotonic() + seconds
    await asyncio.gather(*(Client(worker.port, keys, tally, seed, images).run(until) for seed in range(CLIENTS)))
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    return tally, memory


async def ledger(url: str) -> dict[str, UsageTotals]:
    """Return what the ledger holds of each organisation."""
    database = open_database(url)
    try:
        log = SqlUsageLog(database)
        return {owner: await log.totals(organisation=owner) for owner in (STAYING, LEAVING)}
    finally:
        await database.close()


def rows(
    tally: Tally, memory: Memory, totals: dict[str, UsageTotals], status: int, most_mib: float | None
) -> list[Row]:
    """Return the rows; `most_mib` is the bar of the memory."""
    slope, first, last = memory.growth()
    kept, gone = totals[STAYING], totals[LEAVING]
    recorded = kept.requests - kept.errors
    wrong = ", ".join(f"{count} × {what}" for what, count in tally.wrong.most_common(3))
    return [
        Row(claim="memory's growth in the second half", measured=slope, unit="MiB/min", better="lower",
            bar=GROWTH_BAR_MIB, note=f"{first:.0f} to {last:.0f} MiB"),
        Row(claim="the most memory of the worker", measured=max(mib for _, mib in memory.samples), unit="MiB",
            better="lower", bar=most_mib, note="without texts" if most_mib else "all services; one without texts has a bar"),
        Row(claim="answers of another status than deserved", measured=tally.wrong.total(), unit="answers",
            better="lower", bar=0, note=wrong or f"{tally.overloads} overloads"),
        Row(claim="connections that broke", measured=tally.broken, unit="connections", better="lower", bar=0),
        Row(claim="answered calls missing from the ledger, or too many in it", measured=abs(recorded - tally.answered),
            unit="calls", better="lower", bar=0, note=f"{tally.answered:,} answered, {recorded:,} in the ledger"),
        Row(claim="calls of those who left, in the ledger", measured=gone.requests, unit="calls", better="lower",
            bar=tally.left, note=f"{gone.errors:,} of them cancelled; {tally.left:,} left"),
        Row(claim="exit status after draining", measured=status, unit="", better="lower", bar=0),
    ]  # fmt: skip


def main() -> int:
    """Soak one worker and print what came of it; returns 1 when something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long [600]")
    parser.add_argument("--services", choices=("all", FACES), default="all", help="what the worker serves [all]")
    arguments = parser.parse_args()
    is_faces = arguments.services == FACES
    # Where others use the machine too, an answer may take longer than a worker allows by itself.
    environ = {"REQUEST_TIMEOUT": "30000", **({"SERVICES": FACES} if is_faces else {})}
    with Worker(scope=FACES if is_faces else f"text,{FACES}", environ=environ) as worker:
        tally, memory = asyncio.run(soak(worker, arguments.seconds, 1.0 if is_faces else IMAGES))
        status = worker.stop()
        totals = asyncio.run(ledger(worker.database))
    found = rows(tally, memory, totals, status, FACES_BAR_MIB if is_faces else None)
    console().print(table(found, f"{arguments.seconds:.0f} s"))
    return int(any(row.verdict == "FAIL" for row in found))


if __name__ == "__main__":
    sys.exit(main())
