"""A worker with a seeded bug: `python faulty.py FAULT serve`. The checker must find each of them end to end.

Like `killing.py` this wraps functions of the product from outside, before it starts.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from phalanx.contract.usage import UsageEvent
from phalanx.ids import Uuid7
from phalanx.ports import Allowance, Grant
from phalanx.services import gate
from phalanx.services.callers.ring import Ring
from phalanx.services.metering.limits import SharedLimits
from phalanx.services.ticket import Ticket
from phalanx.stores.files.segment import Segment
from phalanx.stores.journaled import JournaledUsageLog, encode_lines
from phalanx.stores.memory.clock import SystemClock
from phalanx.stores.redis.limiter import RedisLimiter


def put(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Put a function in the place of a class's or module's own."""
    setattr(owner, name, function)


def nothing() -> None:
    """Leave everything as it is: what the checker then says is the scenario's own doing."""


def deaf() -> None:
    """Keys and sessions hear of no change, by whatever way."""

    def forget(_: Ring[Any], names: Iterable[str]) -> None:
        list(names)

    put(Ring, "forget", forget)
    put(Ring, "distrust", lambda _: None)


def settles_twice() -> None:
    """A ticket is closed two times. Not of a call about keys, or nobody would get one to call with."""
    settle = gate.Gate.settle

    async def twice(self: gate.Gate, ticket: Ticket, **named: Any) -> None:
        await settle(self, ticket, **named)
        if ticket.metered:
            await settle(self, ticket, **named)

    put(gate.Gate, "settle", twice)


def bills_twice() -> None:
    """An event is recorded again, under an id of its own, as by a retry that makes a new one."""
    record, new_id = JournaledUsageLog.record, Uuid7(SystemClock())

    async def twice(self: JournaledUsageLog, events: Sequence[UsageEvent]) -> int:
        again = [msgspec.structs.replace(event, id=new_id()) for event in events]
        return await record(self, [*events, *again])

    put(JournaledUsageLog, "record", twice)


def counts_twice() -> None:
    """What is billed is settled in the quota's counter, and charged to it besides."""
    settle = RedisLimiter.settle

    async def twice(self: RedisLimiter, grant: Grant, *, billed: bool) -> None:
        await settle(self, grant, billed=billed)
        if billed and grant.quota is not None:
            self.charge(grant.subject, grant.period, 1)

    put(RedisLimiter, "settle", twice)


def drops_appends() -> None:
    """Every third append to the journal writes nothing, and says that it did."""
    append, numbers = Segment.append, itertools.count(1)

    def sometimes(self: Segment, events: Sequence[UsageEvent]) -> int:
        return len(encode_lines(events)) if next(numbers) % 3 == 0 else append(self, events)

    put(Segment, "append", sometimes)


def bills_failures() -> None:
    """A call that failed is billed like one that was answered."""
    put(gate, "is_billed", lambda status, *, units, metered: metered)


def overlooks(window: str) -> Callable[[], None]:
    """Return a fault: the limiter is not asked for one of the windows."""

    def install() -> None:
        take = SharedLimits.take

        async def without(self: SharedLimits, subject: str, allowance: Allowance, **named: Any) -> Grant:
            return await take(self, subject, allowance._replace(**{window: None}), **named)

        put(SharedLimits, "take", without)

    return install


FAULTS: dict[str, Callable[[], None]] = {
    "nothing": nothing,
    "deaf": deaf,
    "settles-twice": settles_twice,
    "bills-twice": bills_twice,
    "counts-twice": counts_twice,
    "drops-appends": drops_appends,
    "bills-failures": bills_failures,
    "overlooks-quotas": overlooks("monthly"),
    "overlooks-rates": overlooks("rate"),
}
"""What can be wrong with a worker."""


def command(fault: str) -> list[str]:
    """Return the command of a worker with a bug."""
    return [sys.executable, str(Path(__file__).resolve()), fault, "serve"]


if __name__ == "__main__":
    from phalanx.cli import main

    FAULTS[sys.argv[1]]()
    sys.argv = ["phalanx", *sys.argv[2:]]
    main()
