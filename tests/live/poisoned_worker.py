"""`phalanx work`, or what else is said, with two rows more: one whose job takes its process's life, and one that takes a while."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

from msgspec import Struct

import phalanx.app.worker as composition
import phalanx.edges.queue.own as own
from phalanx.cli import main
from phalanx.operations import Operation, table


class Empty(Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing is asked."""


class Slept(Struct, frozen=True):
    """Nothing is answered."""

    slept: bool = True


async def _die(_services: Any, _ticket: Any, _request: Empty) -> Slept:
    await asyncio.sleep(0.2)
    os.kill(os.getpid(), signal.SIGKILL)
    return Slept()


async def _sleep(_services: Any, ticket: Any, _request: Empty) -> Slept:
    await asyncio.sleep(0.3)
    ticket.meter.units += 1
    return Slept()


ROWS = tuple(
    Operation(
        name=f"test.{word}", request=Empty, response=Slept, scope="text", http=f"POST /v1/test/{word}", run=run, job=True,
        summary="For tests.",
    )
    for word, run in (("poison", _die), ("sleep", _sleep))
)  # fmt: skip


def _with_rows() -> dict[str, Operation]:
    return {**table(), **{row.name: row for row in ROWS}}


if __name__ == "__main__":
    vars(composition)["table"] = _with_rows
    # So that a test need not wait for a dead process's jobs as long as its user.
    vars(own).update(LEASE_S=3.0, RENEW_S=0.5)
    sys.argv = ["phalanx", *(sys.argv[1:] or ["work"])]
    main()
