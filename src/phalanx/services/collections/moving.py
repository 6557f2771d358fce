"""Points on their way from one place to the next, where they have another model's vectors."""

from __future__ import annotations

from collections.abc import Sequence

from phalanx.contract.collections import TextsContract
from phalanx.contract.vector import Vector
from phalanx.errors import NotFound, PhalanxError, Unavailable
from phalanx.ports import Point, VectorStore
from phalanx.services.collections.contracts import Contracts
from phalanx.services.collections.point_shapes import PENDING_KEY, TEXT_KEY
from phalanx.services.collections.registry import Collection, ensure_next_place
from phalanx.services.text import TextService
from phalanx.services.ticket import Ticket

MAX_ROUNDS = 32
"""How often points may change under who carries them before that is given up for now."""


class TextVectors:
    """Vectors of texts by the model that a contract names."""

    def __init__(self, text: TextService, contracts: Contracts) -> None:
        self._text = text
        self.contracts = contracts

    async def of_documents(
        self, ticket: Ticket, name: str, pinned: TextsContract, texts: Sequence[str], *, share: float = 0.0
    ) -> list[Vector]:
        """Return vectors of texts that are kept; `share` as in `TextService.vectors`. Raises `ContractMismatch`, and what the text model does."""
        served = self.contracts.serving(name, pinned)
        return await self._text.vectors(ticket, served, texts, prompt=pinned.document_prompt, share=share)

    async def of_query(self, ticket: Ticket, name: str, pinned: TextsContract, text: str) -> Vector:
        """Return the vector of a text that is searched for. Raises as `of_documents`."""
        served = self.contracts.serving(name, pinned)
        (vector,) = await self._text.vectors(ticket, served, [text], prompt=pinned.query_prompt)
        return vector

    def serves(self, name: str, pinned: TextsContract) -> bool:
        """Whether the model that a contract names serves now."""
        try:
            self.contracts.serving(name, pinned)
        except PhalanxError:
            return False
        return True


class Carrier:
    """Brings points to the next place of their collection.

    The old place says what there is. Whoever writes during a move writes there first and then has the points carried, as
    does the one who copies. Each looks at the old place again once it has written to the next: whatever order they come
    in, the last one that looks sees the last change, so that nothing is overtaken by what is older, in this process or
    in others.
    """

    def __init__(self, store: VectorStore, vectors: TextVectors) -> None:
        self._store = store
        self._vectors = vectors

    async def carry(self, ticket: Ticket, collection: Collection, ids: Sequence[str]) -> None:
        """Have the next place say of these points what the old one says: those that are there already cost a look.

        Raises `ContractMismatch` when the next model does not serve, and what the store and the text model raise.
        """
        coming = collection.next_contract
        assert isinstance(coming, TextsContract)
        for _ in range(MAX_ROUNDS):
            there = {point.id: point for point in await self._store.get(collection.place, ids)}
            arrived = {point.id: point for point in await self._arrived(collection, ids)}
            gone = [point_id for point_id in arrived if point_id not in there]
            stale = [
                point for point in there.values()
                if isinstance(point.payload.get(TEXT_KEY), str)
                and (point.id not in arrived or arrived[point.id].payload != _settled(point))
            ]  # fmt: skip
            if not gone and not stale:
                return
            if gone:
                await self._store.delete(collection.next_place, gone)
            if stale:
                texts = [point.payload[TEXT_KEY] for point in stale]
                vectors = await self._vectors.of_documents(ticket, collection.name, coming, texts)
                carried = [Point(p.id, v, _settled(p)) for p, v in zip(stale, vectors, strict=True)]
                await self._store.upsert(collection.next_place, carried)
        raise Unavailable("these points are being changed all the time; try again", retry_after_s=1.0)

    async def _arrived(self, collection: Collection, ids: Sequence[str]) -> list[Point]:
        try:
            return await self._store.get(collection.next_place, ids)
        except NotFound:
            # Whoever began the move was stopped before it made the place.
            await ensure_next_place(self._store, collection)
            return []


def _settled(point: Point) -> dict[str, object]:
    """Return a point's payload as it is once its vector is its own."""
    return {key: value for key, value in point.payload.items() if key != PENDING_KEY}
