"""What stands in for a store of vectors where the settings leave no room for one."""

from __future__ import annotations

from typing import Any, NoReturn

from phalanx.errors import Unavailable


class RefusedVectorStore:
    """A `VectorStore` that says with every call what must be set. Everything else of the worker serves without it."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Raise `Unavailable` with the reason."""
        raise Unavailable(self._reason)

    create = drop = places = upsert = delete = delete_where = refuse
    get = search = scroll = count = tally = ping = refuse

    async def close(self) -> None:
        """Do nothing."""
