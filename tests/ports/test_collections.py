"""What every `CollectionStore` does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from phalanx.errors import Unavailable
from phalanx.ports import CollectionRecord, CollectionStore
from phalanx.stores.memory.collections import MemoryCollectionStore
from phalanx.stores.sql.collections import SqlCollectionStore
from phalanx.stores.sql.database import open_database

pytestmark = pytest.mark.anyio


def make_record(name: str = "books", organisation: str = "org-1", **changes: str) -> CollectionRecord:
    fields = {"kind": "texts", "place": f"{organisation}__{name}__1", "contract": '{"kind":"texts","model":"Ümläut"}'}
    return CollectionRecord(organisation, name, created_at=1_790_000_000.123456, **{**fields, **changes})


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def records(request: pytest.FixtureRequest) -> AsyncIterator[CollectionStore]:
    """An empty register, on every adapter."""
    if request.param == "memory":
        yield MemoryCollectionStore()
        return
    database = open_database(request.getfixturevalue("database_url" if request.param == "sqlite" else "postgres_url"))
    yield SqlCollectionStore(database)
    await database.close()


async def test_a_record_comes_back_as_it_was_kept(records: CollectionStore) -> None:
    record = make_record(next_place="elsewhere", next_contract="{}")
    assert await records.create(record) == record
    assert await records.find("org-1", "books") == record
    assert await records.find("org-2", "books") is None
    assert await records.find("org-1", "book") is None


async def test_the_first_of_a_name_stays(records: CollectionStore) -> None:
    first, second = make_record(), make_record(place="other", kind="vectors")
    await records.create(first)
    assert await records.create(second) == first
    assert await records.find("org-1", "books") == first


async def test_organisations_have_names_of_their_own(records: CollectionStore) -> None:
    one, other = make_record(), make_record(organisation="org-2")
    assert [await records.create(one), await records.create(other)] == [one, other]
    assert await records.delete("org-1", "books") == one
    assert await records.find("org-2", "books") == other


async def test_lists_are_in_order_of_bytes_and_paged(records: CollectionStore) -> None:
    """An underscore sorts behind digits and before letters, a hyphen before both, in whatever language."""
    names = ["0", "a", "a-b", "a0", "a_b", "ab", "b"]
    for name in reversed(names):
        await records.create(make_record(name))
    await records.create(make_record("a", organisation="org-0"))
    assert [record.name for record in await records.list("org-1")] == sorted(names)
    assert [record.name for record in await records.list("org-1", after="a-b", limit=2)] == ["a0", "a_b"]
    assert await records.list("org-1", after="b") == []
    everything = await records.list_all()
    assert [(one.organisation, one.name) for one in everything] == [
        ("org-0", "a"),
        *(("org-1", name) for name in sorted(names)),
    ]
    assert await records.list_all(after=("org-0", "a"), limit=3) == everything[1:4]


async def test_a_record_is_replaced_only_as_it_is_known(records: CollectionStore) -> None:
    known = await records.create(make_record())
    moving = known._replace(next_place="place-2", next_contract="{}")
    assert await records.replace(known, moving)
    assert not await records.replace(known, known._replace(place="place-3"))
    assert await records.find("org-1", "books") == moving
    moved = moving._replace(place="place-2", contract="{}", next_place="", next_contract="")
    assert await records.replace(moving, moved)
    assert await records.find("org-1", "books") == moved
    assert not await records.replace(make_record("nothing"), make_record("nothing"))
    assert await records.find("org-1", "nothing") is None


async def test_of_many_that_replace_one_wins(records: CollectionStore) -> None:
    known = await records.create(make_record())
    tries = [known._replace(place=f"place-{n}") for n in range(5)]
    won = await asyncio.gather(*(records.replace(known, new) for new in tries))
    assert won.count(True) == 1
    assert await records.find("org-1", "books") == tries[won.index(True)]


async def test_of_many_that_create_all_see_one(records: CollectionStore) -> None:
    kept = await asyncio.gather(*(records.create(make_record(place=f"place-{n}")) for n in range(5)))
    assert len(set(kept)) == 1


async def test_what_is_deleted_is_gone(records: CollectionStore) -> None:
    record = await records.create(make_record())
    assert await records.delete("org-1", "books") == record
    assert await records.delete("org-1", "books") is None
    assert await records.find("org-1", "books") is None


async def test_a_database_that_is_closed_is_unavailable(database_url: str) -> None:
    database = open_database(database_url)
    await database.close()
    with pytest.raises(Unavailable):
        await SqlCollectionStore(database).find("org-1", "books")
