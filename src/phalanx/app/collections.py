"""What a worker does about collections when it starts: it goes on with what another one was stopped at."""

from __future__ import annotations

import asyncio
import secrets

from phalanx.app.stores import Stores
from phalanx.contract.collections import ReembedRequest
from phalanx.errors import PhalanxError, Unavailable
from phalanx.operations import Entrance, Operation, call
from phalanx.ports import CollectionRecord
from phalanx.services.collections.registry import CollectionRegistry
from phalanx.services.ticket import Call, Credential
from phalanx.stores.memory.clock import SystemClock
from phalanx.telemetry import Log

PATIENCE_S = (1.0, 2.0, 5.0, 15.0, 60.0)
"""How long to wait, in seconds, before what is not ready is asked again; the last one from then on."""


async def take_up_collections(entrance: Entrance, reembed: Operation, stores: Stores, log: Log) -> None:
    """Drop places that were left behind, and go on with moves that were stopped half way.

    Where workers share their stores nobody knows whether another one is at it, so there a move goes on when it is asked
    for once more. Without collections the store of vectors is left alone: it takes memory from its first call on.
    """
    attempt = 0
    while True:
        try:
            if not await stores.collections.list_all(limit=1):
                return
            registry = CollectionRegistry(stores.collections, stores.vectors, SystemClock())
            for place in await registry.sweep():
                log.info("place dropped", place=place)
            if not stores.is_shared:
                async for record in registry.moving():
                    # Faces wait for whoever has their images.
                    if record.kind != "texts":
                        continue
                    await _go_on(entrance, reembed, record, log)
            return
        except Unavailable:
            # The database, the store of vectors, or a model that is loading.
            await asyncio.sleep(PATIENCE_S[min(attempt, len(PATIENCE_S) - 1)])
            attempt += 1


async def _go_on(entrance: Entrance, reembed: Operation, record: CollectionRecord, log: Log) -> None:
    async def read() -> ReembedRequest:
        return ReembedRequest(name=record.name, organisation=record.organisation)

    inbound = Call(Credential("operator"), secrets.token_hex(16))
    try:
        await call(entrance, reembed, inbound, read)
    except Unavailable:
        raise
    except PhalanxError as error:
        log.error("collection not moved", collection=record.name, organisation=record.organisation, reason=error.detail)
