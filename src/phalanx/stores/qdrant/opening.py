"""Opening a store on a Qdrant server."""

from __future__ import annotations

import asyncio
import importlib

from phalanx.ports import VectorStore


async def open_qdrant(url: str, api_key: str = "") -> VectorStore:
    """Return a store on the server at `url`; it connects with the first call.

    The client takes two seconds and 60 MB to import, so only who has a server imports it, and does so beside the event loop.
    """
    server = await asyncio.to_thread(importlib.import_module, "phalanx.stores.qdrant.server")
    store: VectorStore = server.QdrantVectorStore(server.address_of(url, api_key))
    return store
