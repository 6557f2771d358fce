"""Collections and their points by the services, over stores in memory and a text model that a test can exchange."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest

from clocks import HandClock
from phalanx.contract.collections import (
    CollectionRequest,
    Condition,
    CreateCollectionRequest,
    Filter,
    ListCollectionsRequest,
    MatchOf,
    ReembedRequest,
    ReembedStatusRequest,
)
from phalanx.contract.keys import ALL_SCOPES
from phalanx.contract.points import (
    MAX_PAYLOAD_BYTES,
    CountMatchingRequest,
    CountRequest,
    DeletePointsRequest,
    NewPoint,
    ScrollPointsRequest,
    SearchRequest,
    UpsertPointsRequest,
)
from phalanx.engines.text.spec import TextSpec
from phalanx.errors import (
    Conflict,
    ContractMismatch,
    Forbidden,
    InvalidRequest,
    NotFound,
    Overloaded,
    PhalanxError,
    TooLarge,
    Unavailable,
    UnreadableInput,
)
from phalanx.ports import Point
from phalanx.services.collections.contracts import Contracts
from phalanx.services.collections.moving import Carrier, TextVectors
from phalanx.services.collections.points import PointService
from phalanx.services.collections.reembedding import Moves, ReembedService
from phalanx.services.collections.registry import KNOWN_FOR_S, CollectionRegistry
from phalanx.services.collections.service import MAX_COLLECTIONS, CollectionService
from phalanx.services.serving.face_models import FaceModels
from phalanx.services.serving.roster import Share
from phalanx.services.serving.text_models import ModelRegistry, ServedText
from phalanx.services.ticket import Caller, Meter
from phalanx.stores.memory.collections import MemoryCollectionStore
from phalanx.stores.memory.vectors import MemoryVectorStore

pytestmark = pytest.mark.anyio

OLD, NEW = "old-version", "new-version"


class Admitted:
    """As much of a ticket as the services look at."""

    def __init__(
        self, organisation: str = "org-1", *, scopes: Sequence[str] = ("vectors",), tier: Any = "scale"
    ) -> None:
        self.caller = Caller(organisation, organisation, "key-1", tier, frozenset(scopes))  # type: ignore[arg-type]
        self.deadline = float("inf")
        self.meter = Meter()

    def report(self, fraction: float, stage: str = "") -> None:
        """Nobody follows."""

    @property
    def tenant(self) -> str:
        return self.caller.organisation


class Words:
    """A text model's stand-in: words are axes, which each version lays otherwise. A text's vector is of unit length."""

    def __init__(self) -> None:
        self.embedded: list[str] = []
        self.before: Callable[[], Awaitable[None]] | None = None

    async def vectors(
        self, ticket: Any, served: ServedText, texts: Sequence[str], *, prompt: str | None, share: float = 0.0
    ) -> list[Any]:
        if self.before is not None:
            await self.before()
        spec = served.model.spec
        ticket.meter.tokens += len(texts)
        self.embedded += texts
        rows = []
        for text in texts:
            vector = np.zeros(spec.dimensions, np.float32)
            for word in text.lower().split():
                digest = hashlib.blake2b(f"{spec.version}{word}".encode()).digest()
                vector += np.random.default_rng(list(digest)).normal(size=spec.dimensions).astype(np.float32)
            rows.append(vector / np.linalg.norm(vector))
        return rows


def serve(models: ModelRegistry, version: str, *, dimensions: int = 16, name: str = "words", **facts: Any) -> None:
    spec = TextSpec(
        name=name, version=version, sha256=version * 4, dimensions=dimensions, max_tokens=64, positions=64, **facts
    )
    models.add(ServedText(SimpleNamespace(spec=spec), SimpleNamespace()))  # type: ignore[arg-type]


class House:
    """The services over their stores, put together anew by `restart` as after the death of a worker."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.records = MemoryCollectionStore()
        self.store = MemoryVectorStore()
        self.models = ModelRegistry("words")
        self.words = Words()
        self.ticket: Any = Admitted()
        serve(self.models, OLD)
        self.start()

    def start(self) -> None:
        contracts = Contracts(self.models, FaceModels())
        self.registry = CollectionRegistry(self.records, self.store, self.clock)
        vectors = TextVectors(self.words, contracts)  # type: ignore[arg-type]
        carrier = Carrier(self.store, vectors)
        self.moves = Moves()
        self.collections = CollectionService(self.registry, contracts, self.clock)
        self.points = PointService(self.registry, vectors, carrier)
        log: Any = SimpleNamespace(
            info=lambda *a, **k: None, error=lambda *a, **k: None, exception=lambda *a, **k: None
        )
        self.reembedding = ReembedService(self.registry, vectors, carrier, self.moves, cast("Any", None), log)

    async def create(self, name: str = "books", kind: Any = "texts", ticket: Any = None, **fields: Any) -> Any:
        request = CreateCollectionRequest(name=name, kind=kind, **fields)
        return await self.collections.create(ticket or self.ticket, request)

    async def add(self, *texts: str, name: str = "books", **fields: Any) -> Any:
        points = [NewPoint(id=text, text=text, **fields) for text in texts]
        return await self.points.upsert(self.ticket, UpsertPointsRequest(name=name, points=points))

    async def put(self, *points: dict[str, Any], name: str = "colours", ticket: Any = None) -> Any:
        sent = msgspec.convert({"name": name, "points": points}, UpsertPointsRequest)
        return await self.points.upsert(ticket or self.ticket, sent)

    async def search(self, name: str = "books", ticket: Any = None, **fields: Any) -> Any:
        return await self.points.search(ticket or self.ticket, SearchRequest(name=name, **fields))

    async def nearest(self, **fields: Any) -> list[Any]:
        return [match.id for match in (await self.search(**fields)).matches]

    async def everything(self, name: str = "books", **fields: Any) -> list[Any]:
        found, after = [], None
        while True:
            page = await self.points.scroll(self.ticket, ScrollPointsRequest(name=name, after=after, **fields))
            found += page.points
            if page.next is None:
                return found
            after = page.next

    async def delete(self, name: str = "books", **fields: Any) -> int:
        return (await self.points.delete(self.ticket, DeletePointsRequest(name=name, **fields))).deleted

    async def count(self, name: str = "books") -> int:
        return (await self.points.count(self.ticket, CountRequest(name=name))).count

    async def reembed(self, **fields: Any) -> Any:
        return await self.reembedding.start(self.ticket, ReembedRequest(name="books", **fields))

    async def status(self) -> Any:
        return await self.reembedding.show(self.ticket, ReembedStatusRequest(name="books"))

    async def settled(self) -> Any:
        for _ in range(2000):
            await asyncio.sleep(0)
            now = await self.status()
            if now.state != "moving":
                return now
        raise AssertionError(f"still moving: {now}")


@pytest.fixture
def house() -> House:
    return House()


async def code_of(work: Awaitable[Any]) -> str:
    with pytest.raises(PhalanxError) as caught:
        await work
    return caught.value.code


def where(key: str, value: Any) -> Filter:
    return Filter(must=[Condition(key=key, match=MatchOf(value=value))])


class TestCollections:
    async def test_a_collection_is_pinned_to_its_contract(self, house: House) -> None:
        made = await house.create()
        assert (made.name, made.kind, made.organisation) == ("books", "texts", "org-1")
        contract = made.contract
        assert (contract.model, contract.version, contract.dimensions, contract.metric) == ("words", OLD, 16, "cosine")
        assert (contract.sha256, contract.pooling, contract.max_tokens, contract.normalize) == (
            OLD * 4,
            "mean",
            64,
            True,
        )
        assert await house.collections.get(house.ticket, CollectionRequest(name="books")) == made
        assert await house.store.places() == [made.place]
        assert made.place.startswith("org-1-")
        assert "__books__" in made.place

    async def test_nothing_is_listed_that_could_not_be_made(self, house: House, monkeypatch: Any) -> None:
        """As where another process has the folder of the vectors open."""

        async def refused(*_: Any, **__: Any) -> Any:
            raise Unavailable("the vectors are away")

        for name in ("places", "create"):
            monkeypatch.setattr(house.store, name, refused)
        assert await code_of(house.create()) == "unavailable"
        assert await house.records.list_all() == []
        monkeypatch.undo()
        assert (await house.create()).name == "books"

    async def test_once_more_is_the_same_and_otherwise_a_conflict(self, house: House) -> None:
        made = await house.create("colours", "vectors", dimensions=3)
        assert await house.create("colours", "vectors", dimensions=3, metric="cosine") == made
        assert await code_of(house.create("colours", "vectors", dimensions=4)) == "conflict"
        assert await code_of(house.create("colours", "vectors", dimensions=3, metric="dot")) == "conflict"
        assert await code_of(house.create("colours", "texts")) == "conflict"
        await house.create("books", "texts", model="words")
        serve(house.models, "v1", name="other")
        assert await code_of(house.create("books", "texts", model="other")) == "conflict"
        assert await house.store.places() == sorted([made.place, (await house.create()).place])

    async def test_once_more_makes_the_place_that_a_killed_worker_did_not(self, house: House) -> None:
        made = await house.create()
        await house.store.drop(made.place)
        assert await code_of(house.add("one")) == "not_found"
        assert await house.create() == made
        await house.add("one")

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"kind": "vectors"}, "dimensions"),
            ({"kind": "vectors", "dimensions": 3, "model": "words"}, "model"),
            ({"kind": "texts", "dimensions": 3}, "dimensions"),
            ({"kind": "texts", "metric": "dot"}, "metric"),
        ],
    )
    async def test_what_does_not_go_with_a_kind_is_named(self, house: House, fields: Any, param: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await house.create("x", **fields)
        assert caught.value.param == param

    @pytest.mark.parametrize("name", ["", "A", "-a", "_a", "a b", "a/b", "ä", "a" * 64, "a\n"])
    def test_names_are_short_and_plain(self, name: str) -> None:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"name": name, "kind": "texts"}, CreateCollectionRequest)

    @pytest.mark.parametrize("dimensions", [0, 4097])
    def test_dimensions_are_bounded(self, dimensions: int) -> None:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"name": "a", "kind": "vectors", "dimensions": dimensions}, CreateCollectionRequest)

    async def test_a_model_that_is_not_there_is_said(self, house: House) -> None:
        assert await code_of(house.create("x", "texts", model="nothing")) == "model_not_found"
        assert await code_of(house.create("x", "faces")) == "model_not_found"
        assert await house.store.places() == []

    async def test_organisations_do_not_see_each_other(self, house: House) -> None:
        other: Any = Admitted("org-2")
        mine, theirs = await house.create(), await house.create(ticket=other)
        assert mine.place != theirs.place
        await house.add("one")
        assert (await house.search(text="one", ticket=other)).matches == []
        await house.create("mine-alone")
        found = await house.collections.list(other, ListCollectionsRequest())
        assert [one.organisation for one in found.collections] == ["org-2"]
        assert await code_of(house.collections.get(other, CollectionRequest(name="mine-alone"))) == "not_found"
        spying = CollectionRequest(name="books", organisation="org-1")
        for work in (house.collections.get(other, spying), house.collections.delete(other, spying)):
            with pytest.raises(Forbidden):
                await work
        with pytest.raises(Forbidden):
            await house.search(text="one", ticket=other, organisation="org-1")

    async def test_an_administrator_may_name_an_organisation_and_the_operator_sees_all(self, house: House) -> None:
        admin: Any = Admitted("staff", scopes=ALL_SCOPES)
        operator: Any = Admitted("operator", scopes=ALL_SCOPES, tier="operator")
        made = [await house.create(name) for name in ("a", "b", "c")]
        made.append(await house.create("a", ticket=Admitted("org-2")))
        assert await house.collections.get(admin, CollectionRequest(name="a", organisation="org-2")) == made[3]
        assert (await house.collections.list(admin, ListCollectionsRequest())).collections == []
        first = await house.collections.list(operator, ListCollectionsRequest(limit=3))
        assert (first.collections, first.next) == (made[:3], "org-1/c")
        rest = await house.collections.list(operator, ListCollectionsRequest(after="org-1/c", limit=3))
        assert (rest.collections, rest.next) == (made[3:], None)

    async def test_lists_have_pages(self, house: House) -> None:
        for name in ("c", "a", "b"):
            await house.create(name)
        page = await house.collections.list(house.ticket, ListCollectionsRequest(limit=2))
        assert ([one.name for one in page.collections], page.next) == (["a", "b"], "b")
        page = await house.collections.list(house.ticket, ListCollectionsRequest(limit=2, after="b"))
        assert ([one.name for one in page.collections], page.next) == (["c"], None)

    async def test_an_organisation_has_so_many_and_no_more(self, house: House) -> None:
        for number in range(MAX_COLLECTIONS):
            await house.create(f"c{number}", "vectors", dimensions=1)
        with pytest.raises(Conflict, match=str(MAX_COLLECTIONS)):
            await house.create("more", "vectors", dimensions=1)
        await house.create("c0", "vectors", dimensions=1)
        await house.create("more", "vectors", dimensions=1, ticket=Admitted("org-2"))

    async def test_what_is_deleted_is_gone_with_its_points(self, house: House) -> None:
        first = await house.create()
        await house.add("one")
        request = CollectionRequest(name="books")
        assert (await house.collections.delete(house.ticket, request)).deleted == "books"
        assert await house.store.places() == []
        for work in (house.collections.delete(house.ticket, request), house.count(), house.search(text="one")):
            assert await code_of(work) == "not_found"
        assert (await house.create()).place != first.place
        assert await house.count() == 0

    async def test_another_worker_that_makes_it_anew_is_noticed(self, house: House) -> None:
        """What is known of a collection is a second old at most, and asked anew when its place is gone."""
        await house.create()
        await house.add("one")
        assert await house.count() == 1
        other = House()
        other.records, other.store, other.words = house.records, house.store, house.words
        other.start()
        await other.collections.delete(house.ticket, CollectionRequest(name="books"))
        await other.create()
        assert await house.count() == 0
        await other.collections.delete(house.ticket, CollectionRequest(name="books"))
        assert await code_of(house.count()) == "not_found"

    async def test_what_only_reads_looks_into_the_register_once_a_second(self, house: House) -> None:
        await house.create()
        asked = 0
        find = house.records.find

        async def counted(organisation: str, name: str) -> Any:
            nonlocal asked
            asked += 1
            return await find(organisation, name)

        house.records.find = counted  # type: ignore[method-assign]
        for _ in range(5):
            await house.count()
        assert asked == 1
        house.clock.advance(KNOWN_FOR_S)
        await house.count()
        assert asked == 2

    async def test_a_store_that_takes_too_long_is_not_waited_for(self, house: House) -> None:
        await house.create()

        async def hang(place: str, only: Any = None) -> int:
            await asyncio.Event().wait()
            return 0

        house.store.count = hang  # type: ignore[method-assign]
        house.ticket.deadline = house.clock.monotonic() + 0.01
        assert await code_of(house.count()) == "deadline_exceeded"

    async def test_places_that_were_left_behind_are_swept(self, house: House) -> None:
        made = await house.create()
        left = made.place[:-8] + "00000000"
        others = ["somebody__elses__12345678", "org-1__books__12345678", "plain"]
        for place in (left, *others):
            await house.store.create(place, dimensions=2, distance="dot")
        assert await house.registry.sweep() == [left]
        assert await house.store.places() == sorted([made.place, *others])


class TestPoints:
    async def test_ids_are_the_callers_own(self, house: House) -> None:
        await house.create("colours", "vectors", dimensions=2)
        uuid = "6F9619FF-8B86-D011-B42D-00C04FC964FF"
        sent = [uuid, "a word", "7", 7, 2**63 - 1]
        answer = await house.put(*({"id": point_id, "vector": [1.0, 2.0]} for point_id in sent))
        assert answer.ids == [uuid.lower(), *sent[1:]]
        assert {one.id for one in await house.everything("colours", limit=2)} == set(answer.ids)
        assert all(one.payload == {} for one in await house.everything("colours"))
        assert await house.delete("colours", ids=[7, uuid.lower(), "not there", 7]) == 2
        assert {one.id for one in await house.everything("colours")} == {"a word", "7", 2**63 - 1}

    async def test_without_an_id_the_same_content_is_one_point(self, house: House) -> None:
        await house.create("colours", "vectors", dimensions=2)
        first = await house.put({"vector": [1.0, 2.0]}, {"vector": [2.0, 1.0]})
        again = await house.put({"vector": [1.0, 2.0], "payload": {"n": 2}})
        assert again.ids == first.ids[:1]
        assert await house.count("colours") == 2
        found = {one.id: one.payload for one in await house.everything("colours")}
        assert found[first.ids[0]] == {"n": 2}
        other: Any = Admitted("org-2")
        await house.create("colours", "vectors", dimensions=2, ticket=other)
        assert (await house.put({"vector": [1.0, 2.0]}, ticket=other)).ids != again.ids

    async def test_of_two_with_one_id_the_last_stands_and_one_is_billed(self, house: House) -> None:
        await house.create("colours", "vectors", dimensions=1)
        await house.put({"id": 1, "vector": [1.0]}, {"id": 1, "vector": [2.0]})
        assert [one.vector.tolist() for one in await house.everything("colours", with_vectors=True)] == [[2.0]]
        assert house.ticket.meter.units == 1

    async def test_vectors_come_back_as_they_were_sent(self, house: House) -> None:
        await house.create("colours", "vectors", dimensions=3)
        await house.put({"id": "v", "vector": [3.0, 4.0, 1e-3], "payload": {"deep": {"list": [1, None, "ü", 1.5]}}})
        (point,) = await house.everything("colours", with_vectors=True)
        assert point.vector.tolist() == np.array([3.0, 4.0, 1e-3], np.float32).tolist()
        assert point.payload == {"deep": {"list": [1, None, "ü", 1.5]}}
        assert (await house.everything("colours"))[0].vector is None

    @pytest.mark.parametrize(
        ("point", "kind"),
        [
            ({"vector": [1.0]}, InvalidRequest),
            ({"vector": [1.0, 2.0, 3.0]}, InvalidRequest),
            ({"vector": []}, InvalidRequest),
            ({"text": "a"}, InvalidRequest),
            ({}, InvalidRequest),
            ({"vector": [1.0, 2.0], "text": "a"}, InvalidRequest),
            ({"vector": [0.0, 0.0]}, UnreadableInput),
            ({"vector": [1e300, 1.0]}, UnreadableInput),
            ({"vector": [1.0, 2.0], "payload": {"_phalanx_id": 1}}, InvalidRequest),
            ({"vector": [1.0, 2.0], "payload": {"n": 2**63}}, InvalidRequest),
            ({"vector": [1.0, 2.0], "payload": {"a": "x" * MAX_PAYLOAD_BYTES}}, TooLarge),
        ],
    )
    async def test_a_bad_point_is_named_and_nothing_is_kept(self, house: House, point: Any, kind: Any) -> None:
        await house.create("colours", "vectors", dimensions=2)
        with pytest.raises(kind, match="point"):
            await house.put({"vector": [1.0, 2.0]}, point)
        assert await house.count("colours") == 0

    async def test_limits_say_both_numbers(self, house: House) -> None:
        await house.create("colours", "vectors", dimensions=1)
        await house.put(*({"vector": [float(n + 1)]} for n in range(1000)))
        with pytest.raises(TooLarge, match=r"1001 points .* 1000"):
            await house.put(*({"vector": [float(n + 1)]} for n in range(1001)))
        with pytest.raises(TooLarge, match=r"1001 ids .* 1000"):
            await house.delete("colours", ids=list(range(1001)))
        await house.create()
        with pytest.raises(TooLarge, match=r"257 points with a text .* 256"):
            await house.add(*map(str, range(257)))
        with pytest.raises(TooLarge, match=r"with its text has \d+ bytes, 65536"):
            await house.add("ü" * (MAX_PAYLOAD_BYTES // 2))
        with pytest.raises(InvalidRequest, match="empty"):
            await house.put()

    async def test_texts_are_kept_with_their_text(self, house: House) -> None:
        await house.create()
        answer = await house.add("red house", "blue house", payload={"shelf": 3})
        assert (answer.ids, answer.usage.tokens) == (["red house", "blue house"], 2)
        assert (house.ticket.meter.units, house.ticket.meter.tokens) == (2, 2)
        found = await house.search(text="red house", limit=1)
        assert (found.matches[0].id, found.matches[0].score) == ("red house", pytest.approx(1.0))
        assert found.matches[0].payload == {"shelf": 3, "text": "red house"}
        assert (found.metric, found.usage.tokens, found.moved) == ("cosine", 3, msgspec.UNSET)
        for bad in ({"text": " "}, {"text": ""}, {"vector": [1.0]}, {"text": "a", "payload": {"text": "b"}}):
            assert await code_of(house.put(bad, name="books")) == "invalid_request"
        assert await house.count() == 2

    async def test_faces_are_enrolled_not_put(self, house: House) -> None:
        record = (await house.records.list("org-1"))[:1]
        assert record == []
        await house.create("people", "vectors", dimensions=2)
        kept = await house.records.find("org-1", "people")
        assert kept is not None
        await house.records.replace(kept, kept._replace(kind="faces"))
        with pytest.raises(Conflict, match="enrol"):
            await house.put({"vector": [1.0, 2.0]}, name="people")
        with pytest.raises(Conflict, match="one of faces; this call is for texts"):
            await house.registry.find(house.ticket, "people", kind="texts", fresh=True)

    async def test_search_by_vector_text_or_point(self, house: House) -> None:
        await house.create("colours", "vectors", dimensions=2, metric="euclidean")
        await house.put(*({"id": n, "vector": [float(n), 0.0], "payload": {"odd": bool(n % 2)}} for n in range(6)))
        assert await house.nearest(name="colours", vector=[0.0, 0.0], limit=3) == [0, 1, 2]
        assert await house.nearest(name="colours", id=0, limit=2) == [1, 2]
        assert await house.nearest(name="colours", id=0, limit=9, filter=where("odd", True)) == [1, 3, 5]
        assert await house.nearest(name="colours", vector=[0.0, 0.0], score_threshold=1.0) == [0, 1]
        found = await house.search("colours", vector=[0.0, 0.0], limit=1, with_vectors=True)
        assert (found.matches[0].vector.tolist(), found.usage) == ([0.0, 0.0], None)
        assert house.ticket.meter.units == 1
        await house.create("unit", "vectors", dimensions=2)
        await house.put({"id": "x", "vector": [1.0, 0.0]}, {"id": "y", "vector": [0.0, 1.0]}, name="unit")
        assert await house.nearest(name="unit", vector=[1.0, 0.0], score_threshold=0.5) == ["x"]

    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            ({}, "invalid_request"),
            ({"vector": [1.0, 2.0], "id": 1}, "invalid_request"),
            ({"text": "a"}, "invalid_request"),
            ({"vector": [1.0]}, "invalid_request"),
            ({"vector": [0.0, 0.0]}, "unreadable_input"),
            ({"id": "nobody"}, "not_found"),
            ({"vector": [1.0, 2.0], "filter": Filter(must=[Condition(key="a")])}, "invalid_request"),
        ],
    )
    async def test_a_search_that_is_none_is_refused(self, house: House, fields: Any, code: str) -> None:
        await house.create("colours", "vectors", dimensions=2)
        assert await code_of(house.search("colours", **fields)) == code

    async def test_delete_and_count_by_filter(self, house: House) -> None:
        await house.create("colours", "vectors", dimensions=1)
        await house.put(*({"id": n, "vector": [1.0], "payload": {"shelf": str(n % 3)}} for n in range(9)))
        counting = CountMatchingRequest(name="colours", filter=where("shelf", "1"))
        assert (await house.points.count_matching(house.ticket, counting)).count == 3
        assert (
            await house.points.count_matching(house.ticket, CountMatchingRequest(name="colours", filter=Filter()))
        ).count == 9
        assert await house.delete("colours", filter=where("shelf", "1")) == 3
        assert await house.count("colours") == 6
        for bad in (
            {},
            {"ids": [1], "filter": where("a", 1)},
            {"filter": Filter()},
            {"filter": Filter(should=[Condition(key="a")])},
        ):
            assert await code_of(house.delete("colours", **bad)) == "invalid_request"
        assert await house.count("colours") == 6

    async def test_an_after_that_was_never_given_out_is_refused(self, house: House) -> None:
        await house.create()
        assert (
            await code_of(house.points.scroll(house.ticket, ScrollPointsRequest(name="books", after="7")))
            == "invalid_request"
        )


class TestMoving:
    async def test_another_version_is_a_mismatch_that_names_the_way_out(self, house: House) -> None:
        await house.create()
        await house.add("one", "two")
        serve(house.models, NEW, dimensions=8)
        for work in (house.add("three"), house.search(text="one"), house.search(vector=[1.0] * 16), house.create()):
            with pytest.raises(
                ContractMismatch, match=r"version old-version, now new-version.*phalanx collections reembed books"
            ):
                await work
        assert await house.nearest(id="one") == ["two"]
        assert (await house.count(), len(await house.everything()), await house.delete(ids=["two"])) == (2, 2, 1)

    async def test_a_model_that_is_gone_is_a_mismatch_too(self, house: House) -> None:
        serve(house.models, "v1", name="special")
        await house.create(model="special")
        house.models = ModelRegistry("words")
        serve(house.models, OLD)
        house.start()
        with pytest.raises(ContractMismatch, match="'special', which this worker does not serve"):
            await house.add("one")
        await house.reembed()
        assert (await house.settled()).contract.model == "words"
        await house.add("one")

    async def test_a_collection_moves_and_keeps_everything(self, house: House) -> None:
        before = await house.create()
        texts = [f"word{n} book" for n in range(200)]
        await house.add(*texts, payload={"shelf": 1})
        serve(house.models, NEW, dimensions=8)
        started = await house.reembed()
        assert (started.state, started.points, started.next_contract.version) == ("moving", 200, NEW)
        done = await house.settled()
        assert (done.state, done.points, done.moved, done.error) == ("settled", 200, 200, "")
        assert (done.contract.version, done.next_contract) == (NEW, None)
        after = await house.collections.get(house.ticket, CollectionRequest(name="books"))
        assert await house.store.places() == [after.place] != [before.place]
        assert {one.id for one in await house.everything()} == set(texts)
        found = await house.search(text=texts[7], limit=1, with_vectors=True)
        assert (found.matches[0].id, found.matches[0].payload) == (texts[7], {"shelf": 1, "text": texts[7]})
        assert len(found.matches[0].vector) == 8
        assert (await house.reembed()).state == "settled"

    async def test_while_it_moves_writes_reach_both_places_and_searches_answer(self, house: House) -> None:
        """The old model serves no more: what has arrived is searched, and how much that is is said."""
        await house.create()
        texts = [f"word{n} book" for n in range(150)]
        await house.add(*texts)
        serve(house.models, NEW)
        started, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            if len(house.words.embedded) >= 150 + 64 and not started.is_set():
                started.set()
                house.words.before = None
                await go_on.wait()

        house.words.before = wait
        await house.reembed()
        await started.wait()
        found = await house.search(text="anything")
        assert found.moved == pytest.approx(64 / 150, abs=0.01)
        await house.add("a new text", payload={"n": 1})
        ids = sorted(texts)
        gone, changed = ids[0], [ids[5], ids[-5]]
        assert await house.delete(ids=[gone]) == 1
        await house.put(*({"id": one, "text": "something else entirely"} for one in changed), name="books")
        assert await house.delete(filter=where("text", ids[-1])) == 1
        assert await house.nearest(text="a new text", limit=1) == ["a new text"]
        assert await house.nearest(id="a new text", limit=3) != []
        shown = {one.id: one for one in await house.everything(with_vectors=True)}
        assert shown["a new text"].vector is None
        assert shown["a new text"].payload == {"n": 1, "text": "a new text"}
        go_on.set()
        await house.settled()
        found_now = {one.id: one.payload["text"] for one in await house.everything(with_vectors=True)}
        expected = {one: one for one in ids if one not in (gone, ids[-1])} | dict.fromkeys(
            changed, "something else entirely"
        )
        assert found_now == expected | {"a new text": "a new text"}
        for point in await house.everything(with_vectors=True):
            (vector,) = await house.words.vectors(
                house.ticket, house.models.text(None), [point.payload["text"]], prompt=None
            )
            assert np.allclose(point.vector, vector, atol=1e-6)

    async def test_while_the_old_model_serves_too_searches_are_whole(self, house: House) -> None:
        await house.create()
        await house.add(*(f"word{n}" for n in range(130)))
        serve(house.models, "v1", name="other", dimensions=4)
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            if len(house.words.embedded) >= 130 + 64 and not reached.is_set():
                reached.set()
                await go_on.wait()

        house.words.before = wait
        await house.reembed(model="other")
        await reached.wait()
        found = await house.search(text="word129", limit=1)
        assert ([one.id for one in found.matches], found.moved) == (["word129"], msgspec.UNSET)
        await house.add("late")
        assert await house.nearest(text="late", limit=1) == ["late"]
        go_on.set()
        assert (await house.settled()).contract.model == "other"
        assert await house.nearest(text="late", limit=1) == ["late"]
        assert await house.count() == 131

    async def test_of_versions_that_serve_at_once_one_may_be_named(self, house: House) -> None:
        """The old one keeps most callers until the collection has moved; nobody meets a conflict."""
        await house.create()
        await house.add("one", "another")
        served = [house.models.text(None)]
        serve(house.models, NEW)
        served.append(house.models.text(None))
        house.models.serve("words", [Share(served[0], 99.0), Share(served[1], 1.0)])
        assert (await house.reembed()).state == "settled"
        await house.reembed(version=NEW)
        assert await house.nearest(text="one", limit=1) == ["one"]
        assert (await house.settled()).contract.version == NEW
        await house.add("two")
        assert await house.nearest(text="two", limit=1) == ["two"]
        assert await code_of(house.reembed(version="nothing")) == "unavailable"

    async def test_a_write_that_began_before_the_move_is_not_lost(self, house: House) -> None:
        """It holds the record of before: it must notice that the collection moves, or has moved, before it is answered."""
        await house.create()
        await house.add("one")
        serve(house.models, "v1", name="other")
        upsert = house.store.upsert
        late = asyncio.Event()

        async def slow(place: str, points: Sequence[Point]) -> None:
            house.store.upsert = upsert  # type: ignore[method-assign]
            late.set()
            await house.reembed(model="other")
            await house.settled()
            await upsert(place, points)

        house.store.upsert = slow  # type: ignore[method-assign]
        await house.add("two")
        assert late.is_set()
        assert (await house.status()).contract.model == "other"
        assert {one.id for one in await house.everything()} == {"one", "two"}
        assert await house.nearest(text="two", limit=1) == ["two"]

    async def test_what_was_stopped_goes_on_where_it_was(self, house: House) -> None:
        await house.create()
        await house.add(*(f"word{n}" for n in range(200)))
        serve(house.models, NEW)
        reached = asyncio.Event()

        async def die() -> None:
            if len(house.words.embedded) >= 200 + 128:
                reached.set()
                await asyncio.Event().wait()

        house.words.before = die
        await house.reembed()
        await reached.wait()
        await house.moves.close()
        house.words.before = None
        house.start()
        halted = await house.status()
        assert (halted.state, halted.moved, halted.points) == ("halted", 128, 200)
        assert [record.name async for record in house.registry.moving()] == ["books"]
        # A delete that was killed between the places.
        record = await house.records.find("org-1", "books")
        assert record is not None
        (victim,) = [p.id for p in await house.store.scroll(record.next_place, limit=1)]
        await house.store.delete(record.place, [victim])
        await house.reembed()
        done = await house.settled()
        assert (done.state, done.points) == ("settled", 199)
        assert len(house.words.embedded) == 200 + 200

    async def test_what_is_overloaded_is_asked_again(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("phalanx.services.collections.reembedding.PATIENCE_S", (0.0,))
        await house.create()
        await house.add("one")
        serve(house.models, NEW)
        refused = 0

        async def refuse() -> None:
            nonlocal refused
            refused += 1
            if refused < 4:
                raise Overloaded("full")

        house.words.before = refuse
        await house.reembed()
        assert (await house.settled()).contract.version == NEW
        assert refused == 4

    async def test_a_move_that_fails_says_why_and_may_be_begun_anew(self, house: House) -> None:
        await house.create()
        await house.add("one")
        serve(house.models, NEW)

        async def fail() -> None:
            raise RuntimeError("broken")

        house.words.before = fail
        await house.reembed()
        halted = await house.settled()
        assert (halted.state, halted.moved) == ("halted", 0)
        assert "log" in halted.error
        house.words.before = None
        await house.reembed()
        assert (await house.settled()).error == ""

    async def test_another_model_half_way_starts_a_place_of_its_own(self, house: House) -> None:
        await house.create()
        await house.add(*(f"word{n}" for n in range(100)))
        serve(house.models, NEW)
        reached = asyncio.Event()

        async def hang() -> None:
            reached.set()
            await asyncio.Event().wait()

        house.words.before = hang
        await house.reembed()
        await reached.wait()
        house.words.before = None
        await house.add("written meanwhile")
        serve(house.models, OLD)
        await house.reembed(model="words")
        done = await house.settled()
        assert (done.contract.version, done.points) == (OLD, 101)
        assert len(await house.store.places()) == 1
        assert await house.nearest(text="written meanwhile", limit=1) == ["written meanwhile"]

    async def test_a_collection_may_be_deleted_while_it_moves(self, house: House) -> None:
        await house.create()
        await house.add(*(f"word{n}" for n in range(100)))
        serve(house.models, NEW)
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def hang() -> None:
            reached.set()
            await go_on.wait()

        house.words.before = hang
        await house.reembed()
        await reached.wait()
        await house.collections.delete(house.ticket, CollectionRequest(name="books"))
        go_on.set()
        for _ in range(50):
            await asyncio.sleep(0)
        assert await house.store.places() == []
        assert await code_of(house.status()) == "not_found"

    async def test_only_texts_move(self, house: House) -> None:
        await house.create("books", "vectors", dimensions=2)
        with pytest.raises(Conflict, match="the caller's own"):
            await house.reembed()
        await house.collections.delete(house.ticket, CollectionRequest(name="books"))
        await house.create("books")
        for fields in ({"images": "coming"}, {"detector": "yunet"}):
            with pytest.raises(InvalidRequest, match="goes with a collection of faces"):
                await house.reembed(**fields)

    async def test_two_that_write_one_point_while_it_moves_leave_both_places_alike(self, house: House) -> None:
        """Whatever comes first where: the next place says in the end what the old one says."""
        await house.create()
        await house.add("seed")
        serve(house.models, "v1", name="other")
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def hang() -> None:
            if not reached.is_set():
                reached.set()
                await go_on.wait()
            for _ in range(int(np.random.default_rng(len(house.words.embedded)).integers(0, 8))):
                await asyncio.sleep(0)

        house.words.before = hang
        await house.reembed(model="other")
        await reached.wait()
        record = await house.records.find("org-1", "books")
        assert record is not None
        writes = [house.put({"id": n % 3, "text": f"text {n}"}, name="books") for n in range(30)]
        await asyncio.gather(*writes, house.delete(ids=[0]))
        old = {p.id: p.payload for p in await house.store.scroll(record.place, limit=100)}
        new = {p.id: p.payload for p in await house.store.scroll(record.next_place, limit=100)}
        seed = set(old) - set(new)
        assert len(seed) <= 1
        assert {key: value for key, value in old.items() if key not in seed} == new
        go_on.set()
        await house.settled()


async def test_no_collection_is_not_found(house: House) -> None:
    with pytest.raises(NotFound, match="'books'"):
        await house.add("one")
