"""What every `JobQueue` does, and what an `OwnJobs` does beyond."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from phalanx.errors import Conflict, Unavailable
from phalanx.ports.jobs import JobQueue, NewJob
from phalanx.settings import Secret
from phalanx.settings.queues import QueueSpec
from phalanx.stores.redis.jobs import BullJobs
from phalanx.stores.sql.database import Database, open_database
from phalanx.stores.sql.jobs import SqlJobs
from servers import RedisServer

pytestmark = pytest.mark.anyio
NOW = 1_790_000_000.5
PATIENCE_S = 60.0


def make_job(n: int = 1, **changes: Any) -> NewJob:
    fields = {
        "id": f"job-{n}", "organisation": "org-1", "operation": "text.embed", "request": b'{"texts":["\\u00fc"]}',
        "token": "signed", "queue": "jobs", "made_at": NOW + n,
    }  # fmt: skip
    return NewJob(**{**fields, **changes})


@pytest.fixture(params=["sqlite", "postgres", "bullmq"])
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[JobQueue]:
    """An empty queue, on every adapter."""
    if request.param == "bullmq":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        jobs = BullJobs(Secret(server.url), (QueueSpec("jobs"), QueueSpec("other", "app")))
        yield jobs
        await jobs.close()
        return
    database = open_database(request.getfixturevalue("database_url" if request.param == "sqlite" else "postgres_url"))
    yield SqlJobs(database)
    await database.close()


async def test_a_job_comes_back_as_it_was_queued(queue: JobQueue) -> None:
    assert await queue.add(make_job())
    found = await queue.find("org-1", "job-1")
    assert found is not None
    assert (found.id, found.organisation, found.operation, found.queue) == ("job-1", "org-1", "text.embed", "jobs")
    assert (found.state, found.failures, found.started_at, found.ended_at) == ("waiting", 0, None, None)
    assert json.loads(found.request) == {"texts": ["ü"]}
    assert found.made_at == NOW + 1
    assert (found.result, found.reason) == (b"", "")


async def test_the_first_of_an_id_stays(queue: JobQueue) -> None:
    assert await queue.add(make_job())
    assert not await queue.add(make_job(operation="faces.detect"))
    found = await queue.find("org-1", "job-1")
    assert found is not None
    assert found.operation == "text.embed"
    assert len(await queue.list("org-1")) == 1


async def test_organisations_do_not_see_each_other(queue: JobQueue) -> None:
    await queue.add(make_job())
    assert await queue.find("org-2", "job-1") is None
    assert await queue.list("org-2") == []
    assert await queue.remove("org-2", "job-1") is None
    assert await queue.find("org-1", "job-1") is not None


async def test_lists_are_newest_first_and_paged(queue: JobQueue) -> None:
    for n in (3, 1, 5, 2, 4):
        await queue.add(make_job(n))
    assert [one.id for one in await queue.list("org-1")] == [f"job-{n}" for n in (5, 4, 3, 2, 1)]
    first = await queue.list("org-1", limit=2)
    assert [one.id for one in first] == ["job-5", "job-4"]
    assert [one.id for one in await queue.list("org-1", after="job-4", limit=2)] == ["job-3", "job-2"]
    assert await queue.list("org-1", after="job-1") == []
    assert await queue.list("org-1", after="none") == []


async def test_a_job_that_is_removed_is_gone(queue: JobQueue) -> None:
    await queue.add(make_job())
    removed = await queue.remove("org-1", "job-1")
    assert removed is not None
    assert removed.state == "waiting"
    assert await queue.find("org-1", "job-1") is None
    assert await queue.list("org-1") == []
    assert await queue.remove("org-1", "job-1") is None
    assert await queue.add(make_job())


async def test_a_job_may_wait(queue: JobQueue) -> None:
    await queue.add(make_job(delay_s=3600.0))
    found = await queue.find("org-1", "job-1")
    assert found is not None
    assert found.state == "delayed"


async def test_who_watches_a_job_is_told_of_its_end(queue: JobQueue) -> None:
    await queue.add(make_job())
    await queue.add(make_job(2))
    jobs = [await queue.find("org-1", name) for name in ("job-1", "job-2")]
    assert jobs[0] is not None
    assert jobs[1] is not None
    with queue.watch(jobs[0]) as changed, queue.watch(jobs[1]):
        if isinstance(queue, BullJobs):
            # Told once it listens, whatever there is.
            async with asyncio.timeout(PATIENCE_S):
                await changed.wait()
        changed.clear()
        await queue.remove("org-1", "job-1")
        async with asyncio.timeout(PATIENCE_S):
            await changed.wait()
        assert await queue.find("org-1", "job-1") is None
    with queue.watch(jobs[0]) as changed:
        assert not changed.is_set()


async def test_who_watches_is_told_again_once_redis_is_back(redis_server: RedisServer) -> None:
    redis_server.flush()
    jobs = BullJobs(Secret(redis_server.url), (QueueSpec("jobs"),))
    await jobs.add(make_job())
    job = await jobs.find("org-1", "job-1")
    assert job is not None
    with jobs.watch(job) as changed:
        for restarts in (False, True):
            if restarts:
                redis_server.kill()
                redis_server.start()
            changed.clear()
            async with asyncio.timeout(PATIENCE_S):
                await changed.wait()
    await jobs.close()


async def test_without_redis_nothing_is_queued(redis_server: RedisServer) -> None:
    jobs = BullJobs(Secret("redis://127.0.0.1:1/0"), (QueueSpec("jobs"),))
    for work in (jobs.add(make_job()), jobs.find("org-1", "job-1"), jobs.list("org-1"), jobs.remove("org-1", "job-1")):
        with pytest.raises(Unavailable):
            await work
    await jobs.close()


async def test_what_others_have_damaged_is_listed_all_the_same(redis_server: RedisServer) -> None:
    redis_server.flush()
    jobs = BullJobs(Secret(redis_server.url), (QueueSpec("jobs"),))
    damage: list[tuple[str, bytes | None]] = [
        ("data", b"{"), ("data", b'"\xff"'), ("timestamp", b"soon"), ("atm", b"nan"), ("processedOn", b"x"),
        *((name, None) for name in ("name", "data", "timestamp")),
    ]  # fmt: skip
    client = Redis.from_url(redis_server.url)
    try:
        for number, (field, value) in enumerate(damage):
            await jobs.add(make_job(number))
            key = f"bull:jobs:job-{number}"
            await (client.hdel(key, field) if value is None else client.hset(key, field, value))
        found = {one.id: one for one in await jobs.list("org-1")}
        assert len(found) == len(damage)
        assert [found[f"job-{number}"].made_at for number in (0, 2, 7)] == [NOW, 0.0, 0.0]
        assert (found["job-0"].request, found["job-3"].failures, found["job-5"].operation) == (b"{}", 0, "")
    finally:
        await client.aclose()
        await jobs.close()


@pytest.fixture
def own(database: Database) -> SqlJobs:
    return SqlJobs(database)


async def test_the_queue_says_when_there_will_be_work(own: SqlJobs) -> None:
    woken: list[None] = []
    assert await own.next_due() is None
    with own.call_when_due(lambda: woken.append(None)):
        await own.add(make_job(1, delay_s=60.0))
        await own.add(make_job(2))
    await own.add(make_job(3))
    assert len(woken) == 2
    assert await own.next_due() == NOW + 2
    await own.claim(2, now=NOW + 10, lease_s=5.0)
    assert await own.next_due() == NOW + 15
    await own.complete("job-2", b"{}", at=NOW + 11)
    await own.complete("job-3", b"{}", at=NOW + 11)
    assert await own.next_due() == NOW + 61


async def test_each_step_of_a_job_is_told_to_who_watches(own: SqlJobs) -> None:
    await own.add(make_job())
    job = await own.find("org-1", "job-1")
    assert job is not None
    with own.watch(job) as changed, own.watch(job) as another:
        await own.claim(1, now=NOW + 10, lease_s=5.0)
        for step in (
            own.note_progress("job-1", b"{}"),
            own.put_back("job-1", due_at=NOW),
            own.complete("job-1", b"", at=NOW),
        ):
            assert changed.is_set()
            assert another.is_set()
            changed.clear()
            another.clear()
            await step
        assert changed.is_set()


async def test_each_job_is_claimed_once_by_priority(own: SqlJobs) -> None:
    for n, priority in ((1, 2), (2, 0), (3, 1)):
        await own.add(make_job(n, priority=priority))
    claimed = [*await own.claim(2, now=NOW + 10, lease_s=5.0), *await own.claim(9, now=NOW + 10, lease_s=5.0)]
    assert [one.id for one in claimed] == ["job-2", "job-3", "job-1"]
    assert json.loads(claimed[0].data) == {"texts": ["ü"], "_caller": "signed"}
    assert {(one.stalled, one.failures, one.deaths, one.billed_at) for one in claimed} == {(0, 0, 0, NOW + 10)}
    with pytest.raises(Conflict):
        await own.remove("org-1", "job-1")


async def test_a_job_is_not_claimed_before_it_is_due(own: SqlJobs) -> None:
    await own.add(make_job(delay_s=60.0))
    assert await own.claim(1, now=NOW + 60, lease_s=5.0) == []
    assert len(await own.claim(1, now=NOW + 62, lease_s=5.0)) == 1


async def test_a_job_whose_worker_is_silent_is_claimed_again(own: SqlJobs) -> None:
    await own.add(make_job())
    await own.claim(1, now=NOW + 10, lease_s=5.0)
    await own.renew(["job-1"], until=NOW + 30)
    assert await own.claim(1, now=NOW + 29, lease_s=5.0) == []
    await own.note_alone("job-1")
    (again,) = await own.claim(1, now=NOW + 30, lease_s=5.0)
    assert (again.stalled, again.deaths, again.billed_at) == (1, 1, NOW + 10)
    await own.put_back("job-1", due_at=NOW + 31, reason='{"code":"overloaded","detail":"full"}', failed=True)
    (third,) = await own.claim(1, now=NOW + 31, lease_s=5.0)
    assert (third.stalled, third.deaths, third.failures) == (1, 0, 1)


async def test_how_far_a_job_has_come_is_kept_while_it_runs(own: SqlJobs) -> None:
    await own.add(make_job())
    await own.note_progress("job-1", b'{"fraction":0.1}')
    waiting = await own.find("org-1", "job-1")
    assert waiting is not None
    assert waiting.progress == b""
    await own.claim(1, now=NOW + 10, lease_s=5.0)
    await own.note_progress("job-1", b'{"fraction":0.5}')
    await own.complete("job-1", b"{}", at=NOW + 11)
    await own.note_progress("job-1", b'{"fraction":0.9}')
    done = await own.find("org-1", "job-1")
    assert done is not None
    assert done.progress == b'{"fraction":0.5}'
    assert [one.progress for one in await own.list("org-1")] == [b'{"fraction":0.5}']


async def test_what_became_of_a_job_is_kept_for_a_while(own: SqlJobs) -> None:
    for n in (1, 2):
        await own.add(make_job(n))
    await own.claim(2, now=NOW + 10, lease_s=5.0)
    await own.complete("job-1", b'{"embeddings":[]}', at=NOW + 11)
    await own.fail("job-2", '{"code":"not_found","detail":"x"}', at=NOW + 12)
    done, failed = await own.find("org-1", "job-1"), await own.find("org-1", "job-2")
    assert done is not None
    assert failed is not None
    assert (done.state, done.result, done.started_at, done.ended_at) == (
        "completed",
        b'{"embeddings":[]}',
        NOW + 10,
        NOW + 11,
    )
    assert (failed.state, failed.failures, json.loads(failed.reason)["code"]) == ("failed", 1, "not_found")
    assert await own.claim(2, now=NOW + 1000, lease_s=5.0) == []
    assert await own.expire(before=NOW + 11.5) == 1
    assert await own.find("org-1", "job-1") is None
