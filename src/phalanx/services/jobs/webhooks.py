"""Webhooks: whoever queued a job and named a URL is told of its end, signed, at least once.

Before a job is told as ended a notice is put where the jobs are, so that it outlives the worker; any worker delivers it,
beside the jobs, until it is heard or given up. Messages and signatures are those of the Standard Webhooks specification
(https://www.standardwebhooks.com, version 1): `webhook-id`, `webhook-timestamp` and `webhook-signature`, which is base64 of
HMAC-SHA256 over `id.timestamp.body`, once for each secret in use.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import msgspec

from phalanx.contract.jobs import JobError, JobNotice, JobNoticeData
from phalanx.errors import InvalidRequest, PhalanxError
from phalanx.ports import Clock
from phalanx.ports.webhooks import Notice, Outbox
from phalanx.services.jobs.tokens import JobTokens
from phalanx.services.ticket import Task
from phalanx.settings import Secret
from phalanx.settings.webhooks import webhook_key
from phalanx.telemetry import Log, Metrics

RETRY_S = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0, 7200.0, 14_400.0, 21_600.0)
"""Between one attempt and the next, in seconds; a tenth is added by the notice's id, so that not all come back at once."""
MAX_RESULT_BYTES = 64 * 1024
"""Of a result that goes into the message; a larger one is read with `GET /v1/jobs/{id}`."""
MAX_NOTICES = 10_000
LOOK_S, WAIT_S = 0.5, 5.0
HEAD_START_S = 0.25
"""In which the end of the job is told, before the first attempt."""
AT_ONCE, LEASE_S = 32, 60.0
OUTCOMES = ("delivered", "retried", "failed", "dropped")


class Ended(NamedTuple):
    """A job that has ended: its id, operation and queue, and its result as JSON, or else why it failed."""

    id: str
    operation: str
    queue: str
    result: bytes = b""
    error: JobError | None = None


class Posts(Protocol):
    """What posts to a URL; see `upstreams.webhooks.Poster`."""

    def check(self, text: str) -> object:
        """Raise `InvalidRequest` for a URL that may not be posted to."""
        ...

    async def post(self, text: str, headers: Mapping[str, str], body: bytes) -> bool:
        """Post; False where no more is wanted. Raises `PhalanxError` where it was not taken."""
        ...


class Webhooks:
    """Takes and delivers notices. Without `secrets` there are none: `check` refuses them."""

    def __init__(
        self,
        outbox: Outbox,
        poster: Posts,
        tokens: JobTokens,
        secrets: Sequence[Secret],
        *,
        clock: Clock,
        log: Log,
        metrics: Metrics,
        retry_s: Sequence[float] = RETRY_S,
    ) -> None:
        self._outbox = outbox
        self._poster = poster
        self._tokens = tokens
        self._keys = [webhook_key(secret) for secret in secrets]
        self._clock = clock
        self._log = log
        self._retry_s = retry_s
        self._told = {name: metrics.counter("phalanx_webhooks", name) for name in OUTCOMES}

    @property
    def is_on(self) -> bool:
        """Whether there is a secret to sign with."""
        return bool(self._keys)

    def check(self, url: str) -> None:
        """Raise `InvalidRequest` for a URL that is not to be told, and while webhooks are off."""
        if not self.is_on:
            raise InvalidRequest("webhooks are off here: WEBHOOK_SECRET is not set", param="webhook")
        self._poster.check(url)

    async def announce(self, token: str, ended: Ended) -> None:
        """Keep a notice of a job's end, where the token with which it was queued names a URL. Raises `Unavailable`."""
        url = self._tokens.webhook(token, Task(ended.id, ended.operation))
        if not url:
            return
        if not self.is_on:
            self._told["dropped"].inc()
            self._log.error("a webhook is lost: this worker has no WEBHOOK_SECRET", job=ended.id)
            return
        body = msgspec.json.encode(self._message(ended))
        due_at = self._clock.now() + HEAD_START_S
        if await self._outbox.put(Notice(ended.id, url, body), due_at=due_at) == "full":
            self._told["dropped"].inc()
            self._log.error("a webhook is lost: too many wait already", job=ended.id, waiting=MAX_NOTICES)

    async def run(self) -> None:
        """Deliver notices until cancelled; one that is under way then is delivered again later."""
        busy: set[asyncio.Task[None]] = set()
        try:
            while True:
                found = await self._claim(AT_ONCE - len(busy))
                for notice in found:
                    task = asyncio.create_task(self._deliver(notice))
                    busy.add(task)
                    task.add_done_callback(busy.discard)
                if len(busy) >= AT_ONCE:
                    await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)
                elif not found:
                    await asyncio.sleep(LOOK_S)
        finally:
            for task in busy:
                task.cancel()
            await asyncio.gather(*busy, return_exceptions=True)

    def headers(self, notice: Notice) -> dict[str, str]:
        """Return what a message is signed with, now."""
        at = str(int(self._clock.now()))
        signed = b".".join((notice.id.encode(), at.encode(), notice.body))
        digests = (hmac.digest(key, signed, hashlib.sha256) for key in self._keys)
        signatures = " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
        return {"webhook-id": notice.id, "webhook-timestamp": at, "webhook-signature": signatures}

    async def _claim(self, room: int) -> Sequence[Notice]:
        try:
            return await self._outbox.claim(room, now=self._clock.now(), lease_s=LEASE_S) if room else []
        except PhalanxError as error:
            self._log.warning("webhooks wait", error=error.detail)
            await asyncio.sleep(WAIT_S)
            return []

    async def _deliver(self, notice: Notice) -> None:
        began = time.perf_counter()
        try:
            outcome, why = await self._post(notice)
            if outcome == "retried":
                delay_s = self._retry_s[notice.failures] * (1 + zlib.crc32(notice.id.encode()) % 100 / 1000)
                later = notice._replace(failures=notice.failures + 1)
                await self._outbox.put_back(later, due_at=self._clock.now() + delay_s)
            else:
                await self._outbox.remove(notice.id)
        except PhalanxError as error:
            # What could not be noted is delivered again.
            self._log.warning("a webhook is delivered again", job=notice.id, error=error.detail)
            return
        except Exception as bug:
            self._log.error("bug", job=notice.id, exc_info=bug)
            return
        self._told[outcome].inc()
        line: dict[str, Any] = {"job": notice.id, "attempt": notice.failures + 1, "why": why}
        line["ms"] = round((time.perf_counter() - began) * 1e3, 3)
        if outcome == "delivered":
            self._log.info("webhook delivered", **line)
        elif outcome == "retried":
            self._log.warning("webhook not taken, to be tried again", **line)
        else:
            self._log.error("a webhook is lost: given up", **line)

    async def _post(self, notice: Notice) -> tuple[str, str]:
        try:
            if await self._poster.post(notice.url, self.headers(notice), notice.body):
                return "delivered", ""
            return "failed", "the receiver answered 410: it wants no more"
        except PhalanxError as error:
            return ("retried" if notice.failures < len(self._retry_s) else "failed"), error.detail

    def _message(self, ended: Ended) -> JobNotice:
        is_short = len(ended.result) <= MAX_RESULT_BYTES
        has_failed = ended.error is not None
        data = JobNoticeData(
            id=ended.id, operation=ended.operation, queue=ended.queue, state="failed" if has_failed else "completed",
            result=msgspec.Raw(ended.result) if ended.result and is_short else msgspec.UNSET, error=ended.error,
            result_omitted=not is_short,
        )  # fmt: skip
        at = datetime.fromtimestamp(self._clock.now(), UTC).isoformat(timespec="milliseconds")
        return JobNotice(
            type="job.failed" if has_failed else "job.completed", timestamp=at.replace("+00:00", "Z"), data=data
        )
