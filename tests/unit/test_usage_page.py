"""docs/usage.md names every billed operation with its unit, and every error that a call can end with after admission."""

from __future__ import annotations

import re
from pathlib import Path

from phalanx.operations import OPERATIONS

PAGE = (Path(__file__).parents[2] / "docs" / "usage.md").read_text()


def test_the_table_of_units_is_that_of_the_operations() -> None:
    told = dict(re.findall(r"^\| `([a-z_.]+)` \| (\w+) \|", PAGE, flags=re.MULTILINE))
    assert told == {row.name: row.unit for row in OPERATIONS if row.metered}


def test_what_is_not_billed_has_no_unit_but_the_request() -> None:
    assert {row.unit for row in OPERATIONS if not row.metered} == {"request"}
