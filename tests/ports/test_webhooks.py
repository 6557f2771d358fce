"""What every `Outbox` does."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from phalanx.errors import Unavailable
from phalanx.ports.webhooks import Notice, Outbox
from phalanx.stores.redis.client import open_redis
from phalanx.stores.redis.webhooks import RedisOutbox
from phalanx.stores.sql.database import open_database
from phalanx.stores.sql.webhooks import SqlOutbox
from servers import RedisServer

pytestmark = pytest.mark.anyio
NOW, ROOM = 1_790_000_000.5, 5


def notice(n: int = 1, failures: int = 0) -> Notice:
    return Notice(f"job-{n}", f"https://example.org/{n}", b'{"n":"\xc3\xbc"}', failures)


@pytest.fixture(params=["sqlite", "postgres", "redis"])
async def outbox(request: pytest.FixtureRequest) -> AsyncIterator[Outbox]:
    """An empty one, on every adapter, with room for five."""
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        redis = open_redis(server.url, reply_timeout_s=10.0)
        yield RedisOutbox(redis, max_notices=ROOM)
        await redis.aclose()
        return
    database = open_database(request.getfixturevalue("database_url" if request.param == "sqlite" else "postgres_url"))
    yield SqlOutbox(database, max_notices=ROOM)
    await database.close()


async def test_a_notice_is_claimed_when_it_is_due_and_by_one_only(outbox: Outbox) -> None:
    assert await outbox.put(notice(), due_at=NOW) == "new"
    assert await outbox.claim(9, now=NOW - 1, lease_s=10.0) == []
    assert list(await outbox.claim(9, now=NOW, lease_s=10.0)) == [notice()]
    assert await outbox.claim(9, now=NOW + 9, lease_s=10.0) == []


async def test_a_notice_whose_sender_died_is_claimed_again(outbox: Outbox) -> None:
    await outbox.put(notice(), due_at=NOW)
    await outbox.claim(9, now=NOW, lease_s=10.0)
    assert list(await outbox.claim(9, now=NOW + 10, lease_s=10.0)) == [notice()]


async def test_the_first_of_an_id_stays(outbox: Outbox) -> None:
    assert await outbox.put(notice(), due_at=NOW) == "new"
    assert await outbox.put(notice()._replace(body=b"{}"), due_at=NOW - 5) == "known"
    assert list(await outbox.claim(9, now=NOW, lease_s=10.0)) == [notice()]


async def test_a_notice_that_failed_comes_again_and_says_how_often(outbox: Outbox) -> None:
    await outbox.put(notice(), due_at=NOW)
    (claimed,) = await outbox.claim(9, now=NOW, lease_s=10.0)
    await outbox.put_back(claimed._replace(failures=1), due_at=NOW + 60)
    assert await outbox.claim(9, now=NOW + 59, lease_s=10.0) == []
    assert list(await outbox.claim(9, now=NOW + 60, lease_s=10.0)) == [notice(failures=1)]


async def test_a_notice_that_is_removed_is_gone(outbox: Outbox) -> None:
    await outbox.put(notice(), due_at=NOW)
    await outbox.claim(9, now=NOW, lease_s=10.0)
    await outbox.remove("job-1")
    await outbox.put_back(notice(failures=1), due_at=NOW)
    assert await outbox.claim(9, now=NOW + 100, lease_s=10.0) == []
    await outbox.remove("job-1")
    assert await outbox.put(notice(), due_at=NOW) == "new"


async def test_the_longest_due_come_first_and_no_more_than_asked_for(outbox: Outbox) -> None:
    for n in (3, 1, 2):
        await outbox.put(notice(n), due_at=NOW + n)
    assert [one.id for one in await outbox.claim(2, now=NOW + 9, lease_s=10.0)] == ["job-1", "job-2"]
    assert [one.id for one in await outbox.claim(2, now=NOW + 9, lease_s=10.0)] == ["job-3"]


async def test_beyond_its_room_it_takes_no_more(outbox: Outbox) -> None:
    put = [await outbox.put(notice(n), due_at=NOW) for n in range(ROOM + 2)]
    assert put == ["new"] * ROOM + ["full"] * 2
    assert await outbox.put(notice(0), due_at=NOW) == "known"
    await outbox.remove("job-0")
    assert await outbox.put(notice(ROOM), due_at=NOW) == "new"


async def test_without_redis_nothing_is_kept() -> None:
    redis = open_redis("redis://127.0.0.1:1/0")
    outbox = RedisOutbox(redis, max_notices=ROOM)
    for work in (
        outbox.put(notice(), due_at=NOW),
        outbox.claim(1, now=NOW, lease_s=1.0),
        outbox.put_back(notice(), due_at=NOW),
        outbox.remove("job-1"),
    ):
        with pytest.raises(Unavailable):
            await work
    await redis.aclose()
