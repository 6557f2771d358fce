"""The pipeline job of a face application, in both queues: by the application's words, with its progress, its result read.

How far any job has come is told over the API while it runs and afterwards, and to BullMQ's own listeners.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import bullmq
import pytest

from edges.conftest import Worker
from phalanx.app import own_worker, queue_workers
from phalanx.services.callers.keys import key_digest
from phalanx.services.collections.gallery import STAGES
from phalanx.services.text import FOLLOWED_PART
from phalanx.settings.queues import QueueSpec
from phalanx.upstreams.fetch import Fetcher
from pictures import astronaut, saved
from servers import RedisServer

FILE = saved(astronaut(), "JPEG", quality=92)
PHOTO = base64.b64encode(FILE).decode()
QUEUE, BOUND = "progress", "bound"
PATIENCE_S = 60


class Jobs:
    """A worker whose queue is worked on whenever its loop runs."""

    def __init__(self, worker: Worker, redis_url: str = "") -> None:
        self.worker, self.redis_url = worker, redis_url
        self.key = worker.key(email="progress@example.org")
        made = worker.request("PUT", "/v1/collections/people", json_body={"kind": "faces"}, key=self.key)
        assert made.status == 200, made.body
        self._working: list[asyncio.Task[None]] = []

    @property
    def key_id(self) -> str:
        record = self.worker.run(self.worker.app.stores.keys.find(key_digest(self.key)))
        assert record is not None
        return str(record.id)

    def ok(self, path: str) -> Any:
        answer = self.worker.get(path, key=self.key)
        assert answer.status == 200, answer.body
        return answer.json

    def start(self) -> None:
        async def start() -> None:
            if self.redis_url:
                self._workers = queue_workers(self.worker.app)
                self._working = [asyncio.create_task(one.run()) for one in self._workers]
            else:
                assert self.worker.app.stores.own_jobs is not None
                own = own_worker(self.worker.app, self.worker.app.stores.own_jobs)
                self._working = [asyncio.create_task(own.run())]

        self.worker.run(start())

    def stop(self) -> None:
        async def stop() -> None:
            if self.redis_url:
                for one in self._workers:
                    await one.stop(within_s=10.0)
            for task in self._working:
                task.cancel()
            await asyncio.gather(*self._working, return_exceptions=True)

        self.worker.run(stop())

    def queue(self, operation: str, request: dict[str, Any]) -> str:
        answer = self.worker.post("/v1/jobs", {"operation": operation, "request": request}, key=self.key)
        assert answer.status == 202, answer.body
        return str(answer.json["id"])

    def add(self, name: str, data: dict[str, Any]) -> dict[str, Any]:
        """Queue a job as an application does that has only BullMQ, in a queue that is bound to a key; what became of it."""

        async def work() -> dict[str, Any]:
            queue = bullmq.Queue(BOUND, {"connection": self.redis_url})
            try:
                job = await queue.add(name, data)
                async with asyncio.timeout(PATIENCE_S):
                    while await job.getState() not in ("completed", "failed"):  # noqa: ASYNC110 - it is Redis that is asked
                        await asyncio.sleep(0.02)
                found = await bullmq.Job.fromId(queue, job.id)
                return {"result": found.returnvalue, "reason": found.failedReason, "progress": found.progress}
            finally:
                await queue.close()

        return self.worker.run(work())

    def follow(self, job_id: str) -> list[dict[str, Any]]:
        """What the events of a job are, to its end."""

        async def within() -> Any:
            exchange = self.worker._exchange(
                "GET", f"/v1/jobs/{job_id}/events", [b""], {"authorization": f"Bearer {self.key}"}, None
            )
            return await asyncio.wait_for(exchange, PATIENCE_S)

        answer = self.worker.run(within())
        assert answer.status == 200, answer.body
        lines = [json.loads(line[6:]) for line in answer.body.splitlines() if line.startswith(b"data: {")]
        return [one for one in lines if "state" in one]

    def look(self, job_id: str) -> dict[str, Any]:
        return dict(self.worker.get(f"/v1/jobs/{job_id}", key=self.key).json)


@pytest.fixture(scope="module", params=["sql", "bullmq"])
def jobs(request: pytest.FixtureRequest, start_worker: Callable[..., Worker], models_dir: Path) -> Iterator[Jobs]:
    if request.param == "sql":
        found = Jobs(request.getfixturevalue("worker"))
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        environ = {"MODEL_DIR": str(models_dir), "QUEUE_REDIS_URL": server.url, "QUEUES": QUEUE}
        found = Jobs(start_worker(**environ), server.url)
        # The key is known once there is a worker; as QUEUES=progress,bound=<key id> would say.
        bound = QueueSpec(BOUND, key_id=str(found.key_id))
        settings = dataclasses.replace(found.worker.app.settings, queues=(QueueSpec(QUEUE), bound))
        found.worker.app = dataclasses.replace(found.worker.app, settings=settings)
    found.start()
    yield found
    found.stop()


def stages_of(events: list[dict[str, Any]]) -> list[str]:
    return [one["progress"]["stage"] for one in events if one["state"] == "active" and one["progress"]]


def test_enrolling_reports_each_of_its_stages_in_order(jobs: Jobs) -> None:
    job_id = jobs.queue("faces.enrol", {"name": "people", "person_id": "eileen", "image": PHOTO})
    events = jobs.follow(job_id)
    assert events[-1]["state"] == "completed", events[-1]
    told = stages_of(events)
    assert [stage for at, stage in enumerate(told) if told[:at][-1:] != [stage]] == list(STAGES)
    done = jobs.look(job_id)
    stages = done["progress"]["stages"]
    assert [one["stage"] for one in stages] == list(STAGES)
    assert [one["fraction"] for one in stages] == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert done["created_at"] - 1 <= stages[0]["at"]
    assert [one["at"] for one in stages] == sorted(one["at"] for one in stages)
    assert stages[-1]["at"] <= done["ended_at"] + 0.01
    assert done["progress"]["stage"] == "store"
    assert done["result"]["person_id"] == "eileen"


def test_a_job_that_fails_says_how_far_it_came(jobs: Jobs) -> None:
    job_id = jobs.queue("faces.enrol", {"name": "people", "person_id": "blur", "image": PHOTO, "min_quality": 1})
    events = jobs.follow(job_id)
    assert (events[-1]["state"], events[-1]["error"]["code"]) == ("failed", "low_quality")
    assert events[-1]["progress"]["stage"] == "quality"


def test_bulk_work_reports_the_part_that_is_done(jobs: Jobs) -> None:
    job_id = jobs.queue("faces.detect", {"images": [PHOTO, "AAAA", PHOTO]})
    assert jobs.follow(job_id)[-1]["state"] == "completed"
    assert jobs.look(job_id)["progress"] == {"fraction": 1.0, "stage": None, "stages": []}


def test_many_texts_are_told_in_parts(jobs: Jobs) -> None:
    texts = [f"a text of its own, number {n}, for {jobs.redis_url or 'sql'}" for n in range(FOLLOWED_PART + 16)]
    job_id = jobs.queue("text.embed", {"texts": texts})
    events = jobs.follow(job_id)
    assert events[-1]["state"] == "completed", events[-1]
    assert len(events[-1]["result"]["embeddings"]) == len(texts)
    fractions = [one["progress"]["fraction"] for one in events if one["progress"]]
    assert fractions[-1] == 1.0
    assert set(fractions) <= {FOLLOWED_PART / len(texts), 1.0}


def test_a_job_without_parts_reports_nothing(jobs: Jobs) -> None:
    job_id = jobs.queue("text.embed", {"texts": ["Hello world"]})
    assert jobs.follow(job_id)[-1]["state"] == "completed"
    assert jobs.look(job_id)["progress"] is None


def test_listeners_of_bullmq_hear_each_stage_before_the_end(jobs: Jobs) -> None:
    if not jobs.redis_url:
        pytest.skip("BullMQ's events are Redis's")
    heard: list[tuple[str, Any]] = []

    async def listen() -> bullmq.Job:
        events = bullmq.QueueEvents(QUEUE, {"connection": jobs.redis_url, "lastEventId": "0-0", "autorun": False})
        ended = asyncio.Event()

        def note(kind: str, args: Any) -> None:
            heard.append((kind, args))
            if kind == "completed" and args["jobId"] == job_id:
                ended.set()

        for kind in ("progress", "completed"):
            events.on(kind, lambda args, *_, kind=kind: note(kind, args))
        listening = asyncio.create_task(events.run())
        queue = bullmq.Queue(QUEUE, {"connection": jobs.redis_url})
        try:
            await asyncio.wait_for(ended.wait(), PATIENCE_S)
            return await bullmq.Job.fromId(queue, job_id)
        finally:
            await events.close()
            await queue.close()
            listening.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await listening

    job_id = jobs.queue("faces.enrol", {"name": "people", "person_id": "eileen", "image": PHOTO})
    job = jobs.worker.run(listen())
    of_job = [(kind, args) for kind, args in heard if args["jobId"] == job_id]
    assert [kind for kind, _ in of_job] == ["progress"] * len(STAGES) + ["completed"]
    told = [json.loads(args["data"]) if isinstance(args["data"], str) else args["data"] for _, args in of_job[:-1]]
    assert [one["stage"] for one in told] == list(STAGES)
    assert job.progress == told[-1]


def check_enrolled(jobs: Jobs, result: dict[str, Any], person: str) -> None:
    """The result names person, point, quality and model, and the point is in the collection."""
    assert (result["person_id"], result["model"]) == (person, "dlib-resnet-v1")
    face = result["face"]
    assert face["quality"] > 0.5
    assert face["image_sha256"] == hashlib.sha256(FILE).hexdigest()
    assert jobs.ok(f"/v1/collections/people/persons/{person}")["faces"] == [face]
    points = jobs.ok("/v1/collections/people/points")["points"]
    assert [(one["id"], one["payload"]["person_id"]) for one in points] == [(face["id"], person)]


@pytest.fixture
def nobody(jobs: Jobs) -> None:
    """The collection, with nobody in it: a face is one person's."""
    for person in ("eileen", "u-1", "u-2", "u-3"):
        gone = jobs.worker.request("DELETE", f"/v1/collections/people/persons/{person}", key=jobs.key)
        assert gone.status in (200, 404), gone.body


@pytest.mark.usefixtures("nobody")
def test_an_applications_own_words_enrol(jobs: Jobs) -> None:
    job_id = jobs.queue("faces.enrol", {"image": PHOTO, "user_id": "u-1", "collection": "people"})
    done = jobs.follow(job_id)[-1]
    assert done["state"] == "completed", done
    check_enrolled(jobs, done["result"], "u-1")
    again = jobs.queue("faces.enrol", {"image": PHOTO, "person_id": "u-1", "name": "people"})
    assert jobs.follow(again)[-1]["result"] == {**done["result"], "created": False}


@pytest.mark.usefixtures("nobody")
def test_a_url_is_taken_in_as_an_image(jobs: Jobs) -> None:
    job_id = jobs.queue(
        "faces.enrol", {"url": "https://photos.example/a.jpg", "user_id": "u-2", "collection": "people"}
    )
    failed = jobs.follow(job_id)[-1]
    assert (failed["state"], failed["error"]["code"]) == ("failed", "invalid_request")
    assert "IMAGE_URL_ALLOW" in failed["error"]["detail"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(FILE)}\r\n\r\n".encode() + FILE
        )
        await writer.drain()
        writer.close()

    async def look_up(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    intake = jobs.worker.app.entrance.services.faces._intake
    server = jobs.worker.run(asyncio.start_server(answer, "127.0.0.1", 0))
    port = server.sockets[0].getsockname()[1]
    allowed = Fetcher(
        ("photos.example",), max_bytes=10**7, look_up=look_up, may_ask=lambda address: True, ports=(port,)
    )
    own, intake._fetcher = intake._fetcher, allowed
    try:
        job_id = jobs.queue(
            "faces.enrol", {"url": f"http://photos.example:{port}/a.jpg", "user_id": "u-2", "collection": "people"}
        )
        done = jobs.follow(job_id)[-1]
    finally:
        intake._fetcher = own
        server.close()
        jobs.worker.run(allowed.close())
    assert done["state"] == "completed", done
    check_enrolled(jobs, done["result"], "u-2")


@pytest.mark.usefixtures("nobody")
def test_a_producer_that_has_only_bullmq_says_the_same(jobs: Jobs) -> None:
    if not jobs.redis_url:
        pytest.skip("BullMQ's queues are Redis's")
    done = jobs.add("faces.enrol", {"image": PHOTO, "user_id": "u-3", "collection": "people"})
    assert done["reason"] is None, done
    check_enrolled(jobs, done["result"], "u-3")
    assert [one["stage"] for one in done["progress"]["stages"]] == list(STAGES)
    found = jobs.add("faces.identify", {"image": PHOTO, "collection": "people"})
    assert found["result"]["faces"][0]["person_id"] == "u-3"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"url": "https://photos.example/a.jpg"}, "invalid_request"),
        ({"person_id": "b"}, "invalid_request"),
        ({"name": "people"}, "invalid_request"),
        ({"user_id": 7}, "invalid_request"),
        ({"user_id": None}, "invalid_request"),
        ({"collection": "a b"}, "invalid_request"),
        ({"userId": "a"}, "invalid_request"),
        ({"collection": "elsewhere"}, "not_found"),
    ],
)
def test_what_is_said_twice_or_wrong_is_refused(jobs: Jobs, changes: dict[str, Any], code: str) -> None:
    request = {"image": PHOTO, "user_id": "a", "collection": "people", **changes}
    if code == "invalid_request":
        answer = jobs.worker.post("/v1/jobs", {"operation": "faces.enrol", "request": request}, key=jobs.key)
        assert (answer.status, answer.json["code"]) == (400, code), answer.body
    if jobs.redis_url:
        assert json.loads(jobs.add("faces.enrol", request)["reason"])["code"] == code
    elif code == "not_found":
        assert jobs.follow(jobs.queue("faces.enrol", request))[-1]["error"]["code"] == code
