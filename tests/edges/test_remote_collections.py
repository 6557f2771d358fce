"""Collections and galleries that another worker keeps, and jobs of a worker that has no model: COLLECTIONS_URL and its kin."""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edges.conftest import Worker
from edges.rpc import RpcClient
from phalanx.app import own_worker
from phalanx.app.remote_look import look_at_remote
from phalanx.cli.worker import call_here
from phalanx.contract.collections import ListCollectionsRequest
from phalanx.errors import InvalidRequest
from phalanx.ports.jobs import JobRecord
from phalanx.settings import load
from pictures import astronaut, quarters, saved

SCOPES = ("vectors", "faces", "text", "usage", "images", "jobs")
NUMBERS = itertools.count()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


PHOTO = text(saved(astronaut(), "JPEG", quality=92))
MIRRORED = text(saved(np.ascontiguousarray(astronaut()[:, ::-1]), "JPEG", quality=92))
EMPTY = text(saved(quarters(320, 240), "PNG"))


@pytest.fixture(scope="module")
def rpc(worker: Any) -> Iterator[RpcClient]:
    client = RpcClient(worker)
    yield client
    client.close()


@pytest.fixture(scope="module")
def gateway(worker: Any, rpc: RpcClient, start_worker: Callable[..., Worker], tmp_path_factory: Any) -> Worker:
    """A worker with no model and no collections of its own."""
    url = f"grpc://127.0.0.1:{rpc.server.port}"
    return start_worker(
        MODEL_DIR=str(tmp_path_factory.mktemp("no-models")), TEXT_URL=url, FACES_URL=url, COLLECTIONS_URL=url,
        SERVICE_KEY=worker.key(email="front@example.org", scopes=(*SCOPES, "admin")),
    )  # fmt: skip


class Own:
    """An organisation that calls one worker."""

    def __init__(self, worker: Any, organisation: str = "") -> None:
        self.worker = worker
        self.organisation = organisation or f"remote{next(NUMBERS)}@example.org"
        self.key = worker.key(email=self.organisation, scopes=SCOPES)

    def ask(self, method: str, path: str, sent: Any = None) -> Any:
        return self.worker.request(method, path, json_body=sent, key=self.key)

    def ok(self, method: str, path: str, sent: Any = None) -> Any:
        answer = self.ask(method, path, sent)
        assert answer.status == 200, answer.body
        return answer.json


def test_texts_are_kept_and_found_by_a_worker_without_a_model(gateway: Worker) -> None:
    """Their vectors are made where they are kept; the caller's organisation has them, and its usage."""
    own = Own(gateway)
    made = own.ok("PUT", "/v1/collections/books", {"kind": "texts"})
    assert made["organisation"] == own.organisation
    points = [{"id": 7, "text": "The Odyssey"}, {"id": 8, "text": "A manual of bookkeeping"}]
    own.ok("POST", "/v1/collections/books/points", {"points": points})
    assert own.ok("GET", "/v1/collections/books/count")["count"] == 2
    found = own.ok("POST", "/v1/collections/books/search", {"text": "a long voyage home", "limit": 1})
    assert [one["id"] for one in found["matches"]] == [7]
    assert [one["name"] for one in own.ok("GET", "/v1/collections")["collections"]] == ["books"]
    assert gateway.totals(own.organisation).tokens > 0
    own.ok("DELETE", "/v1/collections/books")
    missing = own.ask("GET", "/v1/collections/books/count")
    assert (missing.status, missing.json["code"]) == (404, "not_found")


def test_a_person_is_enrolled_and_found_by_a_worker_without_a_model(gateway: Worker, worker: Any) -> None:
    """As by the worker that has the models: the same answers, the same errors."""
    here, there = Own(worker), Own(gateway)
    for own in (here, there):
        own.ok("PUT", "/v1/collections/people", {"kind": "faces"})
    sent: list[tuple[str, str, Any]] = [
        ("POST", "/faces", {"person_id": "eileen", "image": PHOTO}),
        ("POST", "/identify", {"image": MIRRORED}),
        ("GET", "/persons", None),
        ("POST", "/identify", {"image": EMPTY}),
        ("GET", "/persons/nobody", None),
        ("DELETE", "/persons/eileen", None),
        ("DELETE", "/persons/eileen", None),
    ]
    answers = [
        [own.ask(how, f"/v1/collections/people{path}", body) for own in (here, there)] for how, path, body in sent
    ]
    assert [[one.status for one in pair] for pair in answers] == [
        [200] * 2, [200] * 2, [200] * 2, [422] * 2, [404] * 2, [200] * 2, [404] * 2,
    ]  # fmt: skip
    assert answers[1][1].json["faces"][0]["person_id"] == "eileen"
    for ours, theirs in answers:
        if ours.status != 200:
            assert [theirs.json[name] for name in ("code", "detail")] == [
                ours.json[name] for name in ("code", "detail")
            ]
    assert there.worker.totals(there.organisation) == here.worker.totals(here.organisation)


def test_whose_collections_are_meant_is_settled_here(gateway: Worker, worker: Any) -> None:
    """SERVICE_KEY may name everybody, its callers may not; and one organisation does not see another's."""
    one, other = Own(gateway), Own(gateway)
    one.ok("PUT", "/v1/collections/mine", {"kind": "vectors", "dimensions": 2})
    assert other.ask("GET", "/v1/collections/mine").status == 404
    named = other.ask("GET", f"/v1/collections/mine?organisation={one.organisation}")
    assert (named.status, named.json["code"]) == (403, "forbidden")
    assert "SERVICE_KEY" not in named.json["detail"]
    assert Own(worker, one.organisation).ok("GET", "/v1/collections/mine")["organisation"] == one.organisation
    row = gateway.app.operations["collections.list"]
    listed = gateway.run(call_here(gateway.app, row, ListCollectionsRequest(organisation=one.organisation)))
    assert [found.name for found in listed.collections] == ["mine"]
    with pytest.raises(InvalidRequest, match="organisation"):
        gateway.run(call_here(gateway.app, row, ListCollectionsRequest()))


def test_a_key_that_is_no_administrators_is_not_the_callers_fault(
    worker: Any, rpc: RpcClient, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    """502 that names SERVICE_KEY; `doctor` says which scopes it needs."""
    url = f"grpc://127.0.0.1:{rpc.server.port}"
    narrow = worker.key(email="front@example.org", scopes=SCOPES)
    gateway = start_worker(MODEL_DIR=str(tmp_path), COLLECTIONS_URL=url, SERVICE_KEY=narrow)
    answer = Own(gateway).ask("PUT", "/v1/collections/books", {"kind": "texts"})
    assert (answer.status, answer.json["code"]) == (502, "upstream_failed")
    assert "SERVICE_KEY" in answer.json["detail"]
    settings = load({"COLLECTIONS_URL": url, "SERVICE_KEY": "fe_wrong"}, folder=tmp_path).settings
    (seen,) = worker.run(look_at_remote(settings))
    assert seen.well is False
    for scope in ("vectors", "faces", "admin"):
        assert f"--scope {scope}" in seen.remedy


def run_job(worker: Worker, own: Own, operation: str, request: Any) -> JobRecord:
    """Queue a job and run it as the worker of the queue does."""
    answer = own.ask("POST", "/v1/jobs", {"operation": operation, "request": request})
    assert answer.status == 202, answer.body
    jobs = worker.app.stores.own_jobs
    assert jobs is not None

    async def run() -> JobRecord:
        working = asyncio.create_task(own_worker(worker.app, jobs).run())
        try:
            async with asyncio.timeout(60.0):
                while True:
                    found = await jobs.find(own.organisation, answer.json["id"])
                    if found is not None and found.state in ("completed", "failed"):
                        return found
                    await asyncio.sleep(0.02)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    return worker.run(run())


def test_jobs_are_run_by_other_workers(gateway: Worker) -> None:
    """A text, a face and an enrolment, each billed once to who queued it; a bad image fails as it would here."""
    own = Own(gateway)
    own.ok("PUT", "/v1/collections/people", {"kind": "faces"})
    enrolment = {"name": "people", "person_id": "eileen", "image": PHOTO}
    for operation, request in (
        ("text.embed", {"texts": ["Hello world"]}), ("faces.embed", {"image": PHOTO}), ("faces.enrol", enrolment),
    ):  # fmt: skip
        before = gateway.totals(own.organisation).billed
        assert run_job(gateway, own, operation, request).state == "completed", operation
        assert gateway.totals(own.organisation).billed == before + 1
    assert own.ok("GET", "/v1/collections/people/persons")["persons"] == [{"id": "eileen", "faces": 1}]
    failed = run_job(gateway, own, "faces.enrol", {**enrolment, "image": EMPTY})
    assert failed.state == "failed"
    assert "no_face" in str(failed)


@pytest.mark.parametrize("is_done", [True, False])
def test_what_was_deleted_by_a_worker_that_went_away_is_not_said_to_be_missing(
    is_done: bool, worker: Any, rpc: RpcClient, start_worker: Callable[..., Worker], tmp_path: Path
) -> None:
    """The second worker finds nothing, because the first had done it or because there was nothing: nobody can tell."""
    going = RpcClient(worker)
    gateway = start_worker(
        MODEL_DIR=str(tmp_path), COLLECTIONS_URL=f"grpc://127.0.0.1:{going.server.port},grpc://127.0.0.1:{rpc.server.port}",
        SERVICE_KEY=worker.key(email="front@example.org", scopes=(*SCOPES, "admin")),
    )  # fmt: skip
    own, real, ending = Own(gateway), going.edge._unary, []
    Own(worker, own.organisation).ok("PUT", "/v1/collections/books", {"kind": "vectors", "dimensions": 2})

    async def leave(exchange: Any, method: Any, limit: int) -> bytes:
        if is_done:
            await real(exchange, method, limit)
        ending.append(asyncio.create_task(going.server.drain(at_once=True)))
        await asyncio.sleep(60.0)
        raise AssertionError("the call was not ended")

    going.edge._unary = leave  # type: ignore[method-assign]
    answers = [own.ask("DELETE", "/v1/collections/books") for _ in range(2)]
    worker.run(asyncio.wait(ending))
    worker.run(going.channel.close())
    assert [one.status for one in answers] == ([503, 404] if is_done else [200, 404])
    if is_done:
        assert answers[0].json["code"] == "unavailable"
