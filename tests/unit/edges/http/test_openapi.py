"""What the document says of credentials and limits."""

from __future__ import annotations

import dataclasses
import re
from html import escape
from typing import Any

import msgspec
import pytest

from phalanx.edges.http.app import DIALECTS
from phalanx.edges.http.openapi import Document, openapi
from phalanx.edges.http.reference import reference_page
from phalanx.operations import Body, Operation, table

ROWS = table()


@pytest.fixture(scope="module")
def document() -> Document:
    return openapi(ROWS, DIALECTS, title="Phalanx")


def entry(document: Document, row: Operation) -> Any:
    found = [e for methods in document["paths"].values() for e in methods.values() if e["operationId"] == row.name]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_a_row_says_whether_it_needs_a_credential(document: Document, row: Operation) -> None:
    """Open rows need none; for the others the document's own rule holds: either scheme."""
    assert entry(document, row).get("security") == ([] if row.scope == "open" else None)
    assert document["security"] == [{"bearer": []}, {"key": []}]
    assert set(document["components"]["securitySchemes"]) == {"bearer", "key"}


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_a_row_says_how_it_refuses(document: Document, row: Operation) -> None:
    """No credential, not this one, too often; with the headers that tell what to do."""
    responses = entry(document, row)["responses"]
    assert {"401", "403", "429", "503"} <= set(responses)
    assert set(responses["429"]["headers"]) == {"Retry-After", "RateLimit-Policy", "RateLimit"}
    named = {ref["$ref"].rsplit("/", 1)[1] for r in responses.values() for ref in r.get("headers", {}).values()}
    assert named <= set(document["components"]["headers"])


def test_rows_from_outside_may_have_structs_of_our_names() -> None:
    """Both are then told apart by their modules, and each row refers to its own."""
    theirs = msgspec.defstruct("EmbedRequest", [("colour", str)], module="elsewhere")
    row = dataclasses.replace(
        ROWS["text.embed"],
        name="elsewhere.embed",
        http="GET /v1/elsewhere/{colour}",
        request=theirs,
        bodies=(Body.NONE,),
    )
    document = openapi({**ROWS, row.name: row}, DIALECTS, title="Phalanx")
    (parameter,) = document["paths"]["/v1/elsewhere/{colour}"]["get"]["parameters"]
    assert (parameter["name"], parameter["in"]) == ("colour", "path")
    content = document["paths"]["/v1/text/embed"]["post"]["requestBody"]["content"]
    name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
    assert "texts" in document["components"]["schemas"][name]["properties"]


def test_what_goes_with_two_matrices_is_in_the_query(document: Document) -> None:
    """A binary body has room for no other field."""
    parameters = entry(document, ROWS["vectors.similarity"])["parameters"]
    (metric,) = [one for one in parameters if one["in"] == "query"]
    assert (metric["name"], "required" in metric) == ("metric", False)
    assert set(metric["schema"]["enum"]) == {"cosine", "dot", "euclidean"}


def test_the_reference_page_shows_every_operation(document: Document) -> None:
    """Also those that are answered by another status than 200."""
    page = reference_page(document).decode()
    for row in ROWS.values():
        assert f'<span class="dim">{escape(row.summary)}</span></summary><div id="{row.name}">' in page


def test_the_reference_page_explains_every_type(document: Document) -> None:
    """What is linked is there, once; what requests and answers are for is said, without marks of the source."""
    page = reference_page(document).decode()
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    linked = set(re.findall(r'href="#([^"]+)"', page))
    assert linked <= set(ids)
    assert {"type-FoundFace", "type-Landmarks", "faces.detect", "errors"} <= {*linked, *ids}
    assert "The name of a detector that the operator added, such as a YuNet," in re.sub(r"\s+", " ", page)
    assert "&#x27;$ref" not in page
    assert "-F images=@one.jpg" in page
    assert "/faces?person_id=PERSON_ID" in page


def test_fields_of_the_path_are_not_asked_for_in_the_body(document: Document) -> None:
    """Nor shown there by examples; the parameter has the example's value."""
    upsert = entry(document, ROWS["collections.upsert"])
    assert next(one["example"] for one in upsert["parameters"] if one["name"] == "name") == "colours"
    content = upsert["requestBody"]["content"]["application/json"]
    body = document["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
    assert "name" not in body["properties"]
    assert body["required"] == ["points"]
    assert all("name" not in example["value"] for example in content["examples"].values())
    for row in ROWS.values():
        assert entry(document, row)["description"]
    for component in document["components"]["schemas"].values():
        assert "\n    " not in component.get("description", "")


def test_parameters_have_their_defaults(document: Document) -> None:
    parameters = entry(document, ROWS["faces.persons"])["parameters"]
    assert next(one["schema"]["default"] for one in parameters if one["name"] == "limit") == 1000
