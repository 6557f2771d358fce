"""A usage journal in a Redis stream, for workers whose disk is read-only.

All workers share one stream and one consumer group. An append is one XADD, answered before the call is; whoever flushes
next brings the entries into the ledger and deletes them. An entry that its reader did not deliver is claimed by another
one; the ledger ignores what it has, so claiming is safe at any time. Redis keeps what it acknowledged as well as its
append-only file does: with `appendfsync everysec` its machine's death may cost a second.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from phalanx.contract.usage import UsageEvent
from phalanx.errors import Unavailable
from phalanx.stores.journaled import BATCH_EVENTS, Deliver, decode_line, encode_lines
from phalanx.stores.redis.client import redis_failures
from phalanx.telemetry import Log

STREAM = "phalanx:usage"
DAMAGED = "phalanx:usage:damaged"
GROUP = "ledger"
FIELD = b"events"
READ_ENTRIES = 200
MAX_ENTRIES = 1_000_000
CLAIM_AFTER_S = 1.0
ADOPT_AFTER_S = 30.0
DEAD_AFTER_S = 60.0
LOOKS = 60
LOOK_EVERY_S = 0.05

APPEND = """
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then return false end
return redis.call('XADD', KEYS[1], '*', 'events', ARGV[2])
"""
# What a consumer has not delivered would never be read again, were it deleted.
DELETE_IDLE = """
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  if consumer[2] == ARGV[2] and consumer[4] == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
end
"""

LEFT, NEW = "0", ">"
EntryId = tuple[int, int]


class RedisJournal:
    """A `Journal` that holds up to `max_entries` entries, each what was recorded in one turn of the event loop.

    A worker from which Redis has heard nothing for `dead_after_s` seconds, in which it would have flushed many times,
    is taken for dead; should it come back it begins anew.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        log: Log,
        max_entries: int = MAX_ENTRIES,
        claim_after_s: float = CLAIM_AFTER_S,
        adopt_after_s: float = ADOPT_AFTER_S,
        dead_after_s: float = DEAD_AFTER_S,
    ) -> None:
        self._redis = redis
        self._log = log
        self._max_entries = max_entries
        self._claim_after_ms = round(claim_after_s * 1e3)
        self._adopt_after_ms = round(adopt_after_s * 1e3)
        self._dead_after_ms = round(dead_after_s * 1e3)
        self._append = redis.register_script(APPEND)
        self._delete_idle = redis.register_script(DELETE_IDLE)
        self._gathered: list[UsageEvent] = []
        self._writing: asyncio.Task[None] | None = None
        self._newest: EntryId = (0, 0)
        self._dead: dict[str, EntryId] = {}
        self.name = ""

    @property
    def waiting(self) -> str:
        """Where it waits, in words for the log."""
        return f"the stream {STREAM}"

    async def open(self) -> None:
        """Begin a journal. Raises `Unavailable`."""
        self.name = f"{os.getpid()}-{secrets.token_hex(8)}"
        await self._make_group()

    async def append(self, events: Sequence[UsageEvent]) -> None:
        """Add events to the stream, together with others of this turn of the loop: all or none.

        Raises `Unavailable` when the stream is full or Redis is down. Redis may then have them nevertheless.
        """
        self._gathered.extend(events)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="usage append")
            self._writing.add_done_callback(_look_at_failure)
        writing = self._writing
        try:
            # One caller's leaving must not take the write from the others.
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            # Whoever leaves is billed by what became of it; the write takes no longer than Redis is waited for.
            if not writing.done():
                await asyncio.wait([writing])
            if not writing.cancelled() and writing.exception() is not None:
                await writing
            raise

    async def _write(self) -> None:
        await asyncio.sleep(0)
        events, self._gathered, self._writing = self._gathered, [], None
        with redis_failures():
            entry = await self._append(keys=[STREAM], args=[self._max_entries, encode_lines(events)])
        if entry is None:
            raise Unavailable(f"{self._max_entries} entries of usage wait for the database, as many as are allowed")
        self._newest = max(self._newest, _parts(entry))

    async def adopt(self) -> None:
        """Claim the entries that a reader has left lying. Raises `Unavailable`."""
        with redis_failures():
            await self._redis.xautoclaim(
                STREAM, GROUP, self.name, self._adopt_after_ms, count=READ_ENTRIES, justid=True
            )

    async def drain(self, deliver: Deliver) -> None:
        """Hand over what is in the stream, and see that what this process appended was handed over by whomever.

        Raises `Unavailable`, also when another worker has read entries and does not get on with them.
        """
        newest = self._newest
        await self._make_group()
        await self._deliver_all(deliver, LEFT)
        await self._deliver_all(deliver, NEW)
        for _ in range(LOOKS):
            if not await self._claim(until=newest):
                return
            await self._deliver_all(deliver, LEFT)
            await asyncio.sleep(LOOK_EVERY_S)
        raise Unavailable("usage is still on its way through another worker")

    async def _claim(self, *, until: EntryId) -> bool:
        """Claim what others read and did not deliver for a while. Whether any entry up to `until` is not delivered."""
        with redis_failures():
            pending: Any = await self._redis.xpending_range(
                STREAM, GROUP, min="-", max=f"{until[0]}-{until[1]}", count=READ_ENTRIES
            )
            ids = [entry["message_id"] for entry in pending]
            if ids:
                await self._redis.xclaim(STREAM, GROUP, self.name, self._claim_after_ms, ids, justid=True)
        return bool(ids)

    async def _deliver_all(self, deliver: Deliver, start: str) -> None:
        """Deliver the entries that this reader has left, or new ones, up to what is the newest now."""
        with redis_failures():
            newest: Any = await self._redis.xrevrange(STREAM, count=1)
        last = _parts(newest[0][0]) if newest else (0, 0)
        read: EntryId = (-1, 0)
        while read < last:
            with redis_failures():
                found: Any = await self._redis.xreadgroup(GROUP, self.name, {STREAM: start}, count=READ_ENTRIES)
            entries = found[0][1] if found else []
            if not entries:
                return
            await self._deliver(deliver, entries)
            read = _parts(entries[-1][0])

    async def _deliver(self, deliver: Deliver, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        events: list[UsageEvent] = []
        damaged: list[bytes] = []
        for _, fields in entries:
            for line in (fields or {}).get(FIELD, b"").splitlines():
                event = decode_line(line)
                if event is None:
                    damaged.append(line)
                else:
                    events.append(event)
        for start in range(0, len(events), BATCH_EVENTS):
            await deliver(events[start : start + BATCH_EVENTS])
        ids = [entry for entry, _ in entries]
        done = self._redis.pipeline(transaction=True)
        for line in damaged:
            done.xadd(DAMAGED, {"line": line})
        done.xack(STREAM, GROUP, *ids)
        done.xdel(STREAM, *ids)
        with redis_failures():
            await done.execute()
        if damaged:
            self._log.error("usage journal damaged", stream=DAMAGED, lines=len(damaged))

    async def finished(self) -> list[str]:
        """Return the workers that are gone, once all has been delivered that was in the stream when that was noticed."""
        with redis_failures():
            info = await self._redis.xinfo_stream(STREAM)
            consumers = await self._redis.xinfo_consumers(STREAM, GROUP)
        gone = {
            consumer["name"].decode()
            for consumer in consumers
            if consumer["idle"] >= self._dead_after_ms and not consumer["pending"]
        }
        newest, first = _parts(info["last-generated-id"]), info["first-entry"]
        self._dead = {name: self._dead.get(name, newest) for name in gone if name != self.name}
        return [name for name, last in self._dead.items() if not first or _parts(first[0]) > last]

    async def forget(self, journals: Iterable[str]) -> None:
        """Delete the readers that are gone from the group."""
        for name in journals:
            with redis_failures():
                await self._delete_idle(keys=[STREAM], args=[GROUP, name])
            self._dead.pop(name, None)

    async def close(self, *, is_finished: bool) -> None:
        """Leave the group, unless something is left that another one must claim. Never raises."""
        if is_finished:
            try:
                await self.forget([self.name])
            except Unavailable as error:
                self._log.warning("a reader of the usage journal stays in its group", reason=error.detail)

    async def _make_group(self) -> None:
        """Make stream and group, also after Redis came back without them."""
        with redis_failures():
            try:
                await self._redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise


def _look_at_failure(task: asyncio.Task[None]) -> None:
    """Take note of a failure that every caller was gone for, lest the loop complain."""
    if not task.cancelled():
        task.exception()


def _parts(entry: bytes) -> EntryId:
    """Return an entry's id as numbers, which compare like ids do."""
    milliseconds, _, number = entry.partition(b"-")
    return int(milliseconds), int(number)
