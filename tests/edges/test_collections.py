"""Collections over HTTP: whole lives, other organisations, bad input."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from phalanx.contract.points import MAX_PAYLOAD_BYTES

ROOT = "/v1/collections"
NUMBERS = itertools.count()


class Shelf:
    """One organisation's view of a worker."""

    def __init__(self, worker: Any, organisation: str) -> None:
        self.worker = worker
        self.organisation = organisation
        self.key = worker.key(email=organisation)

    def ask(self, method: str, path: str, body: Any = None, **rest: Any) -> Any:
        return self.worker.request(method, f"{ROOT}{path}", json_body=body, key=self.key, **rest)

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.ask(method, path, body)
        assert answer.status == 200, answer.body
        return answer.json


@pytest.fixture
def shelf(worker: Any) -> Shelf:
    """A caller whose organisation has no collection yet."""
    return Shelf(worker, f"shelf{next(NUMBERS)}@example.org")


@pytest.fixture
def colours(shelf: Shelf) -> Shelf:
    """A caller with a collection of three dimensions."""
    shelf.ok("PUT", "/colours", {"kind": "vectors", "dimensions": 3, "metric": "euclidean"})
    return shelf


def test_texts_live_and_go(shelf: Shelf) -> None:
    made = shelf.ok("PUT", "/books", {"kind": "texts"})
    assert made["contract"]["kind"] == "texts"
    assert made["contract"]["model"] == "all-MiniLM-L6-v2"
    assert (made["contract"]["dimensions"], made["contract"]["metric"], made["contract"]["max_tokens"]) == (
        384,
        "cosine",
        256,
    )
    assert shelf.ok("PUT", "/books", {"kind": "texts"}) == made
    books = [
        "A whale and the captain who hunts it",
        "Bread, flour, yeast and how to bake",
        "Stars, planets and gravity",
    ]
    points = [{"id": n, "text": text, "payload": {"shelf": n % 2}} for n, text in enumerate(books)]
    upserted = shelf.ok("POST", "/books/points", {"points": points})
    assert upserted["ids"] == [0, 1, 2]
    assert upserted["usage"]["tokens"] > 20
    found = shelf.ok("POST", "/books/search", {"text": "cooking at home", "limit": 2})
    assert found["matches"][0]["id"] == 1
    assert found["matches"][0]["payload"] == {"shelf": 1, "text": books[1]}
    assert found["matches"][0]["score"] > found["matches"][1]["score"] > -1
    near = shelf.ok("POST", "/books/search", {"id": 0, "limit": 5, "with_vectors": True})
    assert {match["id"] for match in near["matches"]} == {1, 2}
    assert len(near["matches"][0]["vector"]) == 384
    only = {
        "must": [{"key": "shelf", "match": {"value": 0}}],
        "must_not": [{"key": "text", "match": {"value": books[0]}}],
    }
    assert [m["id"] for m in shelf.ok("POST", "/books/search", {"text": "x", "filter": only})["matches"]] == [2]
    assert shelf.ok("POST", "/books/count", {"filter": only}) == {"count": 1}
    assert shelf.ok("GET", "/books/count") == {"count": 3}
    page = shelf.ok("GET", "/books/points?limit=2&with_vectors=true")
    rest = shelf.ok("GET", f"/books/points?limit=2&after={page['next']}")
    assert sorted(point["id"] for point in page["points"] + rest["points"]) == [0, 1, 2]
    assert len(page["points"][0]["vector"]) == 384
    assert "vector" not in rest["points"][0]
    assert "next" not in rest
    assert "next" not in shelf.ok("GET", "/books/points?limit=3")
    assert shelf.ok("POST", "/books/points/delete", {"ids": [0, 9]}) == {"deleted": 1}
    assert shelf.ok("POST", "/books/points/delete", {"filter": only}) == {"deleted": 1}
    assert shelf.ok("GET", "/books/reembed")["state"] == "settled"
    assert [one["name"] for one in shelf.ok("GET", "")["collections"]] == ["books"]
    assert shelf.ok("DELETE", "/books") == {"deleted": "books"}
    assert shelf.ask("GET", "/books").status == 404


def test_what_texts_cost_is_metered(shelf: Shelf) -> None:
    """Vectors are the unit; tokens are recorded beside. What is about collections themselves costs nothing."""
    shelf.ok("PUT", "/books", {"kind": "texts"})
    before = shelf.worker.totals(shelf.organisation)
    tokens = shelf.ok("POST", "/books/points", {"points": [{"text": "one two"}, {"text": "three"}]})["usage"]["tokens"]
    shelf.ok("POST", "/books/search", {"text": "one two"})
    shelf.ok("GET", "/books/count")
    after = shelf.worker.totals(shelf.organisation)
    assert (after.requests - before.requests, after.billed - before.billed) == (3, 3)
    assert after.units - before.units == 2 + 1
    assert after.tokens - before.tokens == tokens + 4


def test_an_organisation_has_its_own(worker: Any, colours: Shelf) -> None:
    other = Shelf(worker, f"other{next(NUMBERS)}@example.org")
    other.key = worker.key(email=other.organisation, scopes=("vectors",))
    colours.ok("POST", "/colours/points", {"points": [{"id": "red", "vector": [1, 0, 0]}]})
    assert other.ok("GET", "") == {"collections": []}
    calls: list[tuple[str, str, Any]] = [
        ("GET", "/colours", None), ("DELETE", "/colours", None), ("GET", "/colours/points", None),
        ("GET", "/colours/count", None), ("POST", "/colours/search", {"id": "red"}), ("GET", "/colours/reembed", None),
        ("POST", "/colours/points", {"points": [{"vector": [1, 2, 3]}]}), ("POST", "/colours/points/delete", {"ids": ["red"]}),
    ]  # fmt: skip
    for method, path, body in calls:
        assert other.ask(method, path, body).status == 404
        named = other.ask(method, f"{path}?organisation={colours.organisation}", body)
        assert (named.status, named.json["code"]) == (403, "forbidden")
    assert colours.ok("GET", "/colours/count") == {"count": 1}
    staff = Shelf(worker, "staff@example.org")
    assert staff.ok("GET", f"/colours/count?organisation={colours.organisation}") == {"count": 1}


@pytest.mark.parametrize("name", ["Colours", "-a", "a.b", "%C3%A4", "a" * 64, "a%0A", "a%2Fb", "..", "a%20b"])
def test_a_name_that_is_none_is_refused(shelf: Shelf, name: str) -> None:
    answer = shelf.ask("PUT", f"/{name}", {"kind": "vectors", "dimensions": 3})
    assert answer.status in (400, 404, 405), answer.body
    assert shelf.ok("GET", "") == {"collections": []}


@pytest.mark.parametrize(
    "body",
    [
        {}, {"kind": "cats"}, {"kind": "vectors"}, {"kind": "vectors", "dimensions": 0}, {"kind": "vectors", "dimensions": 4097},
        {"kind": "vectors", "dimensions": 1.5}, {"kind": "vectors", "dimensions": 2, "metric": "manhattan"},
        {"kind": "texts", "dimensions": 2}, {"kind": "vectors", "dimensions": 2, "model": "x"}, {"kind": "texts", "model": ""},
    ],
)  # fmt: skip
def test_a_collection_that_cannot_be_is_refused(shelf: Shelf, body: Any) -> None:
    answer = shelf.ask("PUT", "/colours", body)
    assert (answer.status, answer.json["code"]) == (400, "invalid_request"), answer.body
    assert shelf.ok("GET", "") == {"collections": []}


def test_the_same_name_with_another_contract_is_a_conflict(colours: Shelf) -> None:
    for body in ({"kind": "vectors", "dimensions": 4}, {"kind": "vectors", "dimensions": 3}, {"kind": "texts"}):
        answer = colours.ask("PUT", "/colours", body)
        assert (answer.status, answer.json["code"]) == (409, "conflict")


@pytest.mark.parametrize(
    ("point", "status"),
    [
        ('{"vector": [1, 2]}', 400),
        ('{"vector": [1, 2, 3, 4]}', 400),
        ('{"vector": []}', 400),
        ('{"vector": [1, 2, "three"]}', 400),
        ('{"vector": [1, 2, NaN]}', 400),
        ('{"vector": [1, 2, 1e999]}', 400),
        ('{"vector": [1, 2, 1e300]}', 422),
        ('{"vector": [1, 2, null]}', 400),
        ('{"vector": [1, 2, 3], "text": "a"}', 400),
        ('{"text": "a"}', 400),
        ("{}", 400),
        ('{"vector": [1, 2, 3], "colour": 1}', 400),
        ('{"vector": [1, 2, 3], "id": ""}', 400),
        ('{"vector": [1, 2, 3], "id": -1}', 400),
        ('{"vector": [1, 2, 3], "id": 9223372036854775808}', 400),
        ('{"vector": [1, 2, 3], "id": 1.5}', 400),
        ('{"vector": [1, 2, 3], "id": true}', 400),
        ('{"vector": [1, 2, 3], "id": "%s"}' % ("x" * 257), 400),
        ('{"vector": [1, 2, 3], "payload": null}', 400),
        ('{"vector": [1, 2, 3], "payload": []}', 400),
        ('{"vector": [1, 2, 3], "payload": {"_phalanx_id": 1}}', 400),
        ('{"vector": [1, 2, 3], "payload": {"n": 18446744073709551616}}', 400),
        ('{"vector": [1, 2, 3], "payload": {"s": "\\ud800"}}', 400),
        (f'{{"vector": [1, 2, 3], "payload": {{"deep": {"[" * 40}1{"]" * 40}}}}}', 400),
        (f'{{"vector": [1, 2, 3], "payload": {{"deep": {"[" * 9000}1{"]" * 9000}}}}}', 400),
        ('{"vector": [1, 2, 3], "payload": {"a": "%s"}}' % ("x" * MAX_PAYLOAD_BYTES), 413),
    ],
)  # fmt: skip
def test_a_bad_point_keeps_the_others_out(colours: Shelf, point: str, status: int) -> None:
    body = f'{{"points": [{{"id": "good", "vector": [1, 2, 3]}}, {point}]}}'.encode()
    answer = colours.worker.request("POST", f"{ROOT}/colours/points", body=body, key=colours.key)
    assert answer.status == status, answer.body
    assert answer.json["detail"]
    assert colours.ok("GET", "/colours/count") == {"count": 0}


def test_too_many_points_say_both_numbers(colours: Shelf) -> None:
    answer = colours.ask("POST", "/colours/points", {"points": [{"vector": [1, 2, 3]}] * 1001})
    assert (answer.status, answer.json["code"]) == (413, "too_large")
    assert "1001" in answer.json["detail"]
    assert "1000" in answer.json["detail"]


def test_what_a_payload_may_hold_comes_back(colours: Shelf) -> None:
    payload = {
        "null": None, "yes": True, "least": -(2**63), "most": 2**63 - 1, "small": 1e-300, "text": "ü 漢字 😀 \u0000 \"quoted\"", "": "no name",
        "a.b": 1, "list": [1, [2, [3]], {"four": [5.5]}], "object": {"deep": {"er": "x" * 1000}}, "empty": {}, "none": [],
    }  # fmt: skip
    colours.ok("POST", "/colours/points", {"points": [{"id": "ü/ñ ?#", "vector": [1, 2, 3], "payload": payload}]})
    (point,) = colours.ok("GET", "/colours/points")["points"]
    assert point == {"id": "ü/ñ ?#", "payload": payload}


@pytest.mark.parametrize(
    "body",
    [
        {}, {"vector": [1, 2, 3], "id": "a"}, {"vector": [1, 2]}, {"text": "a"}, {"vector": [1, 2, 3], "limit": 0},
        {"vector": [1, 2, 3], "limit": 1001}, {"vector": [1, 2, 3], "filter": {"must": [{"key": "a"}]}},
        {"vector": [1, 2, 3], "filter": {"must": [{"key": "", "match": {"value": 1}}]}},
        {"vector": [1, 2, 3], "filter": {"must": [{"key": "a", "match": {"value": 1}, "range": {"gt": 1}}]}},
        {"vector": [1, 2, 3], "filter": {"must": [{"key": "a", "match": {"value": 1, "any": [1]}}]}},
        {"vector": [1, 2, 3], "filter": {"must": [{"key": "a", "range": {}}]}},
        {"vector": [1, 2, 3], "filter": {"must": [{"key": "a", "match": {"value": 1}}] * 65}},
        {"vector": [1, 2, 3], "filter": {"all": []}}, {"vector": [1, 2, 3], "score_threshold": "near"},
    ],
)  # fmt: skip
def test_a_search_that_is_none_is_refused(colours: Shelf, body: Any) -> None:
    answer = colours.ask("POST", "/colours/search", body)
    assert (answer.status, answer.json["code"]) == (400, "invalid_request"), answer.body


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "after=x", "with_vectors=2", "colour=red", "limit=1&limit=2"]
)
def test_a_page_that_is_none_is_refused(colours: Shelf, query: str) -> None:
    assert colours.ask("GET", f"/colours/points?{query}").status == 400


def test_a_body_names_no_other_collection(colours: Shelf) -> None:
    """The path's name may be repeated; another one is a contradiction."""
    search = {"vector": [1, 2, 3], "name": "colours"}
    assert colours.ask("POST", "/colours/search", search).status == 200
    refused = colours.ask("POST", "/colours/search", {**search, "name": "shapes"})
    assert (refused.status, refused.json["param"]) == (400, "name")
    assert colours.ask("GET", "/colours/count?name=shapes").status == 400


def test_a_point_that_is_not_there_is_not_found(colours: Shelf) -> None:
    assert colours.ask("POST", "/colours/search", {"id": "nobody"}).status == 404
    assert colours.ok("POST", "/colours/points/delete", {"ids": ["nobody"]}) == {"deleted": 0}
    bodies: list[dict[str, Any]] = [{}, {"ids": [], "filter": {}}, {"filter": {}}]
    for body in bodies:
        assert colours.ask("POST", "/colours/points/delete", body).status == 400


def test_vectors_are_not_reembedded(colours: Shelf) -> None:
    answer = colours.ask("POST", "/colours/reembed", {})
    assert (answer.status, answer.json["code"]) == (409, "conflict")


def test_an_idempotency_key_answers_once_more_the_same(colours: Shelf) -> None:
    body = {"points": [{"id": "a", "vector": [1, 2, 3]}]}
    first = colours.ask("POST", "/colours/points", body, headers={"idempotency-key": "k"})
    again = colours.ask("POST", "/colours/points", body, headers={"idempotency-key": "k"})
    assert (first.status, json.loads(again.body)) == (200, first.json)


def test_a_body_is_read_strictly_beside_a_path_and_a_query_that_are_text(colours: Shelf) -> None:
    colours.ok("POST", "/colours/points", {"points": [{"id": "red", "vector": [1, 0, 0]}]})
    assert len(colours.ok("POST", "/colours/search?limit=1", {"vector": [1, 0, 0]})["matches"]) == 1
    for path, body in (("/colours/search", {"vector": [1, 0, 0], "limit": "1"}), ("/colours/search?limit=x", {"vector": [1, 0, 0]})):  # fmt: skip
        answer = colours.ask("POST", path, body)
        assert (answer.status, answer.json["code"]) == (400, "invalid_request")
        assert "limit" in answer.json["detail"]
