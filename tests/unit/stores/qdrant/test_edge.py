"""Qdrant Edge beside the worker: what survives a kill, what happens while the graph is built, who else may open it."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import structlog

from phalanx.contract.collections import Condition, Filter, MatchOf
from phalanx.contract.vector import Vector
from phalanx.errors import InvalidRequest, Overloaded, Unavailable
from phalanx.ports import Point
from phalanx.stores.qdrant import edge
from phalanx.stores.qdrant.edge import EdgeVectorStore
from phalanx.stores.qdrant.frames import Create, Drop, Kept, Scroll, Upsert
from phalanx.stores.qdrant.place import MAX_SEGMENTS
from phalanx.stores.qdrant.refused import RefusedVectorStore
from phalanx.stores.qdrant.shards import Shards

pytestmark = pytest.mark.anyio
LOG = structlog.get_logger()

WRITER = """
import asyncio, sys, uuid
from pathlib import Path
import numpy as np, structlog
from phalanx.ports import Point
from phalanx.stores.qdrant.edge import EdgeVectorStore

async def main(folder, first):
    store = EdgeVectorStore(Path(folder), log=structlog.get_logger())
    await store.create("a", dimensions=16, distance="cosine", indexed=["k"])
    n = first
    async def write():
        nonlocal n
        while True:
            mine, n = n, n + 1
            points = [Point(str(uuid.UUID(int=mine * 10 + i + 1)), np.full(16, mine + 1, np.float32), {"n": mine}) for i in range(5)]
            await store.upsert("a", points)
            print(mine, flush=True)
    await asyncio.gather(*(write() for _ in range(4)))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EdgeVectorStore]:
    opened = EdgeVectorStore(tmp_path / "vectors", log=LOG)
    yield opened
    await opened.close()


def name(n: int) -> str:
    return str(uuid.UUID(int=n + 1))


def drawn(count: int, dimensions: int, seed: int = 0) -> Vector:
    return np.random.default_rng(seed).standard_normal((count, dimensions), dtype=np.float32)


async def fill(store: EdgeVectorStore, rows: Vector, first: int = 0) -> None:
    for start in range(0, len(rows), 2_000):
        batch = rows[start : start + 2_000]
        await store.upsert(
            "a", [Point(name(first + start + n), row, {"n": first + start + n}) for n, row in enumerate(batch)]
        )


async def until_building(store: EdgeVectorStore) -> None:
    async with asyncio.timeout(60):
        while not (await store.optimised("a"))[1]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def lives(pid: int) -> bool:
    """Whether a process runs; a dead one that nobody asked after does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("victim", ["worker", "engine"])
async def test_what_was_acknowledged_survives_kills_under_load(tmp_path: Path, victim: str) -> None:
    acknowledged: set[int] = set()
    pauses = random.Random(4)
    for _ in range(5):
        first = max(acknowledged, default=0) + 1_000
        writer = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-c", WRITER, str(tmp_path), str(first)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, start_new_session=True,
        )  # fmt: skip
        assert writer.stdout is not None
        acknowledged.add(int(await asyncio.to_thread(writer.stdout.readline)))
        await asyncio.sleep(pauses.uniform(0.05, 0.4))
        for pid in [writer.pid] if victim == "worker" else children_of(writer.pid):
            os.kill(pid, signal.SIGKILL)
        # Of the engine's end the writer hears as an error, and ends; its last line may be cut off.
        said, _ = await asyncio.to_thread(writer.communicate)
        acknowledged |= {int(line) for line in said.split("\n")[:-1] if line.isdigit()}
        store = EdgeVectorStore(tmp_path, log=LOG)
        kept: dict[int, int] = {}
        after = None
        while page := await store.scroll("a", after=after, limit=5_000, with_vectors=True):
            for point in page:
                kept[point.payload["n"]] = kept.get(point.payload["n"], 0) + 1
                assert point.vector is not None
                np.testing.assert_allclose(point.vector, point.payload["n"] + 1, rtol=3e-7)
            after = page[-1].id
        await store.close()
        assert acknowledged <= kept.keys()
        # A call is kept whole or not at all, acknowledged or not.
        assert set(kept.values()) == {5}
    assert len(acknowledged) > 20


async def test_a_new_place_has_a_segment_for_each_processor(tmp_path: Path) -> None:
    """All of them are written to; each point is in one, before and after the place is opened again."""
    rows = drawn(400, 32)
    for _ in range(2):
        store = EdgeVectorStore(tmp_path, log=LOG)
        await store.create("a", dimensions=32, distance="dot")
        await fill(store, rows)
        await store.upsert("a", [Point(name(7), rows[8], {"n": 7})])
        await store.delete("a", [name(9)])
        assert await store.count("a") == 399
        kept = await store.scroll("a", limit=1_000, with_vectors=True)
        assert [point.id for point in kept] == [name(n) for n in range(400) if n != 9]
        (seen,) = [point.vector for point in kept if point.id == name(7)]
        assert seen is not None
        np.testing.assert_array_equal(seen, rows[8])
        await store.close()
    segments = [path for path in (tmp_path / "a" / "shard-1" / "segments").iterdir() if path.is_dir()]
    assert len(segments) == min(os.cpu_count() or 1, MAX_SEGMENTS)


async def test_the_graph_is_built_beside_while_all_calls_go_on(store: EdgeVectorStore) -> None:
    rows = drawn(12_000, 256)
    await store.create("a", dimensions=256, distance="cosine", indexed=["k"])
    await fill(store, rows)
    await until_building(store)
    slowest, at, calls = 0.0, 0, 0
    changed: set[int] = set()
    gone: set[int] = set()
    changes = random.Random(1)
    while (await store.optimised("a"))[1]:
        at = changes.randrange(12_000)
        began = time.perf_counter()
        if calls % 3 == 0 and at not in gone:
            await store.upsert("a", [Point(name(at), -rows[at], {"n": at, "k": "changed"})])
            changed.add(at)
        elif calls % 3 == 1:
            await store.delete("a", [name(at)])
            gone.add(at)
            changed.discard(at)
        else:
            await store.search("a", rows[at], limit=5)
        slowest = max(slowest, time.perf_counter() - began)
        calls += 1
        if calls == 20:
            only = Filter(must=[Condition(key="n", match=MatchOf(any=list(range(50))))])
            await store.delete_where("a", only)
            gone |= set(range(50))
            changed -= gone
    assert calls > 20
    # It takes a minute on a busy machine; nobody waited for it.
    assert slowest < 5.0
    in_index, _ = await store.optimised("a")
    assert in_index > 10_000
    assert await store.count("a") == 12_000 - len(gone)
    assert await store.get("a", [name(n) for n in gone]) == []
    assert await store.count("a", Filter(must=[Condition(key="k", match=MatchOf(value="changed"))])) == len(changed)
    for n in list(changed)[:50]:
        (hit,) = await store.search("a", -rows[n], limit=1, with_vectors=True)
        assert hit.id == name(n)
        assert hit.score == pytest.approx(1.0, abs=1e-5)


async def test_small_places_are_left_alone(store: EdgeVectorStore, tmp_path: Path) -> None:
    await store.create("a", dimensions=16, distance="cosine")
    await fill(store, drawn(10_000, 16))
    await asyncio.sleep(3.0)
    assert await store.optimised("a") == (0, False)
    assert store.pid is not None
    assert children_of(store.pid) == []


def holding(folder: Path, marks: list[bytes]) -> list[str]:
    """The files below a folder that have one of some bytes in them."""
    found = []
    # Unlike `rglob` this goes on where a folder vanishes.
    for where, _, names in os.walk(folder):
        for path in (Path(where) / one for one in names):
            with suppress(FileNotFoundError):
                data = path.read_bytes()
                found += [str(path)] if any(mark in data for mark in marks) else []
    return found


async def until_erased(folder: Path, marks: list[bytes]) -> None:
    async with asyncio.timeout(120):
        while holding(folder, marks):  # noqa: ASYNC110
            await asyncio.sleep(0.2)


def of(who: str) -> Filter:
    return Filter(must=[Condition(key="who", match=MatchOf(value=who))])


@pytest.mark.parametrize("is_restarted", [False, True], ids=["running", "restarted"])
async def test_what_is_erased_is_in_no_file(tmp_path: Path, is_restarted: bool) -> None:
    """Neither word nor vector, in segments, indexes or the log; all else is as it was, and goes on."""
    rows = drawn(60, 8)
    store = EdgeVectorStore(tmp_path, log=LOG)
    await store.create("a", dimensions=8, distance="euclidean", indexed=["who"])
    people = ["zacharias", "melchior", "balthasar"]
    await store.upsert("a", [Point(name(n), row, {"who": people[n % 3], "n": n}) for n, row in enumerate(rows)])
    marks = [b"melchior", *(rows[n].tobytes() for n in range(1, 60, 3))]
    assert holding(tmp_path, marks) != []
    await store.delete_where("a", of("melchior"), erase=True)
    if is_restarted:
        await store.close()
        assert holding(tmp_path, marks) != []
        store = EdgeVectorStore(tmp_path, log=LOG)
        assert await store.places() == ["a"]
    else:
        # Written while it is written anew, or before, or after.
        await store.upsert("a", [Point(name(100), rows[0] + 1, {"who": "zacharias"})])
    await until_erased(tmp_path, marks)
    assert await store.count("a", of("melchior")) == 0
    assert dict(await store.tally("a", "who", limit=5)) == {"zacharias": 20 + (not is_restarted), "balthasar": 20}
    for n in (0, 2, 57, 59):
        (point,) = await store.get("a", [name(n)], with_vectors=True)
        assert point.payload == {"who": people[n % 3], "n": n}
        assert point.vector is not None
        assert point.vector.tobytes() == rows[n].tobytes()
    await store.upsert("a", [Point(name(1), rows[1], {"who": "melchior"})])
    await store.delete("a", [name(0)])
    assert await store.count("a") == 40 + (not is_restarted)
    await store.close()
    again = EdgeVectorStore(tmp_path, log=LOG)
    assert await again.count("a", of("melchior")) == 1
    await again.close()


async def test_a_damaged_place_with_something_to_erase_holds_up_no_other(tmp_path: Path) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
    (tmp_path / "a" / "place.json").write_text('{"dimensions":8,"distance":"dot","indexed":[],"erase":true}')
    (tmp_path / "b" / "place.json").write_text("{")
    store = EdgeVectorStore(tmp_path, log=LOG)
    await store.create("c", dimensions=8, distance="dot")
    await store.upsert("c", [Point(name(1), drawn(1, 8)[0], {})])
    assert await store.count("c") == 1
    with pytest.raises(Unavailable):
        await store.count("a")
    await store.close()


async def test_to_erase_nobody_is_no_work(store: EdgeVectorStore, tmp_path: Path) -> None:
    await store.create("a", dimensions=8, distance="dot", indexed=["who"])
    await store.upsert("a", [Point(name(1), drawn(1, 8)[0], {"who": "anna"})])
    await store.delete_where("a", of("nobody"), erase=True)
    assert b'"erase":true' not in (tmp_path / "vectors" / "a" / "place.json").read_bytes()
    await store.delete_where("a", of("anna"))
    assert b'"erase":true' not in (tmp_path / "vectors" / "a" / "place.json").read_bytes()


async def test_closing_does_not_wait_for_the_graph_and_the_next_opening_builds_it(tmp_path: Path) -> None:
    rows = drawn(12_000, 256)
    first = EdgeVectorStore(tmp_path, log=LOG)
    await first.create("a", dimensions=256, distance="dot")
    await fill(first, rows)
    await until_building(first)
    assert first.pid is not None
    (builder,) = children_of(first.pid)
    began = time.perf_counter()
    await first.close()
    assert time.perf_counter() - began < 8.0
    assert not lives(builder)
    second = EdgeVectorStore(tmp_path, log=LOG)
    assert await second.count("a") == 12_000
    assert [path.name for path in (tmp_path / "a").glob("shard-*")] == ["shard-1"]
    await until_building(second)
    # Killed in the middle, it takes the builder along, and the place is as it was.
    assert second.pid is not None
    (builder,) = children_of(second.pid)
    os.kill(second.pid, signal.SIGKILL)
    with pytest.raises(Unavailable):
        await asyncio.gather(*(second.count("a") for _ in range(10)))
    async with asyncio.timeout(10):
        while lives(builder):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await second.count("a") == 12_000
    await second.close()


async def test_a_second_opener_is_told_what_to_set(store: EdgeVectorStore, tmp_path: Path) -> None:
    await store.create("a", dimensions=4, distance="dot")
    other = EdgeVectorStore(tmp_path / "vectors", log=LOG)
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"open in another process.*QDRANT_URL"):
            await other.places()
    await other.close()
    assert await store.places() == ["a"]


async def test_nothing_starts_before_the_first_call(tmp_path: Path) -> None:
    store = EdgeVectorStore(tmp_path / "vectors", log=LOG)
    assert store.pid is None
    assert not (tmp_path / "vectors").exists()
    await store.close()
    lines = "import sys; import phalanx.app; print([m for m in sys.modules if 'qdrant_' in m])"
    loaded = subprocess.run(  # noqa: ASYNC221
        [sys.executable, "-c", lines], capture_output=True, text=True, check=True
    ).stdout
    assert "'qdrant_edge'" not in loaded
    assert "'qdrant_client'" not in loaded


async def test_calls_under_way_fail_when_the_engine_dies_and_the_next_one_starts_it(store: EdgeVectorStore) -> None:
    await store.create("a", dimensions=4, distance="dot")
    await store.upsert("a", [Point(name(1), np.ones(4, np.float32), {})])
    assert store.pid is not None
    os.kill(store.pid, signal.SIGSTOP)
    under_way = [asyncio.create_task(store.count("a")) for _ in range(5)]
    await asyncio.sleep(0.1)
    os.kill(store.pid, signal.SIGKILL)
    for outcome in await asyncio.gather(*under_way, return_exceptions=True):
        assert isinstance(outcome, Unavailable)
    assert await store.count("a") == 1


async def test_what_waits_is_bounded_and_who_leaves_is_forgotten(
    store: EdgeVectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "MAX_WAITING", 3)
    await store.create("a", dimensions=4, distance="dot")
    assert store.pid is not None
    os.kill(store.pid, signal.SIGSTOP)
    under_way = [asyncio.create_task(store.count("a")) for _ in range(3)]
    await asyncio.sleep(0.1)
    with pytest.raises(Overloaded):
        await store.count("a")
    under_way[0].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    under_way.append(asyncio.create_task(store.count("a")))
    await asyncio.sleep(0.1)
    os.kill(store.pid, signal.SIGCONT)
    assert await asyncio.gather(*under_way[1:]) == [0, 0, 0]


async def test_a_folder_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "vectors").write_text("no folder")
    store = EdgeVectorStore(tmp_path / "vectors", log=LOG)
    with pytest.raises(Unavailable, match="cannot be opened") as caught:
        await store.places()
    assert str(tmp_path) not in caught.value.detail
    await store.close()


async def test_what_a_kill_left_half_made_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".new-a" / "shard-1").mkdir(parents=True)
    (tmp_path / ".gone-b").mkdir()
    store = EdgeVectorStore(tmp_path, log=LOG)
    assert await store.places() == []
    await store.create("a", dimensions=4, distance="dot")
    assert names_in(tmp_path) == ["a", "lock"]
    await store.close()


def test_more_places_than_are_open_at_once(tmp_path: Path) -> None:
    shards = Shards(tmp_path, max_open=3)
    vector = np.ones(4, np.float32).tobytes()
    for n in range(7):
        shards.do(Create(f"p{n}", 4, "dot", []))
        shards.do(Upsert(f"p{n}", [Kept(name(n), vector, {"n": n})]))
    threads = len(names_in(Path("/proc/self/task")))
    for _ in range(2):
        for n in range(7):
            assert [point.payload for point in shards.do(Scroll(f"p{n}", None, 5, None, False))] == [{"n": n}]
    assert len(names_in(Path("/proc/self/task"))) <= threads + 10
    assert shards.do(Drop("p0"))
    shards.close()


async def test_what_has_no_shape_of_a_vector_is_refused(store: EdgeVectorStore) -> None:
    await store.create("a", dimensions=4, distance="dot")
    with pytest.raises(InvalidRequest, match="one row"):
        await store.search("a", np.ones((2, 2), np.float32), limit=1)


async def test_a_store_that_is_refused_says_why_with_every_call() -> None:
    store = RefusedVectorStore("set QDRANT_URL")
    for call in (store.places(), store.count("a"), store.create("a", dimensions=1, distance="dot"), store.ping()):
        with pytest.raises(Unavailable, match="set QDRANT_URL"):
            await call
    await store.close()
