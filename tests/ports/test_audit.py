"""What every `AuditLog` does."""

from __future__ import annotations

from typing import Any

import pytest

from callers import Callers, make_entry
from phalanx.contract.audit import AuditEntry
from phalanx.errors import Conflict

pytestmark = pytest.mark.anyio


async def page(callers: Callers, **wanted: Any) -> list[AuditEntry]:
    return await callers.audit.list(**{"organisation": None, "action": None, "before": None, "limit": 100, **wanted})


async def test_an_entry_comes_back_as_it_was_added(callers: Callers) -> None:
    odd = make_entry(1, subject="Ümlaut ' \" ; 漢字 😀", email="", address="", at=1_790_000_000.123456)
    await callers.audit.append(odd)
    assert await page(callers) == [odd]


async def test_an_entry_is_never_changed(callers: Callers) -> None:
    await callers.audit.append(make_entry(1))
    with pytest.raises(Conflict):
        await callers.audit.append(make_entry(1, status="forbidden"))
    assert await page(callers) == [make_entry(1)]


async def test_entries_are_newest_first_in_pages(callers: Callers) -> None:
    for n in (3, 1, 5, 2, 4):
        await callers.audit.append(make_entry(n))
    first = await page(callers, limit=2)
    assert first == [make_entry(5), make_entry(4)]
    assert await page(callers, limit=2, before=first[-1].id) == [make_entry(3), make_entry(2)]
    assert await page(callers, before=make_entry(2).id) == [make_entry(1)]
    assert await page(callers, before=make_entry(1).id) == []


async def test_entries_are_chosen_by_organisation_and_action(callers: Callers) -> None:
    entries = [make_entry(1), make_entry(2, organisation="org-2"), make_entry(3, action="users.update"), make_entry(4)]
    for one in entries:
        await callers.audit.append(one)
    assert await page(callers, organisation="org-1", limit=2) == [entries[3], entries[2]]
    assert await page(callers, action="users.update") == [entries[2]]
    assert await page(callers, organisation="org-1", action="keys.revoke", before=make_entry(4).id) == [entries[0]]
    assert await page(callers, organisation="") == []
