"""Jobs in BullMQ's queues in Redis, which `phalanx work` and any worker of BullMQ's take."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import bullmq
import msgspec
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from phalanx.contract.jobs import JobState
from phalanx.errors import Conflict
from phalanx.ports.jobs import JobRecord, NewJob
from phalanx.settings import Secret
from phalanx.settings.queues import QueueSpec
from phalanx.stores.redis.client import redis_failures
from phalanx.stores.redis.job_events import JobEvents

CALLER = "_caller"
KEPT_S = 7 * 86_400
"""For how long a job that ended is kept, in seconds."""
INDEX_S = 45 * 86_400
MAX_LISTED = 10_000
ANSWER_S = 5.0
STATES: dict[str, JobState] = {
    "waiting": "waiting", "prioritized": "waiting", "paused": "waiting", "waiting-children": "waiting",
    "delayed": "delayed", "active": "active", "completed": "completed", "failed": "failed",
}  # fmt: skip
ENDED = ("completed", "failed")
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


class BullJobs:
    """A `JobQueue` over BullMQ's keys. Beside them stand, by us, an organisation's jobs in order, and a job's place."""

    def __init__(self, url: Secret, specs: Sequence[QueueSpec]) -> None:
        self._queues: dict[str, Any] = {}
        for spec in specs:
            queue = bullmq.Queue(spec.name, {"connection": str(url), "prefix": spec.prefix, "skipVersionCheck": True})
            known = queue.backend.conn.connection_pool.connection_kwargs
            known |= {"socket_timeout": ANSWER_S, "socket_connect_timeout": ANSWER_S, "retry_on_error": []}
            known |= {"retry": Retry(NoBackoff(), 0), "encoding_errors": "replace"}
            self._queues.setdefault(spec.name, queue)
        self._redis = next(iter(self._queues.values())).backend.conn
        self._events = {
            name: JobEvents(str(url), queue.backend.toKey("events")) for name, queue in self._queues.items()
        }

    async def close(self) -> None:
        """Close the connections."""
        for events in self._events.values():
            await events.close()
        for queue in self._queues.values():
            await queue.close()

    async def add(self, job: NewJob) -> bool:
        """Queue a job; BullMQ adds none of an id that it has."""
        queue = self._queues[job.queue]
        data = {**msgspec.json.decode(job.request), CALLER: job.token}
        options: dict[str, Any] = {
            "jobId": job.id, "timestamp": round(job.made_at * 1000), "delay": round(job.delay_s * 1000),
            "removeOnComplete": {"age": KEPT_S}, "removeOnFail": {"age": KEPT_S},
        }  # fmt: skip
        if job.priority:
            options["priority"] = job.priority
        if job.attempts:
            options["attempts"] = job.attempts
        with redis_failures():
            if await self._place(job.organisation, job.id) is not None:
                return False
            await queue.add(job.operation, data, options)
            listed = _list_key(job.organisation)
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.set(_place_key(job.id), f"{job.queue}\x1f{job.organisation}", ex=INDEX_S)
                pipe.zadd(listed, {job.id: round(job.made_at * 1000)})
                pipe.zremrangebyrank(listed, 0, -MAX_LISTED - 1)
                pipe.expire(listed, INDEX_S)
                await pipe.execute()
        return True

    async def find(self, organisation: str, job_id: str) -> JobRecord | None:
        """Return a job."""
        with redis_failures():
            place = await self._place(organisation, job_id)
            return None if place is None else await self._record(organisation, place, job_id)

    async def list(self, organisation: str, *, after: str | None = None, limit: int = 100) -> list[JobRecord]:
        """Return jobs, newest first; those that BullMQ has let go are left out, and forgotten."""
        listed = _list_key(organisation)
        found: list[JobRecord] = []
        with redis_failures():
            begin = 0
            if after is not None:
                rank = await self._redis.zrevrank(listed, after)
                if rank is None:
                    return []
                begin = rank + 1
            while len(found) < limit:
                ids = await self._redis.zrevrange(listed, begin, begin + limit - 1)
                if not ids:
                    break
                for job_id in ids[: limit - len(found)]:
                    begin += 1
                    place = await self._place(organisation, job_id)
                    record = None if place is None else await self._record(organisation, place, job_id)
                    if record is None:
                        await self._redis.zrem(listed, job_id)
                        begin -= 1
                    else:
                        found.append(record._replace(result=b""))
        return found

    async def remove(self, organisation: str, job_id: str) -> JobRecord | None:
        """Forget a job; who runs it has its lock."""
        record = await self.find(organisation, job_id)
        if record is None:
            return None
        with redis_failures():
            if record.state == "active" or not await self._queues[record.queue].backend.remove(job_id, True):
                raise Conflict("the job runs; it can no longer be cancelled")
            await self._redis.delete(_place_key(job_id))
            await self._redis.zrem(_list_key(organisation), job_id)
        return record

    def watch(self, job: JobRecord) -> AbstractContextManager[asyncio.Event]:
        """Tell of what BullMQ's events say of a job."""
        return self._events[job.queue].watch(job.id)

    async def _place(self, organisation: str, job_id: str) -> str | None:
        """Return the queue of an organisation's job."""
        known = await self._redis.get(_place_key(job_id))
        queue, _, owner = (known or "").partition("\x1f")
        return queue if owner == organisation and queue in self._queues else None

    async def _record(self, organisation: str, queue: str, job_id: str) -> JobRecord | None:
        backend = self._queues[queue].backend
        # In this order: a job that is said to have ended has what it ended with.
        state = STATES.get(await backend.getState(job_id), "waiting")
        raw = await self._redis.hgetall(backend.toKey(job_id))
        if not raw:
            return None
        # BullMQ counts the attempt that succeeded, too.
        failures = max(0, int(_number(raw.get("atm"))) - ("returnvalue" in raw))
        return JobRecord(
            job_id, organisation, raw.get("name", ""), queue, state,
            _request(raw.get("data", "")), _number(raw.get("timestamp")) / 1e3, failures,
            _instant(raw.get("processedOn")), _instant(raw.get("finishedOn")) if state in ENDED else None,
            str(raw.get("returnvalue") or "").encode() if state == "completed" else b"", str(raw.get("failedReason") or ""),
            str(raw.get("progress") or "").encode(),
        )  # fmt: skip


def _request(data: str) -> bytes:
    """Return what was asked, without the token. What others left in Redis may be no JSON: its worker says so, not who looks."""
    try:
        fields = _fields.decode(data)
    except msgspec.MsgspecError:
        return b"{}"
    fields.pop(CALLER, None)
    return msgspec.json.encode(fields)


def _number(text: str | None) -> float:
    try:
        number = float(text or 0)
    except ValueError:
        return 0.0
    return number if math.isfinite(number) else 0.0


def _instant(ms: str | None) -> float | None:
    return _number(ms) / 1e3 if ms else None


def _place_key(job_id: str) -> str:
    return f"phalanx:job:{job_id}"


def _list_key(organisation: str) -> str:
    return f"phalanx:jobs:{organisation}"
