"""What every `KeyStore` does."""

from __future__ import annotations

import asyncio

import pytest

from callers import Callers, in_database, make_key, make_organisation
from phalanx.contract.keys import ALL_SCOPES
from phalanx.errors import Conflict, InvalidRequest
from phalanx.ports import KeyStore
from phalanx.stores.sql.database import Database, open_database

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(callers: Callers) -> KeyStore:
    return callers.keys


async def test_a_key_comes_back_as_it_was_added(store: KeyStore) -> None:
    record = make_key(
        name="Ümlaut ' \" ; 漢字 😀",
        scopes=ALL_SCOPES,
        tier="scale",
        created_at=1_790_000_000.123456,
        expires_at=1_800_000_000.5,
    )
    await store.add(record)
    assert await store.find(record.digest) == record


async def test_an_unknown_digest_is_none(store: KeyStore) -> None:
    await store.add(make_key(1))
    assert await store.find("f" * 64) is None


@pytest.mark.parametrize("clash", [{"id": "key-1"}, {"digest": f"{1:064x}"}])
async def test_the_same_id_or_digest_again_is_a_conflict_that_changes_nothing(
    store: KeyStore, clash: dict[str, str]
) -> None:
    first = make_key(1)
    await store.add(first)
    with pytest.raises(Conflict) as refused:
        await store.add(make_key(2, **clash))
    assert first.digest not in refused.value.detail
    assert await store.list() == [first]


async def test_of_many_adds_of_one_key_at_once_one_wins(store: KeyStore) -> None:
    attempts = [store.add(make_key(1, name=f"try {n}")) for n in range(20)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(result is None for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 19
    assert len(await store.list()) == 1


async def test_keys_are_listed_oldest_first_and_by_organisation(store: KeyStore) -> None:
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


async def test_a_revoked_key_is_found_with_the_time_of_its_end(store: KeyStore) -> None:
    await store.add(make_key(1))
    await store.add(make_key(2))
    ended = await store.revoke("key-1", at=2_000.5)
    assert ended == make_key(1, revoked_at=2_000.5)
    assert await store.find(f"{1:064x}") == ended
    assert await store.find(f"{2:064x}") == make_key(2)


async def test_revoking_twice_keeps_the_first_time(store: KeyStore) -> None:
    await store.add(make_key(1))
    await store.revoke("key-1", at=2_000.0)
    again = await store.revoke("key-1", at=3_000.0)
    assert again is not None
    assert again.revoked_at == 2_000.0


async def test_revoking_at_once_from_many_sides_agrees_on_one_time(store: KeyStore) -> None:
    await store.add(make_key(1))
    answers = await asyncio.gather(*(store.revoke("key-1", at=2_000.0 + n) for n in range(20)))
    times = {record.revoked_at for record in answers if record is not None}
    found = await store.find(f"{1:064x}")
    assert found is not None
    assert times == {found.revoked_at}


async def test_revoking_an_unknown_key_is_none(store: KeyStore) -> None:
    assert await store.revoke("nobody", at=1.0) is None


async def test_a_key_is_found_by_its_id(store: KeyStore) -> None:
    await store.add(make_key(1))
    await store.add(make_key(2))
    assert await store.get("key-2") == make_key(2)
    assert await store.get("nobody") is None


@pytest.mark.parametrize("text", ["nul \x00 inside", "half \ud800 of a pair"])
async def test_a_text_that_cannot_be_stored_is_refused_as_such(database: Database, text: str) -> None:
    """SQLite keeps a NUL; what is refused is refused as the caller's mistake, not as the database's."""
    store = in_database(database).keys
    try:
        await store.add(make_key(1, name=text))
    except InvalidRequest:
        assert await store.get("key-1") is None
    else:
        assert await store.get("key-1") == make_key(1, name=text)


async def test_a_key_brings_its_organisation_along(callers: Callers) -> None:
    await callers.keys.add(make_key(1, tier="pro"))
    await callers.keys.add(make_key(2, tier="free"))
    made = make_organisation(id="ann@example.org", name="ann@example.org", tier="pro", created_at=1_001.25)
    assert await callers.organisations.list() == [made]
    assert await callers.organisations.members("ann@example.org") == []


async def test_an_organisation_that_is_there_stays_as_it_is(callers: Callers) -> None:
    await callers.organisations.add(make_organisation(1, tier="scale"))
    await callers.keys.add(make_key(1, organisation="org-1"))
    assert await callers.organisations.list() == [make_organisation(1, tier="scale")]


async def test_a_key_that_is_refused_brings_no_organisation(callers: Callers) -> None:
    await callers.keys.add(make_key(1))
    with pytest.raises(Conflict):
        await callers.keys.add(make_key(1, organisation="other"))
    assert await callers.organisations.get("other") is None


async def test_revoking_is_told_once(callers: Callers) -> None:
    await callers.keys.add(make_key(1))
    assert await callers.news(0) == []
    await callers.keys.revoke("key-1", at=2_000.0)
    await callers.keys.revoke("key-1", at=3_000.0)
    await callers.keys.revoke("nobody", at=3_000.0)
    assert await callers.news(0) == [f"key:{1:064x}"]


@pytest.mark.parametrize(("ends", "then"), [(None, 5_000.0), (4_000.0, 4_000.0), (6_000.0, 5_000.0)])
async def test_a_rotated_key_ends_by_then_at_the_latest(callers: Callers, ends: float | None, then: float) -> None:
    await callers.keys.add(make_key(1, expires_at=ends))
    replacement = make_key(2, organisation="org-2")
    old = await callers.keys.rotate("key-1", replacement, expires_at=5_000.0)
    assert old == make_key(1, expires_at=then) == await callers.keys.get("key-1")
    assert await callers.keys.find(f"{2:064x}") == replacement
    assert await callers.organisations.get("org-2") is not None
    assert await callers.news(0) == [f"key:{1:064x}"]


async def test_an_unknown_or_revoked_key_is_not_rotated(callers: Callers) -> None:
    await callers.keys.add(make_key(1))
    await callers.keys.revoke("key-1", at=2_000.0)
    version = await callers.changes.version()
    assert await callers.keys.rotate("key-1", make_key(2), expires_at=5_000.0) is None
    assert await callers.keys.rotate("nobody", make_key(2), expires_at=5_000.0) is None
    assert await callers.keys.list() == [make_key(1, revoked_at=2_000.0)]
    assert await callers.news(version) == []


async def test_a_rotation_to_a_key_that_is_there_changes_nothing(callers: Callers) -> None:
    await callers.keys.add(make_key(1))
    await callers.keys.add(make_key(2))
    with pytest.raises(Conflict):
        await callers.keys.rotate("key-1", make_key(3, digest=f"{2:064x}"), expires_at=5_000.0)
    assert await callers.keys.list() == [make_key(1), make_key(2)]
    assert await callers.news(0) == []


async def test_a_key_rotated_from_many_sides_has_all_its_successors(store: KeyStore) -> None:
    await store.add(make_key(1))
    old = await asyncio.gather(*(store.rotate("key-1", make_key(n), expires_at=5_000.0 + n) for n in range(2, 12)))
    assert all(record is not None for record in old)
    assert len(await store.list()) == 11
    assert await store.get("key-1") == make_key(1, expires_at=5_002.0)


async def test_last_use_goes_forward_only(callers: Callers) -> None:
    for n in (1, 2, 3):
        await callers.keys.add(make_key(n))
    await callers.keys.touch({"key-2": 50.5, "key-1": 60.0, "nobody": 70.0})
    await callers.keys.touch({"key-2": 40.0, "key-1": 61.0})
    await callers.keys.touch({})
    assert [key.last_used_at for key in await callers.keys.list()] == [61.0, 50.5, None]
    assert await callers.news(0) == []


async def test_uses_noted_at_once_in_any_order_leave_the_latest(callers: Callers) -> None:
    """Rows locked in different orders would have PostgreSQL end one of the transactions."""
    names = [f"key-{n}" for n in range(1, 61)]
    for n in range(1, 61):
        await callers.keys.add(make_key(n, organisation="org"))
    orders = [names if at % 2 else names[::-1] for at in range(10)]
    tiers = [callers.organisations.update("org", tier=tier) for tier in ("pro", "scale", "free", "pro")]
    touches = [callers.keys.touch(dict.fromkeys(order, float(at))) for at, order in enumerate(orders)]
    await asyncio.gather(*touches, *tiers)
    assert {key.last_used_at for key in await callers.keys.list()} == {9.0}


async def test_more_uses_than_one_transaction_takes(database: Database) -> None:
    store = in_database(database).keys
    await store.add(make_key(1))
    await store.touch({**{f"nobody-{n}": 7.0 for n in range(2_500)}, "key-1": 8.0})
    found = await store.get("key-1")
    assert found is not None
    assert found.last_used_at == 8.0


async def test_a_store_that_is_up_answers_a_ping(store: KeyStore) -> None:
    await store.ping()


async def test_keys_outlive_the_connection(sql_url: str) -> None:
    first = open_database(sql_url)
    await in_database(first).keys.add(make_key(1))
    await in_database(first).keys.revoke("key-1", at=9.0)
    await first.close()
    second = open_database(sql_url)
    assert await in_database(second).keys.list() == [make_key(1, revoked_at=9.0)]
    await second.close()


async def test_a_list_of_keys_comes_in_pages(store: KeyStore) -> None:
    """Two of the same age among them; what was made meanwhile moves no page; nothing comes after what is not there."""
    for n, created_at in ((1, 10.0), (2, 20.5), (3, 20.5), (4, 30.0)):
        await store.add(make_key(n, created_at=created_at))
    await store.add(make_key(9, created_at=20.0, organisation="b"))
    every = await store.list()
    assert await store.list(limit=2) == every[:2]
    await store.add(make_key(0, created_at=1.0))
    for place, record in enumerate(every, 1):
        assert await store.list(after=record.id, limit=2) == every[place : place + 2]
    own = await store.list(organisation=every[0].organisation, after=every[0].id)
    assert own == [record for record in every[1:] if record.organisation == every[0].organisation]
    assert await store.list(after="none-such") == []
