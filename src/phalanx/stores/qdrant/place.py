"""One place of vectors in Qdrant Edge: a folder with a shard and what is known of it."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from qdrant_edge import (
    CountRequest,
    EdgeConfig,
    EdgeOptimizersConfig,
    EdgeShard,
    EdgeVectorParams,
    FacetRequest,
    HnswIndexConfig,
    PayloadSchemaType,
    Query,
    QueryRequest,
    ScrollRequest,
    SearchParams,
    UpdateOperation,
)
from qdrant_edge import Distance as EdgeDistance
from qdrant_edge import Filter as EdgeFilter
from qdrant_edge import Point as EdgePoint

from phalanx.contract.collections import Filter
from phalanx.errors import InvalidRequest
from phalanx.stores.points import check_vector, check_vectors
from phalanx.stores.qdrant.edge_filters import edge_filter
from phalanx.stores.qdrant.frames import Kept
from phalanx.stores.qdrant.rebuild import Rebuild, copy_folder
from phalanx.stores.qdrant.stored import behind, from_stored, path_of, restored, tallied, to_stored, unit_rows

INDEX_FROM_KB = 10_000
"""From how many kilobytes of vectors on an index is built; what is smaller is compared exactly, in less than 1 ms."""
GRAPH = HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=INDEX_FROM_KB)
SEARCH_WIDTH = 128
"""How many candidates a search of the graph keeps at least."""
REBUILD_AFTER_QUIET_S = 2.0
ERASE_AGAIN_AFTER_S = 600.0
"""How long after it failed, for want of space on the disk perhaps, a shard is not written anew to erase something."""
FLUSH_EVERY_S = 10.0
FLUSH_AFTER_QUIET_S = 1.0
SEGMENTS = "segments"
MAX_SEGMENTS = 2
"""Segments of a new place, if there are as many processors. Each maps 5 MB of files, which the system takes back when it has to."""
DISTANCES = {"cosine": EdgeDistance.Cosine, "euclidean": EdgeDistance.Euclid, "dot": EdgeDistance.Dot}
FACTS = "place.json"
PAGE = 10_000


class Facts(msgspec.Struct):
    """What is known of a place; `shard` is the folder of the shard in use, and changes when it is rebuilt.

    `erase` says that its files still hold points that nothing may be left of.
    """

    dimensions: int
    distance: Literal["cosine", "euclidean", "dot"]
    indexed: list[str]
    shard: str = "shard-1"
    format: int = 1
    erase: bool = False

    @classmethod
    def read(cls, folder: Path) -> Facts:
        """Return the facts of a place's folder."""
        return msgspec.json.decode((folder / FACTS).read_bytes(), type=cls)

    def write(self, folder: Path) -> None:
        """Put the facts into a place's folder, at once or not at all."""
        new = folder / f"{FACTS}.new"
        with new.open("wb") as file:
            file.write(msgspec.json.encode(self))
            file.flush()
            os.fsync(file.fileno())
        new.replace(folder / FACTS)


def make_place(folder: Path, facts: Facts) -> None:
    """Make a place in a folder that is not there. It is whole when this returns."""
    made = folder.with_name(f".new-{folder.name}")
    shutil.rmtree(made, ignore_errors=True)
    make_shard(made / facts.shard, facts)
    facts.write(made)
    made.rename(folder)


def make_shard(path: Path, facts: Facts) -> None:
    """Make an empty shard in a folder that is not there, and close it."""
    path.mkdir(parents=True)
    config = EdgeConfig(
        vectors=EdgeVectorParams(size=facts.dimensions, distance=DISTANCES[facts.distance]),
        hnsw_config=GRAPH,
        # For one segment, and none has less than half of an even share when enough is there for a graph.
        optimizers=EdgeOptimizersConfig(indexing_threshold=INDEX_FROM_KB // (2 * _segments())),
    )
    shard = EdgeShard.create(str(path), config)
    for key in facts.indexed:
        _index(shard, key)
    shard.flush()
    shard.close()
    _divide(path)


def _divide(shard: Path) -> None:
    """Give a new shard, closed, as many segments as are searched at once: Edge makes one, and fills all that it finds.

    What is outside the graph is compared exactly, by a thread a segment: 100,000 × 128 in 2.1 ms by two, 3.9 by one. A
    graph, once it is built, is one segment again.
    """
    (empty,) = (path for path in (shard / SEGMENTS).iterdir() if path.is_dir())
    for _ in range(1, _segments()):
        copy_folder(empty, empty.with_name(str(uuid.uuid4())))


def _segments() -> int:
    return min(os.cpu_count() or 1, MAX_SEGMENTS)


class Place:
    """A place, open. One thread uses it: every call of Qdrant Edge keeps the interpreter's lock until it returns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts = Facts.read(folder)
        for left in folder.glob("shard-*"):
            if left.name != self.facts.shard:
                shutil.rmtree(left)
        self._shard = EdgeShard.load(str(folder / self.facts.shard))
        self._rebuild: Rebuild | None = None
        self._erasing, self._erase_from = False, 0.0
        self._written_at = self._flushed_at = time.monotonic()
        self._is_flushed = True
        self._look()
        # A rebuild that the end of the process cut off is due again.
        self._churn = self._points - self._in_index

    def index(self, keys: list[str]) -> None:
        """Index more keys of the payloads."""
        new = [key for key in keys if key not in self.facts.indexed]
        if not new:
            return
        self._end_rebuild()
        for key in new:
            _index(self._shard, key)
        self._shard.flush()
        self.facts.indexed += new
        self.facts.write(self.folder)

    def upsert(self, points: list[Kept]) -> None:
        """Keep points. Raises `InvalidRequest`."""
        rows = check_vectors([_read(point.vector) for point in points], self.facts.dimensions, self.facts.distance)
        units, lengths = unit_rows(rows, self.facts.distance)
        made = [
            # A list is read faster than an array is asked for its numbers.
            EdgePoint(point.id, unit, to_stored(point.payload, length))
            for point, unit, length in zip(points, units.tolist(), lengths, strict=True)
        ]
        if made:
            self._write(UpdateOperation.upsert_points(made), [point.id for point in points])

    def delete(self, ids: list[str]) -> None:
        """Delete points."""
        if ids:
            self._write(UpdateOperation.delete_points(list(ids)), ids)

    def delete_where(self, only: Filter, *, erase: bool = False) -> None:
        """Delete the points that a filter lets through, in one step.

        To `erase` them, the shard is written anew when nothing has been written to it for a moment: a deleted point stays in
        segments and log.
        """
        if erase and self.count(only):
            self.facts.erase = True
            self.facts.write(self.folder)
        ids = [] if self._rebuild is None else [str(record.id) for record in self._every(only)]
        self._write(UpdateOperation.delete_points_by_filter(edge_filter(only) or EdgeFilter()), ids)

    def get(self, ids: list[str], with_vectors: bool) -> list[Kept]:
        """Return the points that are there, in the order of `ids`."""
        records = self._shard.retrieve(list(dict.fromkeys(ids)), True, with_vectors) if ids else []
        found = {str(record.id): self._kept(record) for record in records}
        return [found[name] for name in ids if name in found]

    def search(self, vector: bytes, limit: int, only: Filter | None, with_vectors: bool) -> list[Kept]:
        """Return the nearest points, nearest first. Raises `InvalidRequest`."""
        query = check_vector(_read(vector), self.facts.dimensions, self.facts.distance)
        units, _ = unit_rows(query[None], self.facts.distance)
        params = SearchParams(
            hnsw_ef=max(SEARCH_WIDTH, 2 * limit), exact=self._bytes_of(self._points) <= INDEX_FROM_KB << 10
        )
        request = QueryRequest(
            limit, query=Query.Nearest(units[0].tolist()), filter=edge_filter(only), with_payload=True, with_vector=with_vectors,
            params=params,
        )  # fmt: skip
        return [self._kept(hit, hit.score) for hit in self._shard.query(request)]

    def scroll(self, after: str | None, limit: int, only: Filter | None, with_vectors: bool) -> list[Kept]:
        """Return points in the order of their ids, from the one behind `after`."""
        start = None
        if after is not None and (start := behind(after)) is None:
            return []
        request = ScrollRequest(
            offset=start, limit=limit, filter=edge_filter(only), with_payload=True, with_vector=with_vectors
        )
        return [self._kept(record) for record in self._shard.scroll(request)[0]]

    def count(self, only: Filter | None) -> int:
        """Count points, exactly."""
        return self._shard.count(CountRequest(exact=True, filter=edge_filter(only)))

    def tally(self, key: str, limit: int, only: Filter | None) -> list[tuple[str, int]]:
        """Count the points of each value of an indexed key. Raises `InvalidRequest`."""
        if key not in self.facts.indexed:
            raise InvalidRequest(f"the key {key!r} is not indexed")
        hits = self._shard.facet(FacetRequest(path_of(key), limit + 2, exact=True, filter=edge_filter(only))).hits
        return tallied(((hit.value, hit.count) for hit in hits), limit)

    def optimised(self) -> tuple[int, bool]:
        """Return how many points the graph holds, and whether it is being built anew."""
        return self._in_index, self._rebuild is not None

    def is_settled(self) -> bool:
        """Whether there is nothing left to do for it in the background."""
        return self._is_flushed and self._rebuild is None and not self._is_rebuild_due()

    def is_rebuilding(self) -> bool:
        """Whether it is being written anew."""
        return self._rebuild is not None

    def has_to_erase(self) -> bool:
        """Whether there is something in its files that is to go."""
        return self.facts.erase or self._erasing

    def tend(self, *, may_rebuild: bool) -> None:
        """Do a little of what is due: flush, begin to rebuild, take over what was rebuilt."""
        now = time.monotonic()
        quiet_s = now - self._written_at
        if not self._is_flushed and (quiet_s >= FLUSH_AFTER_QUIET_S or now - self._flushed_at >= FLUSH_EVERY_S):
            self.flush()
        if self._rebuild is not None:
            self._tend_rebuild(self._rebuild)
        elif may_rebuild and self._is_rebuild_due() and (quiet_s >= REBUILD_AFTER_QUIET_S or self._is_rebuild_urgent()):
            self.flush()
            self._churn = 0
            self._erasing, self.facts.erase = self.facts.erase, False
            self._rebuild = Rebuild(self.folder, self.facts.shard)

    def flush(self) -> None:
        """Bring what was written from the log into the segments, on disk."""
        self._shard.flush()
        self._flushed_at, self._is_flushed = time.monotonic(), True

    def close(self) -> None:
        """Leave it. A rebuild under way is given up: what is in use is whole without it."""
        self._end_rebuild()
        if not self._is_flushed:
            self.flush()
        self._shard.close()

    def _every(self, only: Filter) -> Iterator[Any]:
        start = None
        while True:
            request = ScrollRequest(offset=start, limit=PAGE, filter=edge_filter(only), with_payload=False)
            page, start = self._shard.scroll(request)
            yield from page
            if start is None:
                return

    def _write(self, operation: UpdateOperation, ids: list[str]) -> None:
        self._written_at, self._is_flushed = time.monotonic(), False
        if self._rebuild is not None:
            self._rebuild.note(ids)
        self._churn += len(ids)
        self._shard.update(operation)
        self._look()

    def _tend_rebuild(self, rebuild: Rebuild) -> None:
        if not rebuild.is_built():
            if rebuild.has_failed():
                self._end_rebuild()
                self._erase_from = time.monotonic() + ERASE_AGAIN_AFTER_S
            return
        if not rebuild.catch_up(self._shard):
            return
        old, old_name = self._shard, self.facts.shard
        self._shard, self.facts.shard = rebuild.take(), rebuild.name
        self.facts.write(self.folder)
        self._rebuild, self._erasing = None, False
        old.close()
        shutil.rmtree(self.folder / old_name)
        self._look()

    def _end_rebuild(self) -> None:
        if self._rebuild is not None:
            self._rebuild.give_up()
            self._rebuild = None
            self.facts.erase, self._erasing = self.facts.erase or self._erasing, False

    def _look(self) -> None:
        info = self._shard.info()
        self._points, self._in_index = info.points_count, info.indexed_vectors_count

    def _is_rebuild_due(self) -> bool:
        """Whether there is something to erase, or enough points are outside the graph, and enough came since it was last
        built for that to change.
        """
        if self.facts.erase and time.monotonic() >= self._erase_from:
            return True
        outside = self._bytes_of(self._points - self._in_index)
        return outside >= INDEX_FROM_KB << 10 and self._bytes_of(self._churn) >= INDEX_FROM_KB << 9

    def _is_rebuild_urgent(self) -> bool:
        return self._bytes_of(self._points - self._in_index) >= 5 * INDEX_FROM_KB << 10

    def _bytes_of(self, points: int) -> int:
        return points * self.facts.dimensions * 4

    def _kept(self, record: Any, score: float = 0.0) -> Kept:
        payload, length = from_stored(record.payload)
        vector = None
        if record.vector is not None:
            vector = restored(np.asarray(record.vector, np.float32), length).tobytes()
        return Kept(str(record.id), vector, payload, score)


def _index(shard: EdgeShard, key: str) -> None:
    shard.update(UpdateOperation.create_field_index(path_of(key), PayloadSchemaType.Keyword))


def _read(vector: bytes | None) -> Any:
    return None if vector is None else np.frombuffer(vector, np.float32)
