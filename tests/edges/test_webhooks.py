"""Webhooks of jobs over the API, of both queues, to a receiver on loopback: delivered, signed, refused, given up."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import bullmq
import pytest

from edges.conftest import Worker
from phalanx.app import own_worker, queue_workers
from servers import RedisServer

KEY = b"k" * 32
SECRET = "whsec_" + base64.b64encode(KEY).decode()
REQUEST = {"operation": "text.embed", "request": {"texts": ["Hello world"]}}
PATIENCE_S = 60


class Receiver:
    """A server on loopback that keeps what is posted to it; `/refuse/N` refuses the first N."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.heard: list[tuple[str, dict[str, str], bytes]] = []
        self.came = asyncio.Event()

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._answer, sock=self._socket)

    async def close(self) -> None:
        self.server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        body = await reader.readexactly(int(headers["content-length"]))
        path = head[0].split(" ")[1]
        before = sum(1 for other, _, _ in self.heard if other == path)
        status = "302 Found\r\nLocation: http://127.0.0.1/" if path == "/away" else "204 No Content"
        if path.startswith("/refuse/") and before < int(path.rsplit("/", 1)[1]):
            status = "500 Internal Server Error"
        self.heard.append((path, headers, body))
        self.came.set()
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async def wait(self, path: str, count: int = 1) -> list[tuple[dict[str, str], bytes]]:
        """What was posted to a path, once there are so many."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = [(headers, body) for there, headers, body in self.heard if there == path]
                if len(found) >= count:
                    return found
                self.came.clear()
                await self.came.wait()


class Hooked:
    """A worker that runs jobs and sends webhooks, and who receives them."""

    def __init__(self, worker: Worker, receiver: Receiver, *, on_redis: bool) -> None:
        self.worker, self.receiver, self.on_redis = worker, receiver, on_redis
        self.key = worker.key(email="hooked@example.org")
        # As those of the service, but for the hours between.
        worker.app.webhooks._retry_s = (0.1,) * 3
        self._workers: list[Any] = []
        self._running: list[asyncio.Task[None]] = []

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.receiver.port}{path}"

    def start(self) -> None:
        async def start() -> None:
            await self.receiver.start()
            if self.on_redis:
                self._workers = queue_workers(self.worker.app)
                works = [one.run() for one in self._workers]
            else:
                assert self.worker.app.stores.own_jobs is not None
                works = [own_worker(self.worker.app, self.worker.app.stores.own_jobs).run()]
            self._running = [asyncio.create_task(work) for work in (*works, self.worker.app.webhooks.run())]

        self.worker.run(start())

    def stop(self) -> None:
        async def stop() -> None:
            for one in self._workers:
                await one.stop(within_s=10.0)
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            await self.receiver.close()

        self.worker.run(stop())

    def queue(self, path: str, **changes: Any) -> str:
        answer = self.worker.post("/v1/jobs", {**REQUEST, "webhook": self.url(path), **changes}, key=self.key)
        assert answer.status == 202, answer.body
        return str(answer.json["id"])

    def heard(self, path: str, count: int = 1) -> list[tuple[dict[str, str], bytes]]:
        return self.worker.run(self.receiver.wait(path, count))

    def counted(self, outcome: str) -> float:
        registry = self.worker.app.metrics.registry
        return float(registry.get_sample_value("phalanx_webhooks_total", {"outcome": outcome}) or 0.0)

    def until_counted(self, outcome: str, count: float) -> None:
        async def wait() -> None:
            async with asyncio.timeout(PATIENCE_S):
                while self.counted(outcome) < count:  # noqa: ASYNC110 - a metric rings no bell
                    await asyncio.sleep(0.05)

        self.worker.run(wait())


@pytest.fixture(scope="module", params=["sql", "bullmq"])
def hooked(request: pytest.FixtureRequest, start_worker: Callable[..., Worker]) -> Iterator[Hooked]:
    receiver = Receiver()
    environ = {
        "WEBHOOK_SECRET": SECRET, "WEBHOOK_ALLOW": f"127.0.0.1:{receiver.port},inside.example,127.0.0.1",
        "WEBHOOK_NETWORKS": "127.0.0.0/8",
    }  # fmt: skip
    if request.param == "bullmq":
        server: RedisServer = request.getfixturevalue("redis_server")
        server.flush()
        environ |= {"QUEUE_REDIS_URL": server.url, "QUEUES": "hooked"}
    found = Hooked(start_worker(**environ), receiver, on_redis=request.param == "bullmq")
    found.start()
    yield found
    found.stop()


def test_the_end_of_a_job_is_told_signed(hooked: Hooked) -> None:
    job_id = hooked.queue("/done")
    ((headers, body),) = hooked.heard("/done")
    signed = f"{job_id}.{headers['webhook-timestamp']}.".encode() + body
    assert headers["webhook-id"] == job_id
    assert headers["webhook-signature"] == "v1," + base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
    assert headers["content-type"] == "application/json"
    message = json.loads(body)
    assert (message["type"], message["data"]["id"], message["data"]["state"]) == ("job.completed", job_id, "completed")
    assert message["data"]["operation"] == "text.embed"
    view = hooked.worker.get(f"/v1/jobs/{job_id}", key=hooked.key).json
    assert view["state"] == "completed"
    assert message["data"]["queue"] == view["queue"]
    assert message["data"]["result"] == view["result"]


def test_a_final_failure_is_told_once(hooked: Hooked) -> None:
    job_id = hooked.queue("/failed", request={"texts": [" "]})
    ((_, body),) = hooked.heard("/failed")
    message = json.loads(body)
    assert (message["type"], message["data"]["id"]) == ("job.failed", job_id)
    assert message["data"]["error"]["code"]
    assert "result" not in message["data"]


def test_a_job_that_was_damaged_in_redis_is_told_as_failed(hooked: Hooked) -> None:
    if not hooked.on_redis:
        pytest.skip("nobody else writes to the database")
    job_id = hooked.queue("/damaged", delay_ms=3_600_000)

    async def damage() -> None:
        queue = bullmq.Queue("hooked", {"connection": str(hooked.worker.app.settings.jobs_url)})
        try:
            job = await bullmq.Job.fromId(queue, job_id)
            await queue.backend.conn.hset(f"bull:hooked:{job_id}", mapping={"opts": "[", "ats": "x"})
            await job.promote()
        finally:
            await queue.close()

    hooked.worker.run(damage())
    ((headers, body),) = hooked.heard("/damaged")
    message = json.loads(body)
    assert (headers["webhook-id"], message["type"]) == (job_id, "job.failed")
    assert message["data"]["error"]["code"] == "invalid_request"


def test_a_receiver_that_fails_hears_again_and_the_queue_goes_on(hooked: Hooked) -> None:
    job_id = hooked.queue("/refuse/2")
    later = hooked.queue("/after")
    assert hooked.heard("/after")[0][0]["webhook-id"] == later
    heard = hooked.heard("/refuse/2", 3)
    assert {headers["webhook-id"] for headers, _ in heard} == {job_id}
    assert len({body for _, body in heard}) == 1


@pytest.mark.parametrize("path", ["/away", "/refuse/99"])
def test_one_that_is_never_taken_is_lost_visibly(hooked: Hooked, path: str) -> None:
    before = hooked.counted("failed")
    hooked.queue(path)
    assert len(hooked.heard(path, 4)) == 4
    hooked.until_counted("failed", before + 1)


def test_a_job_without_one_tells_nobody(hooked: Hooked) -> None:
    before = len(hooked.receiver.heard)
    answer = hooked.worker.post("/v1/jobs", REQUEST, key=hooked.key)
    assert answer.status == 202
    followed = hooked.worker.get(f"/v1/jobs/{answer.json['id']}/events", key=hooked.key)
    assert b'"completed"' in followed.body
    # Another's, queued later, has come by the time we look.
    hooked.queue("/next")
    assert hooked.heard("/next") is not None
    assert [path for path, _, _ in hooked.receiver.heard[before:]] == ["/next"]


@pytest.mark.parametrize(
    "url",
    [
        "http://elsewhere.example/hook", "http://127.0.0.1:1/", "http://inside.example:8080/", "http://10.0.0.1/", "ftp://inside.example/",
        "inside.example/hook", "http://user:pw@inside.example/", "http://169.254.169.254/", "http://inside.example/" + "a" * 2100, "",
    ],
)  # fmt: skip
def test_a_url_that_is_not_allowed_is_refused_as_the_job_is_queued(hooked: Hooked, url: str) -> None:
    answer = hooked.worker.post("/v1/jobs", {**REQUEST, "webhook": url}, key=hooked.key)
    assert (answer.status, answer.json["code"]) == (400, "invalid_request"), (url, answer.body)


def test_without_a_secret_there_are_none(worker: Worker) -> None:
    answer = worker.post("/v1/jobs", {**REQUEST, "webhook": "https://app.example/"})
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")
    assert "WEBHOOK_SECRET" in answer.json["detail"]
