"""Every row knows the service that it is part of."""

from __future__ import annotations

import pytest

from phalanx.contract.services import ALL_SERVICES
from phalanx.edges.http.app import DIALECTS, spoken
from phalanx.operations import OPERATIONS, Operation

OF_SERVICES = [row for row in OPERATIONS if row.scope in ("text", "faces", "images", "vectors")]


@pytest.mark.parametrize("row", OF_SERVICES, ids=[row.name for row in OF_SERVICES])
def test_a_row_of_a_services_scope_is_part_of_a_service(row: Operation) -> None:
    assert row.service in ALL_SERVICES


def test_rows_about_keys_and_the_worker_are_everywhere() -> None:
    assert {row.service for row in OPERATIONS if row.scope not in ("text", "faces", "images", "vectors")} == {None}


def test_every_service_has_rows() -> None:
    assert {row.service for row in OF_SERVICES} == set(ALL_SERVICES)


def test_a_dialect_speaks_only_of_rows_that_are_there() -> None:
    whole = {row.name: row for row in OPERATIONS}
    assert spoken(whole) == DIALECTS
    routes = {route.path for dialect in spoken({"faces.detect": whole["faces.detect"]}) for route in dialect.routes}
    assert routes == {"/api/detect-face"}
    assert not [route for dialect in spoken({}) for route in dialect.routes]
