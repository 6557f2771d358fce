"""What every `VectorStore` does. The one in memory, which compares one by one, says what is right."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from phalanx.contract.collections import Condition, Filter, MatchOf, RangeOf
from phalanx.contract.vector import Vector
from phalanx.errors import Conflict, InvalidRequest, NotFound, Unavailable
from phalanx.ports import Distance, Point, VectorStore
from phalanx.stores.memory.vectors import MemoryVectorStore
from phalanx.stores.qdrant.edge import EdgeVectorStore
from phalanx.stores.qdrant.opening import open_qdrant
from servers.qdrant import REAL_SERVER, QdrantStandIn

pytestmark = pytest.mark.anyio

LOG = structlog.get_logger()
DISTANCES: tuple[Distance, ...] = ("cosine", "euclidean", "dot")


@asynccontextmanager
async def edge(folder: Path) -> AsyncIterator[VectorStore]:
    store = EdgeVectorStore(folder, log=LOG)
    yield store
    await store.close()


@asynccontextmanager
async def on_server(url: str, api_key: str = "") -> AsyncIterator[VectorStore]:
    """A store on a server, without the places of other tests."""
    store = await open_qdrant(url, api_key)
    for place in await store.places():
        await store.drop(place)
    yield store
    await store.close()


@pytest.fixture(scope="module")
def stand_in() -> Iterator[QdrantStandIn]:
    """What speaks as a Qdrant server does; see there for what it is not."""
    server = QdrantStandIn(api_key="a key")
    try:
        server.start()
        yield server
    finally:
        server.remove()


ADAPTERS = ["memory", "edge", "stand-in", *(["server"] if REAL_SERVER else [])]


@pytest.fixture(params=ADAPTERS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VectorStore]:
    if request.param == "memory":
        yield MemoryVectorStore()
        return
    if request.param == "edge":
        opening = edge(tmp_path / "vectors")
    elif request.param == "stand-in":
        opening = on_server(request.getfixturevalue("stand_in").url, "a key")
    else:
        opening = on_server(REAL_SERVER)
    async with opening as opened:
        yield opened


def name(n: int) -> str:
    """A point's id: spread over all UUIDs, in another order than that of `n`."""
    return str(uuid.UUID(int=(n * 0x9E3779B97F4A7C15F39CC0605CEDC835 + 7) % 2**128))


def drawn(count: int, dimensions: int = 8, seed: int = 0) -> Vector:
    return np.random.default_rng(seed).standard_normal((count, dimensions), dtype=np.float32)


def points(rows: Vector, payload: Callable[[int], dict[str, Any]] = lambda n: {"n": n}) -> list[Point]:
    return [Point(name(n), row, payload(n)) for n, row in enumerate(rows)]


def row(*numbers: float) -> Vector:
    return np.array(numbers, np.float32)


def known(vector: Vector | None) -> Vector:
    assert vector is not None
    return vector


def match(key: str, value: str | int | bool) -> Condition:
    return Condition(key=key, match=MatchOf(value=value))


# Places


async def test_a_place_is_made_once_and_dropped_once(store: VectorStore) -> None:
    assert await store.places() == []
    for _ in range(2):
        await store.create("b-2", dimensions=8, distance="cosine")
    await store.create("A_1", dimensions=3, distance="dot", indexed=["k"])
    assert await store.places() == ["A_1", "b-2"]
    await store.upsert("b-2", points(drawn(3)))
    assert (await store.drop("b-2"), await store.drop("b-2"), await store.drop("never")) == (True, False, False)
    assert await store.places() == ["A_1"]
    await store.create("b-2", dimensions=4, distance="euclidean")
    assert await store.count("b-2") == 0


async def test_a_place_keeps_its_dimensions_and_its_distance(store: VectorStore) -> None:
    await store.create("a", dimensions=8, distance="cosine")
    with pytest.raises(Conflict, match="8 dimensions and cosine"):
        await store.create("a", dimensions=9, distance="cosine")
    with pytest.raises(Conflict, match="8 dimensions and cosine"):
        await store.create("a", dimensions=8, distance="dot")


async def test_a_key_may_be_indexed_later(store: VectorStore) -> None:
    await store.create("a", dimensions=8, distance="cosine")
    await store.upsert("a", points(drawn(4), lambda n: {"k": f"w{n % 2}"}))
    with pytest.raises(InvalidRequest, match="'k' is not indexed"):
        await store.tally("a", "k", limit=9)
    await store.create("a", dimensions=8, distance="cosine", indexed=["k"])
    assert await store.tally("a", "k", limit=9) == [("w0", 2), ("w1", 2)]


@pytest.mark.parametrize("place", ["", "a/b", "..", "ü", "a b", "a" * 129])
async def test_a_name_that_is_none_is_refused(store: VectorStore, place: str) -> None:
    with pytest.raises(InvalidRequest, match="name of a place"):
        await store.create(place, dimensions=8, distance="cosine")


async def test_dimensions_have_bounds(store: VectorStore) -> None:
    for dimensions in (0, 65_537):
        with pytest.raises(InvalidRequest, match="dimensions"):
            await store.create("a", dimensions=dimensions, distance="cosine")


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.upsert("none", points(drawn(1))),
        lambda store: store.delete("none", [name(1)]),
        lambda store: store.delete_where("none", Filter()),
        lambda store: store.get("none", [name(1)]),
        lambda store: store.search("none", drawn(1)[0], limit=1),
        lambda store: store.scroll("none", limit=1),
        lambda store: store.count("none"),
        lambda store: store.tally("none", "k", limit=1),
    ],
)
async def test_a_place_that_is_not_there_is_not_found(
    store: VectorStore, ask: Callable[[VectorStore], Awaitable[object]]
) -> None:
    with pytest.raises(NotFound, match="no such place"):
        await ask(store)


# Points


@pytest.mark.parametrize("distance", DISTANCES)
async def test_vectors_come_back_as_they_were_stored(store: VectorStore, distance: Distance) -> None:
    rows = drawn(50) * row(*(10.0 ** (n % 9 - 4) for n in range(50)))[:, None]
    unit = drawn(50, seed=1)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    await store.create("a", dimensions=8, distance=distance)
    await store.upsert("a", points(np.concatenate((rows, unit))))
    kept = await store.get("a", [name(n) for n in range(100)], with_vectors=True)
    vectors = np.stack([point.vector for point in kept if point.vector is not None])
    assert vectors.dtype == np.float32
    # One rounding when it is made a unit vector, one when it is made long again.
    np.testing.assert_allclose(vectors[:50], rows, rtol=3e-7, atol=0)
    assert np.array_equal(vectors[50:], unit)
    (hit,) = await store.search("a", rows[7], limit=1, only=Filter(must=[match("n", 7)]), with_vectors=True)
    assert hit.id == name(7)
    assert np.array_equal(known(hit.vector), vectors[7])


async def test_an_upsert_replaces_a_point_whole(store: VectorStore) -> None:
    await store.create("a", dimensions=8, distance="cosine")
    rows = drawn(2)
    await store.upsert("a", [Point(name(1), rows[0] * 5, {"a": 1, "b": 2})])
    await store.upsert("a", [Point(name(1), rows[1] / np.linalg.norm(rows[1]), {"a": 3})])
    (point,) = await store.get("a", [name(1)], with_vectors=True)
    assert point.payload == {"a": 3}
    np.testing.assert_allclose(known(point.vector), rows[1] / np.linalg.norm(rows[1]), rtol=3e-7)
    await store.upsert("a", [Point(name(2), rows[0], {"first": 1}), Point(name(2), rows[1], {"last": 1})])
    assert (await store.get("a", [name(2)]))[0].payload == {"last": 1}
    assert await store.count("a") == 2


async def test_points_come_in_the_order_asked_for_and_absent_ones_are_left_out(store: VectorStore) -> None:
    await store.create("a", dimensions=8, distance="cosine")
    await store.upsert("a", points(drawn(3)))
    asked = [name(2), name(9), name(0), name(2)]
    assert await store.get("a", asked) == [
        Point(name(2), None, {"n": 2}),
        Point(name(0), None, {"n": 0}),
        Point(name(2), None, {"n": 2}),
    ]
    assert await store.get("a", []) == []


async def test_nothing_is_deleted_but_what_is_named(store: VectorStore) -> None:
    await store.create("a", dimensions=8, distance="cosine")
    await store.upsert("a", points(drawn(5)))
    await store.delete("a", [name(1), name(99), name(3)])
    await store.delete("a", [])
    await store.upsert("a", [])
    assert sorted(point.payload["n"] for point in await store.scroll("a", limit=9)) == [0, 2, 4]


PAYLOADS: list[dict[str, Any]] = [
    {},
    {"": 1, "%": 2, "%22": 3, '"': 4, "a.b": 5, "a[0]": 6, "a\\": 7, "\n": 8, " ": 9, "💡": 10, "p": 11, "n": 12},
    {"ключ": {"鍵": {"مفتاح": ["ü", None, True, False, 1, 1.0, -0.5, {}, [], ["x"]]}}},
    {
        "n": 2.0,
        "big": 2**63 - 1,
        "small": -(2**63),
        "tiny": 5e-324,
        "huge": 1.7976931348623157e308,
        "text": "\x00\U0001f600",
    },
    {"words": ["%true", "%", "%25", "%%", True, False, "true"], "%true": "%false"},
    {"list": [[[1, [2]]], {"a": [{"b": ""}]}]},
]


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_any_json_comes_back_as_it_was(store: VectorStore, payload: dict[str, Any]) -> None:
    await store.create("a", dimensions=8, distance="cosine")
    await store.upsert("a", [Point(name(1), drawn(1)[0], payload)])
    (point,) = await store.get("a", [name(1)])
    assert point.payload == payload
    assert repr(sorted(point.payload.items())) == repr(sorted(payload.items()))


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("point", "why"),
    [
        (Point("x", drawn(1)[0], {}), "UUID"),
        (Point(name(1).upper(), drawn(1)[0], {}), "UUID"),
        (Point(name(1), drawn(1, 7)[0], {}), "7 dimensions; 8 are needed"),
        (Point(name(1), row(), {}), "0 dimensions; 8 are needed"),
        (Point(name(1), None, {}), "no vector"),
        (Point(name(1), row(*[np.nan] * 8), {}), "NaN"),
        (Point(name(1), row(*[1] * 7, np.inf), {}), "infinity"),
        (Point(name(1), np.array([1e39] * 8), {}), "beyond float32"),
        (Point(name(1), np.zeros(8, np.float32), {}), "no direction"),
        (Point(name(1), drawn(1)[0], {"a": [float("nan")]}), "NaN"),
        (Point(name(1), drawn(1)[0], {"a": 2**63}), "64 bits"),
        (Point(name(1), drawn(1)[0], {"a": "\ud800"}), "surrogate"),
        (Point(name(1), drawn(1)[0], {"\udfff": 1}), "surrogate"),
        (Point(name(1), drawn(1)[0], {"a": {1, 2}}), "set"),
        (Point(name(1), drawn(1)[0], nested(40)), "deep"),
    ],
)
async def test_a_bad_point_is_refused_and_nothing_of_its_call_is_kept(
    store: VectorStore, point: Point, why: str
) -> None:
    await store.create("a", dimensions=8, distance="cosine")
    with pytest.raises(InvalidRequest, match=f"point 1: .*{why}"):
        await store.upsert("a", [Point(name(0), drawn(1)[0], {}), point])
    assert await store.count("a") == 0


async def test_zeros_are_a_vector_where_no_direction_is_asked_for(store: VectorStore) -> None:
    await store.create("a", dimensions=8, distance="euclidean")
    await store.upsert("a", [Point(name(1), np.zeros(8, np.float32), {})])
    (hit,) = await store.search("a", np.full(8, 0.5, np.float32), limit=1)
    assert hit.score == pytest.approx(8**0.5 / 2)


# Search


@pytest.mark.parametrize("distance", DISTANCES)
async def test_the_nearest_come_first_with_their_scores(store: VectorStore, distance: Distance) -> None:
    rows, queries = drawn(500, 24) * 3, drawn(8, 24, seed=1)
    right = MemoryVectorStore()
    for one in (store, right):
        await one.create("a", dimensions=24, distance=distance)
        await one.upsert("a", points(rows))
    for query in queries:
        found, wanted = await store.search("a", query, limit=20), await right.search("a", query, limit=20)
        assert [hit.id for hit in found] == [hit.id for hit in wanted]
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in wanted], rel=1e-5, abs=1e-6)
        assert all(hit.payload == {"n": int(hit.payload["n"])} and hit.vector is None for hit in found)
    # What it says, by its own words: cosine and dot fall, distances rise.
    scores = [hit.score for hit in await store.search("a", queries[0], limit=500)]
    assert scores == sorted(scores, reverse=distance != "euclidean")
    assert len(scores) == 500
    assert distance != "cosine" or -1 <= min(scores) <= max(scores) <= 1
    assert distance != "euclidean" or min(scores) >= 0


async def test_a_query_that_fits_nothing_is_refused(store: VectorStore) -> None:
    await store.create("a", dimensions=8, distance="cosine")
    assert await store.search("a", drawn(1)[0], limit=5) == []
    for query, why in ((drawn(1, 9)[0], "8 are needed"), (row(*[np.nan] * 8), "NaN"), (row(*[0] * 8), "direction")):
        with pytest.raises(InvalidRequest, match=why):
            await store.search("a", query, limit=5)


# Filters

FILTERED: list[dict[str, Any]] = [
    {"word": "red", "number": 1, "real": 0.5, "flag": True, "tags": ["a", "b", "b"]},
    {"word": "green", "number": 2, "real": 2.0, "flag": False, "tags": []},
    {"word": "red", "number": -3, "real": -1e9, "flag": 1, "tags": ["b", 1]},
    {"word": "", "number": "1", "real": "2.0", "flag": "True", "tags": "a"},
    {"word": ["red", "blue"], "number": [1, 5], "real": [0.1, 9.9], "flag": [True, None]},
    {"word": None, "number": 1.0, "real": 2, "flag": None, "tags": [["a"]]},
    {"in": {"ner": {"ключ": "x"}}, "a.b": "dot", "in.ner": "flat", 'q"q': {"": "y"}, "a[0]": "bracket"},
    {"in": {"ner": [{"ключ": "x"}]}, "a": {"b": "dot"}, "word": "Red", "number": 2**62},
    {"in": "ner", "word": ["красный", "%true"], "flag": "%true", "a": ["bracket"]},
]


def any_of(key: str, *values: str | int) -> Condition:
    return Condition(key=key, match=MatchOf(any=list(values)))


def between(key: str, **bounds: float) -> Condition:
    return Condition(key=key, range=RangeOf(**bounds))


FILTERS: list[tuple[Filter | None, list[int]]] = [
    (None, list(range(9))),
    (Filter(), list(range(9))),
    (Filter(must=[match("word", "red")]), [0, 2, 4]),
    (Filter(must=[match("word", "")]), [3]),
    (Filter(must=[match("word", "красный")]), [8]),
    (Filter(must=[match("number", 1)]), [0, 4]),
    (Filter(must=[match("number", "1")]), [3]),
    (Filter(must=[match("number", 2**62)]), [7]),
    (Filter(must=[match("flag", True)]), [0, 4]),
    (Filter(must=[match("flag", False)]), [1]),
    (Filter(must=[match("flag", 1)]), [2]),
    (Filter(must=[match("word", "%true")]), [8]),
    (Filter(must=[match("tags", "a")]), [0, 3]),
    (Filter(must=[match("in.ner.ключ", "x")]), [6]),
    (Filter(must=[match("in.ner", "flat")]), []),
    (Filter(must=[match("a.b", "dot")]), [7]),
    (Filter(must=[match('q"q.', "y")]), [6]),
    (Filter(must=[match("a[0]", "bracket")]), [6]),
    (Filter(must=[match("a", "bracket")]), [8]),
    (Filter(must=[match("..", "x")]), []),
    (Filter(must=[any_of("word", "red", "green")]), [0, 1, 2, 4]),
    (Filter(must=[any_of("number", 1, "1", 2)]), [0, 1, 3, 4]),
    (Filter(must=[any_of("tags", "none", 1)]), [2]),
    (Filter(must=[between("number", gt=1)]), [1, 4, 7]),
    (Filter(must=[between("number", gte=1)]), [0, 1, 4, 5, 7]),
    (Filter(must=[between("real", gte=0.5, lt=2)]), [0]),
    (Filter(must=[between("real", lte=2, gt=0.1)]), [0, 1, 5]),
    (Filter(must=[between("real", lt=0)]), [2]),
    (Filter(must=[between("word", gte=0)]), []),
    (Filter(must_not=[match("word", "red")]), [1, 3, 5, 6, 7, 8]),
    (Filter(should=[match("word", "green"), between("number", lt=0)]), [1, 2]),
    (Filter(must=[match("word", "red")], must_not=[match("number", 1)]), [2]),
    (Filter(must=[match("word", "red")], should=[match("flag", True), match("tags", 1)]), [0, 2, 4]),
    (Filter(must=[match("word", "red"), match("flag", True)], must_not=[any_of("tags", "b")]), [4]),
]


async def filtered(store: VectorStore, indexed: list[str]) -> None:
    await store.create("a", dimensions=8, distance="cosine", indexed=indexed)
    await store.upsert("a", points(drawn(len(FILTERED)), lambda n: {**FILTERED[n], "at": n}))


@pytest.mark.parametrize("indexed", [[], ["word", "number", "flag", "tags", "in.ner.ключ", 'q"q.', "a[0]"]])
async def test_filters_mean_the_same_everywhere(store: VectorStore, indexed: list[str]) -> None:
    await filtered(store, indexed)
    for only, right in FILTERS:
        hits = await store.search("a", drawn(1)[0], limit=99, only=only)
        scrolled = await store.scroll("a", limit=99, only=only)
        assert sorted(hit.payload["at"] for hit in hits) == right, only
        assert sorted(point.payload["at"] for point in scrolled) == right, only
        assert await store.count("a", only) == len(right), only


@pytest.mark.parametrize("only", [only for only, _ in FILTERS if only is not None])
async def test_what_a_filter_lets_through_is_deleted(store: VectorStore, only: Filter) -> None:
    right = next(numbers for other, numbers in FILTERS if other is only)
    await filtered(store, ["word"])
    await store.delete_where("a", only)
    left = [point.payload["at"] for point in await store.scroll("a", limit=99)]
    assert sorted(left) == [n for n in range(len(FILTERED)) if n not in right]


@pytest.mark.parametrize(
    "condition",
    [
        Condition(key="a"),
        Condition(key="a", match=MatchOf()),
        Condition(key="a", match=MatchOf(value=1, any=[2])),
        Condition(key="a", match=MatchOf(value=1), range=RangeOf(gt=1)),
        Condition(key="a", range=RangeOf()),
        Condition(key="a", match=MatchOf(value=2**64)),
        Condition(key="a", match=MatchOf(any=[1, -(2**70)])),
    ],
)
async def test_a_condition_that_says_nothing_is_refused(store: VectorStore, condition: Condition) -> None:
    await store.create("a", dimensions=8, distance="cosine", indexed=["k"])
    await store.upsert("a", points(drawn(2)))
    for only in (Filter(must=[condition]), Filter(must_not=[condition]), Filter(should=[condition])):
        for ask in (
            store.search("a", drawn(1)[0], limit=1, only=only), store.scroll("a", limit=1, only=only),
            store.count("a", only), store.delete_where("a", only), store.tally("a", "k", limit=1, only=only),
        ):  # fmt: skip
            with pytest.raises(InvalidRequest):
                await ask
    assert await store.count("a") == 2


# Scrolling and counting


async def test_pages_follow_each_other_while_points_come_and_go(store: VectorStore) -> None:
    await store.create("a", dimensions=8, distance="cosine")
    await store.upsert("a", points(drawn(100)))
    seen: list[str] = []
    after, changes = None, random.Random(1)
    while page := await store.scroll("a", after=after, limit=7):
        seen += [point.id for point in page]
        after = seen[-1]
        await store.upsert("a", [Point(name(changes.randrange(1_000, 2_000)), drawn(1)[0], {"n": 1_000})])
    assert seen == sorted(set(seen))
    assert {name(n) for n in range(100)} <= set(seen)
    assert await store.scroll("a", after="ffffffff-ffff-ffff-ffff-ffffffffffff", limit=5) == []
    assert [point.id for point in await store.scroll("a", after="0" * 8 + name(1)[8:], limit=1)] >= seen[:1]


async def test_a_page_behind_a_point_that_is_gone_goes_on(store: VectorStore) -> None:
    await store.create("a", dimensions=8, distance="cosine")
    await store.upsert("a", points(drawn(10)))
    ids = sorted(name(n) for n in range(10))
    await store.delete("a", ids[3:5])
    assert [point.id for point in await store.scroll("a", after=ids[3], limit=2)] == ids[5:7]
    vectors = [point.vector for point in await store.scroll("a", limit=2, with_vectors=True)]
    assert all(vector is not None and vector.shape == (8,) for vector in vectors)


async def test_values_are_tallied_exactly(store: VectorStore) -> None:
    await store.create("a", dimensions=8, distance="cosine", indexed=["who", "in.ner"])
    words = ["b", "a", "c", "b", ["a", "b", "b", True], True, 7, "c", "%ü", [False, None]]
    await store.upsert("a", points(drawn(10), lambda n: {"who": words[n], "n": n, "in": {"ner": f"{n % 3}"}}))
    assert await store.tally("a", "who", limit=10) == [("b", 3), ("a", 2), ("c", 2), ("%ü", 1)]
    assert await store.tally("a", "who", limit=2) == [("b", 3), ("a", 2)]
    assert await store.tally("a", "in.ner", limit=5) == [("0", 4), ("1", 3), ("2", 3)]
    only = Filter(must=[between("n", lt=3)])
    assert await store.tally("a", "who", limit=10, only=only) == [("a", 1), ("b", 1), ("c", 1)]
    with pytest.raises(InvalidRequest, match="not indexed"):
        await store.tally("a", "n", limit=1)


async def test_a_value_whose_points_are_gone_is_not_counted(store: VectorStore) -> None:
    """Whoever is forgotten is not listed with no faces."""
    await store.create("a", dimensions=8, distance="cosine", indexed=["who"])
    await store.upsert("a", points(drawn(6), lambda n: {"who": "abc"[n % 3], "n": n}))
    await store.delete_where("a", Filter(must=[match("who", "a")]))
    await store.delete("a", [name(1)])
    assert await store.tally("a", "who", limit=5) == [("c", 2), ("b", 1)]
    only = Filter(must=[between("n", gte=5)])
    assert await store.tally("a", "who", limit=5, only=only) == [("c", 1)]


async def test_ten_thousand_points(store: VectorStore) -> None:
    rows = drawn(10_000, 32)
    await store.create("a", dimensions=32, distance="cosine", indexed=["group"])
    made = points(rows, lambda n: {"group": f"g{n % 10:02}", "n": n})
    for start in range(0, 10_000, 2_500):
        await store.upsert("a", made[start : start + 2_500])
    assert await store.count("a") == 10_000
    assert await store.tally("a", "group", limit=3) == [("g00", 1_000), ("g01", 1_000), ("g02", 1_000)]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for query in (17, 4_444):
        right = np.argsort(-(unit @ unit[query]), kind="stable")[:10]
        # It is small, so it is searched exactly.
        assert [hit.payload["n"] for hit in await store.search("a", rows[query], limit=10)] == right.tolist()
    only = Filter(must=[match("group", "g07")])
    right = np.argsort(-(unit[7::10] @ unit[5]), kind="stable")[:10] * 10 + 7
    assert [hit.payload["n"] for hit in await store.search("a", rows[5], limit=10, only=only)] == right.tolist()
    await store.delete_where("a", only)
    assert await store.count("a") == 9_000


async def test_calls_at_once_do_not_hurt_each_other(store: VectorStore) -> None:
    await store.create("a", dimensions=8, distance="cosine")
    rows = drawn(200)

    async def one(n: int) -> None:
        await store.upsert("a", [Point(name(n), rows[n], {"n": n})])
        (point,) = await store.get("a", [name(n)], with_vectors=True)
        assert point.payload == {"n": n}
        assert name(n) in [hit.id for hit in await store.search("a", rows[n], limit=3)]

    await asyncio.gather(*(one(n) for n in range(200)))
    assert await store.count("a") == 200


async def test_it_answers_until_it_is_closed(store: VectorStore) -> None:
    await store.ping()
    await store.close()
    if not isinstance(store, MemoryVectorStore):
        with pytest.raises(Unavailable, match="closed"):
            await store.ping()


# What survives


async def test_what_was_kept_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    async with edge(tmp_path) as first:
        await first.create("a", dimensions=8, distance="cosine", indexed=["k"])
        await first.upsert("a", points(drawn(50) * 4, lambda n: {"k": f"w{n % 2}"}))
        await first.delete("a", [name(0)])
        before = await first.scroll("a", limit=99, with_vectors=True)
    async with edge(tmp_path) as second:
        await second.create("a", dimensions=8, distance="cosine", indexed=["k"])
        after = await second.scroll("a", limit=99, with_vectors=True)
        assert [(p.id, p.payload) for p in after] == [(p.id, p.payload) for p in before]
        assert all(np.array_equal(known(a.vector), known(b.vector)) for a, b in zip(after, before, strict=True))
        assert await second.tally("a", "k", limit=5) == [("w1", 25), ("w0", 24)]
        # And it can be changed: operations are numbered on, or the engine would take these for old ones.
        await second.delete("a", [name(n) for n in range(10)])
        await second.upsert("a", [Point(name(10), drawn(1)[0], {"k": "new"})])
        assert await second.tally("a", "k", limit=5) == [("w1", 20), ("w0", 19), ("new", 1)]
        with pytest.raises(Conflict):
            await second.create("a", dimensions=9, distance="cosine")


# A server that goes and comes back


async def test_a_server_that_is_gone_is_unavailable_and_serves_again_when_it_is_back(stand_in: QdrantStandIn) -> None:
    async with on_server(stand_in.url, "a key") as store:
        await store.create("a", dimensions=8, distance="cosine", indexed=["k"])
        rows, acknowledged, refused = drawn(2_000), set[int](), set[str]()
        is_over = asyncio.Event()

        async def write(first: int) -> None:
            for n in range(first, 2_000, 4):
                if is_over.is_set():
                    return
                try:
                    await store.upsert("a", [Point(name(n), rows[n], {"n": n})])
                    acknowledged.add(n)
                except Unavailable as error:
                    refused.add(error.detail)
                await asyncio.sleep(0.005)

        writers = [asyncio.create_task(write(first)) for first in range(4)]
        await asyncio.sleep(0.4)
        await asyncio.to_thread(stand_in.kill)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await store.ping()
        await asyncio.to_thread(stand_in.start)
        before = len(acknowledged)
        async with asyncio.timeout(30):
            while len(acknowledged) < before + 50:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        is_over.set()
        await asyncio.gather(*writers)
        kept = {point.payload["n"] for point in await store.scroll("a", limit=5_000)}
        assert before > 0
        assert not [detail for detail in refused if "127.0.0.1" in detail]
        assert acknowledged <= kept


async def test_a_server_that_comes_back_soon_is_waited_for(stand_in: QdrantStandIn) -> None:
    async with on_server(stand_in.url, "a key") as store:
        await store.create("a", dimensions=8, distance="cosine")
        await asyncio.to_thread(stand_in.kill)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("phalanx.stores.qdrant.server.PAUSES_S", (0.5,) * 60)
            asked = asyncio.create_task(store.count("a"))
            await asyncio.to_thread(stand_in.start)
            assert await asked == 0


async def test_a_key_that_the_server_refuses_is_said(stand_in: QdrantStandIn) -> None:
    for key in ("", "another key"):
        store = await open_qdrant(stand_in.url, key)
        with pytest.raises(Unavailable, match="refused the credentials"):
            await store.places()
        await store.close()
    with_key = await open_qdrant(stand_in.url.replace("http://", "http://a%20key@"))
    assert all(place.isidentifier() for place in await with_key.places())
    await with_key.close()


async def test_a_place_that_another_worker_makes_anew_is_seen(stand_in: QdrantStandIn) -> None:
    async with on_server(stand_in.url, "a key") as one, on_server(stand_in.url, "a key") as other:
        await one.create("a", dimensions=8, distance="cosine")
        await one.upsert("a", points(drawn(1)))
        await other.drop("a")
        with pytest.raises(NotFound):
            await one.count("a")
        await other.create("a", dimensions=4, distance="dot", indexed=["k"])
        await one.upsert("a", points(drawn(1, 4), lambda n: {"k": "w"}))
        assert await other.tally("a", "k", limit=1) == [("w", 1)]
