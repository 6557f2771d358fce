"""The run: read ahead, keep some requests in flight, write their answers in the input's order, note how far it came."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from phalanx.cli.bulk.asking import Answer, Embedder, EmbedOptions, ask
from phalanx.cli.bulk.feed import Bounds, Feed, chunks
from phalanx.cli.bulk.journal import Journal, Tally
from phalanx.cli.bulk.readers import Reader
from phalanx.cli.bulk.records import Position, Record, Row
from phalanx.cli.bulk.writers import Writer
from phalanx.contract.text import EmbedItem
from phalanx.errors import InvalidRequest, PhalanxError

CHECKPOINT_BYTES = 16 << 20
CHECKPOINT_S = 10.0

Show = Callable[[Tally, Position], None]
"""Told after each chunk how far the run is."""

Answered = tuple[list[Record], list[Answer]]


class OnError(enum.StrEnum):
    """What to do with a record that has no vector: write it without one, leave it out, or stop."""

    NULL = "null"
    SKIP = "skip"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Pace:
    """How much is under way at once: `window` chunks, at least 3, each within `bounds`."""

    bounds: Bounds
    window: int


class Run:
    """One sitting of a run, from the journal's place to the end of the input.

    `save` is called with the journal after each checkpoint of the writer; memory is bounded by what is in flight
    and by what the writer holds between checkpoints.
    """

    def __init__(
        self,
        *,
        reader: Reader,
        embedder: Embedder,
        writer: Writer,
        journal: Journal,
        save: Callable[[Journal], None],
        options: EmbedOptions,
        pace: Pace,
        show: Show = lambda tally, position: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._embedder = embedder
        self._writer = writer
        self._journal = journal
        self._save = save
        self._options = options
        self._pace = pace
        self._show = show
        self._now = now
        self._tally = msgspec.structs.replace(journal.tally)
        self._position = journal.position
        self.first_failure = ""

    async def finish(self) -> tuple[Path, Tally]:
        """Run to the end; return the writer's file and the counts.

        What interrupts it, Ctrl-C too, is raised after a last checkpoint. Raises `InvalidRequest` for a broken
        input and, under `fail`, for the first record that has no vector; `OSError` when the disk takes no more.
        """
        began, spent = self._now(), self._tally.seconds
        noted = began
        try:
            async with aclosing(self._answered()) as answered:
                async for records, answers in answered:
                    self._take(records, answers)
                    now = self._now()
                    self._tally.seconds = spent + now - began
                    self._show(self._tally, self._position)
                    if self._writer.pending >= CHECKPOINT_BYTES or now - noted >= CHECKPOINT_S:
                        self._checkpoint()
                        noted = now
            self._checkpoint()
            return self._writer.finish(), self._tally
        except (asyncio.CancelledError, PhalanxError):
            # Nothing else leaves rows and counts in step: after a failed write the earlier checkpoint holds.
            with suppress(OSError):
                self._checkpoint()
            raise
        finally:
            with suppress(OSError):
                self._writer.close()

    async def _answered(self) -> AsyncGenerator[Answered, None]:
        """Yield chunks with their answers in order, as many under way as the window allows."""
        feed = Feed(chunks(self._reader.records(self._position), self._pace.bounds))
        # One more waits in the producer's hand, and one in the consumer's.
        queue: asyncio.Queue[asyncio.Future[Answered] | None] = asyncio.Queue(self._pace.window - 2)
        under_way: set[asyncio.Future[Any]] = set()

        async def produce() -> None:
            try:
                while (records := await feed.next()) is not None:
                    task = asyncio.create_task(self._answer(records))
                    under_way.add(task)
                    await queue.put(task)
            except Exception as error:
                # The failure takes its place in the order: what was read before it is still written.
                failed: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
                failed.set_exception(error)
                under_way.add(failed)
                await queue.put(failed)
            await queue.put(None)

        under_way.add(asyncio.create_task(produce()))
        try:
            while (task := await queue.get()) is not None:
                yield await task
                under_way.discard(task)
        finally:
            feed.close()
            for left in under_way:
                left.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _answer(self, records: list[Record]) -> Answered:
        texts = [record.text for record in records if record.text is not None and record.problem is None]
        answers = iter(await ask(self._embedder, texts, self._options))
        return records, [
            next(answers)
            if record.problem is None
            else Answer(None, EmbedItem(tokens=0, used_tokens=0, truncated=False, cached=False, error=record.problem))
            for record in records
        ]

    def _take(self, records: Sequence[Record], answers: Sequence[Answer]) -> None:
        """Write a chunk's rows; under `fail`, those before the first failure."""
        rows: list[Row] = []
        for record, answer in zip(records, answers, strict=True):
            item = answer.item
            if item.error is not None:
                failure = f"{self._reader.unit} {record.end.line}: {item.error.detail}"
                if self._journal.on_error == OnError.FAIL:
                    self._writer.write(rows)
                    raise InvalidRequest(f"{failure} (--on-error null or skip goes on behind it)")
                self._tally.failed += 1
                self.first_failure = self.first_failure or failure
            if item.error is None or self._journal.on_error == OnError.NULL:
                rows.append(
                    Row(self._tally.records, record.text, answer.embedding, item.tokens, item.truncated, item.error)
                )
            self._tally.records += 1
            self._tally.tokens += item.used_tokens
            self._tally.truncated += item.truncated
            self._position = record.end
        self._writer.write(rows)

    def _checkpoint(self) -> None:
        state = self._writer.checkpoint()
        self._journal = msgspec.structs.replace(
            self._journal, position=self._position, state=state, tally=msgspec.structs.replace(self._tally)
        )
        self._save(self._journal)
