"""Turn records into requests, read ahead of the engine in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

from phalanx.cli.bulk.records import Record
from phalanx.contract.text import ItemError
from phalanx.errors import InvalidRequest

CHUNK_CHARS = 1 << 20
"""Characters after which a chunk is full whatever its tokens: texts are cut, but only once they are in memory."""

TOKENS_STEP = 16
SPECIAL_TOKENS = 2

T = TypeVar("T")

BLANK = ItemError(code=InvalidRequest.row.code, detail="the text is empty or white space only")


class Bounds(NamedTuple):
    """How large a chunk may be: its records, its tokens (by an upper estimate), the most tokens of one text."""

    records: int
    tokens: int
    tokens_of_text: int


def chunks(records: Iterator[Record], bounds: Bounds) -> Iterator[list[Record]]:
    """Yield records in groups that make one request each. Blank texts become problems here.

    The estimate is one token a character, which WordPiece does not pass; lengths count as the engine pads them.
    """
    chunk: list[Record] = []
    tokens = chars = 0
    for record in records:
        if record.text is not None and (not record.text or record.text.isspace()):
            record = Record(record.text, BLANK, record.end)  # noqa: PLW2901
        chunk.append(record)
        length = len(record.text or "")
        chars += length
        tokens += -(-min(length + SPECIAL_TOKENS, bounds.tokens_of_text) // TOKENS_STEP) * TOKENS_STEP
        if len(chunk) >= bounds.records or tokens >= bounds.tokens or chars >= CHUNK_CHARS:
            yield chunk
            chunk, tokens, chars = [], 0, 0
    if chunk:
        yield chunk


class Feed(Generic[T]):
    """Steps an iterator in a daemon thread, on demand: a pipe may stall, and Ctrl-C must not wait for it."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._wanted: SimpleQueue[asyncio.Future[T | None] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._serve, name="bulk-reader", daemon=True).start()

    async def next(self) -> T | None:
        """Return the next item, None at the end; raises what the iterator raises."""
        answer: asyncio.Future[T | None] = self._loop.create_future()
        self._wanted.put(answer)
        return await answer

    def close(self) -> None:
        """End the thread once it is free; the iterator is closed with it."""
        self._wanted.put(None)

    def _serve(self) -> None:
        while (answer := self._wanted.get()) is not None:
            item: T | None = None
            failure: Exception | None = None
            try:
                item = next(self._items, None)
            except Exception as error:
                failure = error
            try:
                self._loop.call_soon_threadsafe(_settle, answer, item, failure)
            except RuntimeError:
                break  # The loop has closed: nobody waits any more.
        close = getattr(self._items, "close", None)
        if close is not None:
            close()


def _settle(answer: asyncio.Future[T | None], item: T | None, failure: Exception | None) -> None:
    if answer.done():
        return
    if failure is None:
        answer.set_result(item)
    else:
        answer.set_exception(failure)
