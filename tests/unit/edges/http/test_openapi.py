"""What the document says of credentials and limits."""

from __future__ import annotations

from typing import Any

import pytest

from phalanx.edges.http.app import DIALECTS
from phalanx.edges.http.openapi import Document, openapi
from phalanx.operations import Operation, table

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
