"""Webhooks: what is sent, how it is signed, what becomes of one that is not taken."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from clocks import HandClock
from people import keys_of
from phalanx.contract.jobs import JobError
from phalanx.errors import InvalidRequest, PhalanxError, UpstreamFailed
from phalanx.ports.webhooks import Notice
from phalanx.services.jobs.tokens import JobTokens
from phalanx.services.jobs.webhooks import MAX_RESULT_BYTES, OUTCOMES, RETRY_S, Ended, Webhooks
from phalanx.services.ticket import Caller, Task
from phalanx.settings import Secret, SettingsError, load
from phalanx.stores.sql.database import migrate, open_database
from phalanx.stores.sql.webhooks import SqlOutbox
from phalanx.telemetry import Metrics

pytestmark = pytest.mark.anyio
OLD, NEW = "whsec_" + base64.b64encode(b"o" * 32).decode(), "whsec_" + base64.b64encode(b"n" * 32).decode()
URL = "https://app.example/hook"
WORKER = Caller("org", "org", "key-1", "scale", frozenset())


class Receiver:
    """Stands for the host outside: answers as `answers` say, the last of which is repeated."""

    def __init__(self) -> None:
        self.answers: list[bool | PhalanxError] = [True]
        self.heard: list[tuple[str, dict[str, str], bytes]] = []

    def check(self, text: str) -> None:
        if text != URL:
            raise InvalidRequest("not there", param="webhook")

    async def post(self, text: str, headers: Mapping[str, str], body: bytes) -> bool:
        self.heard.append((text, dict(headers), body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, PhalanxError):
            raise answer
        return answer


class Sending:
    """Webhooks over a database of their own and a clock set by hand."""

    def __init__(self, outbox: SqlOutbox) -> None:
        self.outbox, self.receiver, self.clock, self.metrics = outbox, Receiver(), HandClock(), Metrics()
        self.tokens = JobTokens(keys_of(), issuer="phalanx", clock=self.clock)

    def webhooks(self, *secrets: str) -> Webhooks:
        return Webhooks(
            self.outbox, self.receiver, self.tokens, [Secret(one) for one in secrets or (NEW,)], clock=self.clock,
            log=structlog.get_logger("phalanx"), metrics=self.metrics,
        )  # fmt: skip

    def token(self, job_id: str = "job-1", url: str = URL) -> str:
        return str(self.tokens.sign(WORKER, Task(job_id, "text.embed"), webhook=url))

    def counted(self, outcome: str) -> float:
        return float(self.metrics.registry.get_sample_value("phalanx_webhooks_total", {"outcome": outcome}) or 0.0)

    async def until(self, webhooks: Webhooks, is_so: Callable[[], bool]) -> None:
        """Deliver until something is so. Time flies while nothing is due or under way: no lease runs out."""
        claim = self.outbox.claim

        async def claim_and_wait(limit: int, *, now: float, lease_s: float) -> Sequence[Notice]:
            found = await claim(limit, now=now, lease_s=lease_s)
            if not found and len(self.receiver.heard) <= sum(map(self.counted, OUTCOMES)):
                self.clock.advance(2 * max(RETRY_S))
            return found

        self.outbox.claim = claim_and_wait  # type: ignore[method-assign]
        running = asyncio.create_task(webhooks.run())
        try:
            async with asyncio.timeout(60):
                while not is_so():  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        finally:
            self.outbox.claim = claim  # type: ignore[method-assign]
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    async def left(self) -> Sequence[Notice]:
        return await self.outbox.claim(99, now=self.clock.now() + 10**7, lease_s=0.0)


@pytest.fixture
async def sending(tmp_path: Path) -> AsyncIterator[Sending]:
    url = f"sqlite:///{tmp_path}/webhooks.sqlite"
    await asyncio.to_thread(migrate, url)
    database = open_database(url)
    yield Sending(SqlOutbox(database, max_notices=3))
    await database.close()


def ended(job_id: str = "job-1", **changes: Any) -> Ended:
    return Ended(**{"id": job_id, "operation": "text.embed", "queue": "jobs", "result": b'{"n":1}', **changes})


async def test_the_signature_is_that_of_the_specification(sending: Sending) -> None:
    """The example of the specification's reference libraries."""
    webhooks = sending.webhooks("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    sending.clock.advance(1_614_265_330 - sending.clock.now())
    headers = webhooks.headers(Notice("msg_p5jXN8AQM9LWM0D4loKWxJek", URL, b'{"test": 2432232314}'))
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


async def test_who_queued_a_job_is_told_of_its_end(sending: Sending) -> None:
    webhooks = sending.webhooks(NEW, OLD)
    await webhooks.announce(sending.token(), ended())
    await sending.until(webhooks, lambda: bool(sending.counted("delivered")))
    ((url, headers, body),) = sending.receiver.heard
    assert (url, headers["webhook-id"]) == (URL, "job-1")
    message = json.loads(body)
    assert message["type"] == "job.completed"
    assert message["timestamp"].endswith("Z")
    assert message["data"] == {
        "id": "job-1", "operation": "text.embed", "queue": "jobs", "state": "completed", "result": {"n": 1}
    }  # fmt: skip
    signed = f"job-1.{headers['webhook-timestamp']}.".encode() + body
    # Each secret in use has signed, so that either side may change first.
    want = [base64.b64encode(hmac.digest(key * 32, signed, hashlib.sha256)).decode() for key in (b"n", b"o")]
    assert headers["webhook-signature"].split() == [f"v1,{one}" for one in want]
    assert await sending.left() == []


async def test_a_failure_says_why_and_a_large_result_is_left_out(sending: Sending) -> None:
    webhooks = sending.webhooks()
    error = JobError(code="no_face", detail="there is none")
    await webhooks.announce(sending.token(), ended(result=b"", error=error))
    large = b'"' + b"x" * MAX_RESULT_BYTES + b'"'
    await webhooks.announce(sending.token("job-2"), ended("job-2", result=large))
    await sending.until(webhooks, lambda: sending.counted("delivered") == 2)
    told = {one["data"]["id"]: one for one in (json.loads(body) for _, _, body in sending.receiver.heard)}
    assert told["job-1"]["type"] == "job.failed"
    assert told["job-1"]["data"]["error"] == {"code": "no_face", "detail": "there is none"}
    assert "result" not in told["job-2"]["data"]
    assert told["job-2"]["data"]["result_omitted"] is True


async def test_what_is_not_taken_is_tried_again_with_the_same_id(sending: Sending) -> None:
    sending.receiver.answers = [UpstreamFailed("it answered 500"), UpstreamFailed("it answered 302"), True]
    webhooks = sending.webhooks()
    await webhooks.announce(sending.token(), ended())
    await sending.until(webhooks, lambda: bool(sending.counted("delivered")))
    assert [headers["webhook-id"] for _, headers, _ in sending.receiver.heard] == ["job-1"] * 3
    assert sending.counted("retried") == 2
    stamps = [int(headers["webhook-timestamp"]) for _, headers, _ in sending.receiver.heard]
    assert stamps[0] < stamps[1] < stamps[2]


async def test_one_that_is_never_taken_is_given_up_visibly(sending: Sending) -> None:
    sending.receiver.answers = [UpstreamFailed("it answered 500")]
    webhooks = sending.webhooks()
    await webhooks.announce(sending.token(), ended())
    await sending.until(webhooks, lambda: bool(sending.counted("failed")))
    assert len(sending.receiver.heard) == len(RETRY_S) + 1
    assert await sending.left() == []


async def test_who_wants_no_more_is_not_asked_again(sending: Sending) -> None:
    sending.receiver.answers = [False]
    webhooks = sending.webhooks()
    await webhooks.announce(sending.token(), ended())
    await sending.until(webhooks, lambda: bool(sending.counted("failed")))
    assert len(sending.receiver.heard) == 1


async def test_a_slow_receiver_holds_up_nobody_else(sending: Sending) -> None:
    never = asyncio.Event()
    post = sending.receiver.post

    async def slow(text: str, headers: Mapping[str, str], body: bytes) -> bool:
        if headers["webhook-id"] == "job-1":
            await never.wait()
        return await post(text, headers, body)

    sending.receiver.post = slow  # type: ignore[method-assign]
    webhooks = sending.webhooks()
    for job_id in ("job-1", "job-2"):
        await webhooks.announce(sending.token(job_id), ended(job_id))
    await sending.until(webhooks, lambda: bool(sending.counted("delivered")))
    assert [headers["webhook-id"] for _, headers, _ in sending.receiver.heard] == ["job-2"]
    # The one that was under way when the worker stopped is still here.
    assert [one.id for one in await sending.left()] == ["job-1"]


async def test_what_finds_no_room_is_counted(sending: Sending) -> None:
    webhooks = sending.webhooks()
    for n in range(4):
        await webhooks.announce(sending.token(f"job-{n}"), ended(f"job-{n}"))
    assert sending.counted("dropped") == 1


async def test_no_token_of_another_job_and_none_that_is_forged_sends_anything(sending: Sending) -> None:
    webhooks = sending.webhooks()
    other = JobTokens(keys_of("x" * 40), issuer="phalanx", clock=sending.clock)
    forged = str(other.sign(WORKER, Task("job-1", "text.embed"), webhook=URL))
    for token in ("", "?", sending.token("job-2"), sending.token(url=""), forged):
        await webhooks.announce(token, ended())
    assert await sending.left() == []


async def test_a_url_that_may_not_be_told_is_refused(sending: Sending) -> None:
    sending.webhooks().check(URL)
    with pytest.raises(InvalidRequest):
        sending.webhooks().check("https://elsewhere.example/")
    off = Webhooks(
        sending.outbox, sending.receiver, sending.tokens, [], clock=sending.clock,
        log=structlog.get_logger("phalanx"), metrics=sending.metrics,
    )  # fmt: skip
    assert not off.is_on
    with pytest.raises(InvalidRequest, match="WEBHOOK_SECRET"):
        off.check(URL)
    # Queued where there is a secret, run where there is none.
    await off.announce(sending.token(), ended())
    assert await sending.left() == []
    assert sending.counted("dropped") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WEBHOOK_SECRET", "short"), ("WEBHOOK_SECRET", "whsec_short"), ("WEBHOOK_SECRET", "whsec_!!!"),
        ("WEBHOOK_SECRET", f"{NEW},short"), ("WEBHOOK_SECRET", "x" * 65), ("WEBHOOK_ALLOW", "https://app.example"),
        ("WEBHOOK_ALLOW", "app.example/hook"), ("WEBHOOK_NETWORKS", "10.0.0.0/99"), ("WEBHOOK_NETWORKS", "app"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_without_showing_secrets(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=name) as refused:
        load({name: value, "DATA_DIR": str(tmp_path)}, folder=tmp_path)
    if name == "WEBHOOK_SECRET":
        assert value not in str(refused.value)
        assert "short" not in str(refused.value)


def test_settings_are_read(tmp_path: Path) -> None:
    read = load(
        {
            "DATA_DIR": str(tmp_path), "WEBHOOK_SECRET": f"{NEW}, {'x' * 24}", "WEBHOOK_ALLOW": "a.example, .b.example:8080",
            "WEBHOOK_NETWORKS": "10.0.0.0/8,127.0.0.1",
        },
        folder=tmp_path,
    ).settings  # fmt: skip
    assert read.webhook_secret == (NEW, "x" * 24)
    assert NEW not in repr(read)
    assert read.webhook_allow == ("a.example", ".b.example:8080")
    assert [str(one) for one in read.webhook_networks] == ["10.0.0.0/8", "127.0.0.1/32"]
