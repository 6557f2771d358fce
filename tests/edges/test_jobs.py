"""The API of jobs, without Redis: queued, run, followed, cancelled; and who may."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

import phalanx.edges.queue.own as own
import phalanx.services.jobs.service as services
from edges.conftest import Worker
from phalanx.app import own_worker
from phalanx.cli.worker import call_here
from phalanx.contract.jobs import JobRequest
from phalanx.contract.keys import ListKeysRequest, RevokeKeyRequest
from phalanx.operations import call
from phalanx.ports.jobs import JobRecord
from phalanx.services.ticket import Call, Credential
from phalanx.settings import Secret

REQUEST = {"operation": "text.embed", "request": {"texts": ["Hello world"]}}


@pytest.fixture(scope="module")
def idle(start_worker: Callable[..., Worker]) -> Worker:
    """A worker that queues jobs; they run while `Running` says so."""
    return start_worker()


class Running:
    """Runs the jobs of a worker for as long as it takes until one has ended."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def until_ended(self, job_id: str, organisation: str) -> JobRecord:
        jobs = self.worker.app.stores.own_jobs
        assert jobs is not None

        async def ended() -> JobRecord:
            while True:
                found = await jobs.find(organisation, job_id)
                if found is not None and found.state in ("completed", "failed"):
                    return found
                await asyncio.sleep(0.02)

        async def run() -> JobRecord:
            working = asyncio.create_task(own_worker(self.worker.app, jobs).run())
            try:
                return await asyncio.wait_for(ended(), 30)
            finally:
                working.cancel()
                await asyncio.gather(working, return_exceptions=True)

        return self.worker.run(run())


@pytest.fixture
def running(idle: Worker) -> Running:
    return Running(idle)


def queue(worker: Worker, key: str, **changes: Any) -> str:
    answer = worker.post("/v1/jobs", {**REQUEST, **changes}, key=key)
    assert answer.status == 202, answer.body
    assert list(answer.json) == ["id"]
    return str(answer.json["id"])


def test_a_job_is_run_as_who_queued_it_and_billed_once(idle: Worker, running: Running) -> None:
    key = idle.key(email="queued@example.org")
    job_id = queue(idle, key)
    waiting = idle.get(f"/v1/jobs/{job_id}", key=key).json
    assert (waiting["state"], waiting["operation"], waiting["result"], waiting["error"]) == (
        "waiting",
        "text.embed",
        None,
        None,
    )
    before = idle.totals("queued@example.org")
    running.until_ended(job_id, "queued@example.org")
    done = idle.get(f"/v1/jobs/{job_id}", key=key).json
    direct = idle.post("/v1/text/embed", REQUEST["request"], key=idle.key(email="direct@example.org")).json
    assert done["state"] == "completed"
    assert done["result"]["embeddings"] == direct["embeddings"]
    assert done["ended_at"] >= done["started_at"] >= done["created_at"]
    after = idle.totals("queued@example.org")
    assert after.billed - before.billed == 1


def test_who_is_revoked_meanwhile_does_not_run(idle: Worker, running: Running) -> None:
    key = idle.key(email="late@example.org")
    job_id = queue(idle, key)
    listed = idle.run(
        call_here(idle.app, idle.app.operations["keys.list"], ListKeysRequest(organisation="late@example.org"))
    )
    idle.run(call_here(idle.app, idle.app.operations["keys.revoke"], RevokeKeyRequest(id=listed.keys[0].id)))
    failed = running.until_ended(job_id, "late@example.org")
    assert json.loads(failed.reason)["code"] == "unauthenticated"


def test_others_see_nothing_of_a_job(idle: Worker) -> None:
    key, other = idle.key(email="mine@example.org"), idle.key(email="other@example.org")
    job_id = queue(idle, key)
    assert [one["id"] for one in idle.get("/v1/jobs", key=key).json["jobs"]] == [job_id]
    assert idle.get("/v1/jobs", key=other).json == {"jobs": [], "next": ""}
    for method, path in (("GET", ""), ("GET", "/events"), ("DELETE", "")):
        assert idle.request(method, f"/v1/jobs/{job_id}{path}", key=other).status == 404
    assert idle.request("DELETE", f"/v1/jobs/{job_id}", key=key).json["state"] == "waiting"
    assert idle.get(f"/v1/jobs/{job_id}", key=key).status == 404


def test_a_list_comes_in_pages(idle: Worker) -> None:
    key = idle.key(email="pages@example.org")
    made = [queue(idle, key) for _ in range(5)]
    seen, after = [], ""
    while True:
        page = idle.get(f"/v1/jobs?limit=2{after}", key=key).json
        seen += [one["id"] for one in page["jobs"]]
        if not page["next"]:
            break
        after = f"&after={page['next']}"
    assert seen == made[::-1]
    assert idle.get("/v1/jobs?limit=5", key=key).json["next"] == ""


def test_events_follow_a_job_to_its_end(idle: Worker, running: Running) -> None:
    key = idle.key(email="events@example.org")
    job_id = queue(idle, key)
    running.until_ended(job_id, "events@example.org")
    answer = idle.get(f"/v1/jobs/{job_id}/events", key=key)
    assert answer.headers["content-type"].startswith("text/event-stream")
    first = json.loads(answer.body.split(b"data: ", 1)[1].split(b"\n")[0])
    assert (first["id"], first["state"]) == (job_id, "completed")


def test_who_follows_a_job_is_told_without_looking_again(idle: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "LOOK_S", 3600.0)
    monkeypatch.setattr(own, "LOOK_S", 3600.0)
    jobs, key = idle.app.stores.own_jobs, idle.key(email="told@example.org")
    assert jobs is not None
    job_id = queue(idle, key)

    async def request() -> JobRequest:
        return JobRequest(id=job_id)

    async def scenario() -> list[str]:
        inbound = Call(Credential("key", Secret(key)), "followed")
        seen = await call(idle.app.entrance, idle.app.operations["jobs.events"], inbound, request)
        states = [(await anext(seen)).state]
        working = asyncio.create_task(own_worker(idle.app, jobs).run())
        try:
            async with asyncio.timeout(60):
                states += [view.state async for view in seen]
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        return states

    states = idle.run(scenario())
    assert states[0] == "waiting"
    assert states[-1] == "completed"


def test_one_idempotency_key_is_one_job(idle: Worker) -> None:
    key = idle.key(email="once@example.org")
    first = queue(idle, key, idempotency_key="k")
    assert queue(idle, key, idempotency_key="k") == first
    assert queue(idle, key, idempotency_key="l") != first
    assert queue(idle, idle.key(email="another@example.org"), idempotency_key="k") != first
    other = idle.post("/v1/jobs", {**REQUEST, "request": {"texts": ["x"]}, "idempotency_key": "k"}, key=key)
    assert (other.status, other.json["code"]) == (422, "idempotency_mismatch")


def test_a_delayed_job_waits(idle: Worker, running: Running) -> None:
    key = idle.key(email="delayed@example.org")
    job_id = queue(idle, key, delay_ms=1500)
    began = time.monotonic()
    assert idle.get(f"/v1/jobs/{job_id}", key=key).json["state"] == "delayed"
    assert running.until_ended(job_id, "delayed@example.org").state == "completed"
    assert time.monotonic() - began > 1.0


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"operation": "text.nothing"}, 404, "not_found"),
        ({"operation": "keys.create"}, 404, "not_found"),
        ({"operation": "jobs.create"}, 404, "not_found"),
        ({"request": {"texts": [1]}}, 400, "invalid_request"),
        ({"request": {}}, 400, "invalid_request"),
        ({"request": []}, 400, "invalid_request"),
        ({"queue": "elsewhere"}, 400, "invalid_request"),
        ({"priority": -1}, 400, "invalid_request"),
        ({"delay_ms": 2**40}, 400, "invalid_request"),
        ({"attempts": 0}, 400, "invalid_request"),
        ({"surprise": 1}, 400, "invalid_request"),
        ({"operation": "faces.detect", "request": {"image": "AAAA"}}, 403, "forbidden"),
    ],
)
def test_what_cannot_be_a_job_is_refused_at_once(idle: Worker, changes: dict[str, Any], status: int, code: str) -> None:
    key = idle.key(email="bad-jobs@example.org", scopes=("jobs", "text"))
    answer = idle.post("/v1/jobs", {**REQUEST, **changes}, key=key)
    assert (answer.status, answer.json["code"]) == (status, code), answer.body
    assert idle.get("/v1/jobs", key=key).json["jobs"] == []


def test_jobs_need_their_scope(idle: Worker) -> None:
    key = idle.key(email="scope@example.org", scopes=("text",))
    assert idle.post("/v1/jobs", REQUEST, key=key).status == 403
    assert idle.post("/v1/jobs", REQUEST, key=None).status == 401
