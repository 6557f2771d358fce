"""What was computed of images: cached under a digest of all that it depends on, and computed once for callers who ask at once."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import math
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, TypeVar, cast

import msgspec

import phalanx
from phalanx.contract.vector import pack_array, unpack_array
from phalanx.errors import DeadlineExceeded, PhalanxError
from phalanx.ports import Clock, ResultCache
from phalanx.services.ticket import Ticket

T = TypeVar("T")

Outcome = tuple[Any, PhalanxError | None] | None
"""A value, or the error that everybody's image comes to; None when only the first caller failed."""

_encode = msgspec.msgpack.Encoder(enc_hook=pack_array).encode


class Results:
    """Keeps results, structs of the contract, in a `ResultCache`.

    Callers of one organisation who want the same at once wait for the first of them; with `share` those of all
    organisations do, and find each other's. `on_lookup` is told how many results were kept and how many were not. Errors
    are not kept.
    """

    def __init__(
        self,
        cache: ResultCache,
        clock: Clock,
        *,
        share: bool = False,
        on_lookup: Callable[[int, int], None] = lambda hits, misses: None,
    ) -> None:
        self._cache = cache
        self._clock = clock
        self._share = share
        self._on_lookup = on_lookup
        self._under_way: dict[bytes, asyncio.Future[Outcome]] = {}

    async def get(
        self, ticket: Ticket, facts: Sequence[Any], kind: type[T], compute: Callable[[], Awaitable[T]]
    ) -> tuple[T, bool]:
        """Return the result that `facts`, plain values, decide, and whether it had been kept.

        A caller who waits for another's has its own deadline, and computes itself when the other one gives up. Raises
        what `compute` raises, and `DeadlineExceeded`.
        """
        key = self._key(ticket, facts)
        while True:
            (kept,) = await self._cache.get_many([key])
            if kept is not None:
                try:
                    value = _decoder(cast("Hashable", kind)).decode(kept)
                except (msgspec.DecodeError, ValueError):
                    pass
                else:
                    self._on_lookup(1, 0)
                    return value, True
            first = self._under_way.get(key)
            if first is None:
                self._on_lookup(0, 1)
                return await self._lead(key, compute), False
            outcome = await self._follow(ticket, first)
            if outcome is not None:
                value, error = outcome
                if error is not None:
                    raise error
                return value, False

    def _key(self, ticket: Ticket, facts: Sequence[Any]) -> bytes:
        """128 bits: a collision is beyond reach. A new release looks at every image anew."""
        tenant = "" if self._share else ticket.cached_for
        return hashlib.blake2b(_encode((tenant, phalanx.__version__, *facts)), digest_size=16).digest()

    async def _lead(self, key: bytes, compute: Callable[[], Awaitable[T]]) -> T:
        shared: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._under_way[key] = shared
        outcome: Outcome = None
        try:
            value = await compute()
            outcome = value, None
        except PhalanxError as error:
            # What a retry may mend, a deadline for one, is the first caller's own; an unreadable image is everybody's.
            if error.row.retry == "no":
                outcome = None, error
            raise
        finally:
            del self._under_way[key]
            shared.set_result(outcome)
        await self._cache.set_many([(key, _encode(value))])
        return value

    async def _follow(self, ticket: Ticket, first: asyncio.Future[Outcome]) -> Outcome:
        began = self._clock.monotonic()
        left = None if math.isinf(ticket.deadline) else max(0.0, ticket.deadline - began)
        try:
            async with asyncio.timeout(left):
                # Whoever leaves must not take the others' result along.
                outcome = await asyncio.shield(first)
        except TimeoutError:
            raise DeadlineExceeded("the image was not finished before the deadline") from None
        ticket.meter.queue_s += self._clock.monotonic() - began
        return outcome


@functools.cache
def _decoder(kind: Hashable) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind, ext_hook=unpack_array)
