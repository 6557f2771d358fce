"""What every `KeyStore` does."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable

import pytest

from phalanx.contract.keys import ALL_SCOPES, KeyRecord
from phalanx.errors import Conflict, Unavailable
from phalanx.ports import KeyStore
from phalanx.stores.memory.keys import MemoryKeyStore
from phalanx.stores.sql.database import open_database
from phalanx.stores.sql.keys import SqlKeyStore
from phalanx.stores.sql.sqlite import sqlite_path

pytestmark = pytest.mark.anyio
MakeKey = Callable[..., KeyRecord]


@pytest.fixture(params=["memory", "sql"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[KeyStore]:
    if request.param == "memory":
        yield MemoryKeyStore()
        return
    database = open_database(request.getfixturevalue("database_url"))
    yield SqlKeyStore(database)
    await database.close()


async def test_a_key_comes_back_as_it_was_added(store: KeyStore, make_key: MakeKey) -> None:
    record = make_key(
        name="Ümlaut ' \" ; 漢字 😀",
        scopes=ALL_SCOPES,
        tier="scale",
        created_at=1_790_000_000.123456,
        expires_at=1_800_000_000.5,
    )
    await store.add(record)
    assert await store.find(record.digest) == record


async def test_an_unknown_digest_is_none(store: KeyStore, make_key: MakeKey) -> None:
    await store.add(make_key(1))
    assert await store.find("f" * 64) is None


@pytest.mark.parametrize("clash", [{"id": "key-1"}, {"digest": f"{1:064x}"}])
async def test_the_same_id_or_digest_again_is_a_conflict_that_changes_nothing(
    store: KeyStore, make_key: MakeKey, clash: dict[str, str]
) -> None:
    first = make_key(1)
    await store.add(first)
    with pytest.raises(Conflict) as refused:
        await store.add(make_key(2, **clash))
    assert first.digest not in refused.value.detail
    assert await store.list() == [first]


async def test_of_many_adds_of_one_key_at_once_one_wins(store: KeyStore, make_key: MakeKey) -> None:
    attempts = [store.add(make_key(1, name=f"try {n}")) for n in range(20)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 19
    assert len(await store.list()) == 1


async def test_keys_are_listed_oldest_first_and_by_organisation(store: KeyStore, make_key: MakeKey) -> None:
    new, old, other = (
        make_key(1, created_at=30.0),
        make_key(2, created_at=10.0),
        make_key(3, created_at=20.0, organisation="b"),
    )
    for record in (new, old, other):
        await store.add(record)
    assert await store.list() == [old, other, new]
    assert await store.list(organisation="b") == [other]
    assert await store.list(organisation="nobody") == []


async def test_a_revoked_key_is_found_with_the_time_of_its_end(store: KeyStore, make_key: MakeKey) -> None:
    await store.add(make_key(1))
    await store.add(make_key(2))
    ended = await store.revoke("key-1", at=2_000.5)
    assert ended == make_key(1, revoked_at=2_000.5)
    assert await store.find(f"{1:064x}") == ended
    assert await store.find(f"{2:064x}") == make_key(2)


async def test_revoking_twice_keeps_the_first_time(store: KeyStore, make_key: MakeKey) -> None:
    await store.add(make_key(1))
    await store.revoke("key-1", at=2_000.0)
    again = await store.revoke("key-1", at=3_000.0)
    assert again is not None
    assert again.revoked_at == 2_000.0


async def test_revoking_at_once_from_many_sides_agrees_on_one_time(store: KeyStore, make_key: MakeKey) -> None:
    await store.add(make_key(1))
    answers = await asyncio.gather(*(store.revoke("key-1", at=2_000.0 + n) for n in range(20)))
    times = {record.revoked_at for record in answers if record is not None}
    found = await store.find(f"{1:064x}")
    assert found is not None
    assert times == {found.revoked_at}


async def test_revoking_an_unknown_key_is_none(store: KeyStore) -> None:
    assert await store.revoke("nobody", at=1.0) is None


async def test_a_store_that_is_up_answers_a_ping(store: KeyStore) -> None:
    await store.ping()


async def test_keys_outlive_the_connection(database_url: str, make_key: MakeKey) -> None:
    first = open_database(database_url)
    await SqlKeyStore(first).add(make_key(1))
    await SqlKeyStore(first).revoke("key-1", at=9.0)
    await first.close()
    second = open_database(database_url)
    assert await SqlKeyStore(second).list() == [make_key(1, revoked_at=9.0)]
    await second.close()


async def _expect_unavailable(store: KeyStore, record: KeyRecord) -> None:
    calls = [store.find("d"), store.add(record), store.list(), store.revoke("key-1", at=1.0), store.ping()]
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, Unavailable), outcome
        assert "/" not in outcome.detail


async def test_a_closed_database_is_unavailable(database_url: str, make_key: MakeKey) -> None:
    database = open_database(database_url)
    store = SqlKeyStore(database)
    await store.ping()
    await database.close()
    await _expect_unavailable(store, make_key())


@pytest.mark.parametrize("breakage", ["directory", "garbage", "no tables", "gone"])
async def test_a_broken_database_is_unavailable(database_url: str, make_key: MakeKey, breakage: str) -> None:
    path = sqlite_path(database_url)
    path.unlink()
    if breakage == "directory":
        path.mkdir()
    elif breakage == "garbage":
        path.write_bytes(b"this is no database, but it is as long as a header of one would be" * 100)
    elif breakage == "no tables":
        sqlite3.connect(path).close()
        path.touch()
    database = open_database(database_url)
    await _expect_unavailable(SqlKeyStore(database), make_key())
    await database.close()


async def test_a_database_that_another_one_holds_is_unavailable_for_writing_only(
    database_url: str, make_key: MakeKey
) -> None:
    database = open_database(database_url, busy_timeout_s=0.05)
    store = SqlKeyStore(database)
    await store.add(make_key(1))
    other = sqlite3.connect(sqlite_path(database_url), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked"):
        await store.add(make_key(2))
    assert await store.find(f"{1:064x}") == make_key(1)
    other.execute("ROLLBACK")
    other.close()
    await store.add(make_key(2))
    assert len(await store.list()) == 2
    await database.close()
