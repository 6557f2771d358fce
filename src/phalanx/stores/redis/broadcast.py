"""News about changes, told to all workers through Redis pub/sub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from phalanx.stores.redis.client import FAILURES
from phalanx.telemetry import Log

CHANNEL = "phalanx:changes"
"""Redis has one name space of channels for all its databases: what other installations say there does no harm."""
SILENCE_S = 5.0
"""After so long without a message the connection is asked whether it lives."""
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
SUBJECTS_PER_MESSAGE = 500
MAX_MESSAGE_BYTES = 256 * 1024

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[str]).decode


class RedisBroadcast:
    """A `Broadcast` over one channel. Redis keeps no message for those who are away: each gap is told as None.

    Each listener holds one connection of the client's for as long as it listens.
    """

    def __init__(self, redis: Redis, *, log: Log) -> None:
        self._redis = redis
        self._log = log

    async def publish(self, subjects: Sequence[str]) -> None:
        """Tell every worker, this one included, that subjects changed. Never raises; what fails is logged."""
        try:
            for start in range(0, len(subjects), SUBJECTS_PER_MESSAGE):
                await self._redis.publish(CHANNEL, _encode(subjects[start : start + SUBJECTS_PER_MESSAGE]))
        except FAILURES as error:
            self._log.warning("a change was not broadcast", error=type(error).__name__)

    async def messages(self) -> AsyncIterator[Sequence[str] | None]:
        """Yield the subjects of each message, and None after each (re)connection and each message that does not decode.

        Connects again for ever, after pauses of a tenth of a second to two.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            pubsub = self._redis.pubsub()
            try:
                await pubsub.subscribe(CHANNEL)
                while True:
                    message = await _next(pubsub)
                    pause_s = FIRST_PAUSE_S
                    # The client connects again by itself at times; it says so only by subscribing anew.
                    if message["type"] == "subscribe":
                        yield None
                    elif message["type"] == "message":
                        yield _subjects(message["data"])
            except FAILURES as error:
                if pause_s == FIRST_PAUSE_S:
                    self._log.warning("the broadcast was lost", error=type(error).__name__)
            finally:
                await pubsub.aclose()  # type: ignore[no-untyped-call]
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


async def _next(pubsub: PubSub) -> dict[str, Any]:
    """Wait for whatever comes next. Raises TimeoutError when not even a ping is answered."""
    message = await pubsub.get_message(timeout=SILENCE_S)
    if message is None:
        await pubsub.ping()
        message = await pubsub.get_message(timeout=SILENCE_S)
    if message is None:
        raise TimeoutError
    return message  # type: ignore[no-any-return]


def _subjects(data: bytes) -> Sequence[str] | None:
    if len(data) > MAX_MESSAGE_BYTES:
        return None
    try:
        return _decode(data)
    except msgspec.DecodeError:
        return None
