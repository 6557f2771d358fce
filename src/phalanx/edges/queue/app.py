"""The queue edge: a job is a call of a row, admitted, run and billed by `call()` like everywhere."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from phalanx.contract.jobs import JobError
from phalanx.edges.json_body import BodyDecoder, decode_json, encode_json, too_large
from phalanx.errors import Internal, NotFound, PhalanxError, Unavailable
from phalanx.operations import Entrance, Operation, call
from phalanx.services.jobs.fields import renamed
from phalanx.services.jobs.webhooks import Ended, Webhooks
from phalanx.services.ticket import Call, Credential, Follow, Task
from phalanx.settings import Secret
from phalanx.settings.queues import JobMapping
from phalanx.telemetry import Log, Metrics, RequestLog

CALLER = "_caller"
UNKNOWN = "unknown"
NO_TOKEN = "?"  # noqa: S105 - stands for none
"""Stands for what is no text, and so no token: the gate says so."""
RATE, LEAST_DELAY_S = 429, 0.1


class Delivery(NamedTuple):
    """A job as it was handed out. `event_id` is the same however often; `made` counts failures before, `size` is in bytes.

    `place` names its queue, `data` is its JSON, `key_id` the key that its queue is bound to.
    """

    id: str
    place: str
    name: str
    data: bytes
    event_id: str
    key_id: str = ""
    attempt: int = 1


class Done(NamedTuple):
    """The job is done; `result` is the operation's response as JSON."""

    result: bytes


class Failed(NamedTuple):
    """The job has failed. `again`: another attempt may do; a limit of the caller's (`is_limit`) is no attempt at all.

    `after_s` are seconds that must pass before the next.
    """

    error: PhalanxError
    again: bool = False
    is_limit: bool = False
    after_s: float = 0.0

    @property
    def reason(self) -> str:
        """What the job's producer reads: `{"code", "detail"}` as JSON."""
        return msgspec.json.encode({"code": self.error.code, "detail": self.error.detail}).decode()


Outcome = Done | Failed


class QueueEdge:
    """Runs deliveries. `elsewhere` are rows of services that this worker does not have, `mappings` by names of jobs."""

    def __init__(
        self,
        entrance: Entrance,
        operations: Mapping[str, Operation],
        *,
        elsewhere: Mapping[str, Operation],
        mappings: Mapping[str, JobMapping],
        metrics: Metrics,
        log: Log,
        requests: RequestLog | None = None,
        max_body_bytes: Callable[[Operation], int],
        on_finished: Callable[[str, str, float], None] = lambda operation, code, ms: None,
        webhooks: Webhooks | None = None,
    ) -> None:
        self._entrance = entrance
        self._rows = {name: row for name, row in operations.items() if row.job}
        self._elsewhere = {name for name, row in elsewhere.items() if row.job}
        self._decoders = {name: BodyDecoder(row.request) for name, row in self._rows.items()}
        self._outer: msgspec.json.Decoder[dict[str, msgspec.Raw]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
        self._mappings = mappings
        self._metrics = metrics
        self._log = log
        self._requests = requests or RequestLog(log)
        self._limits = {name: max_body_bytes(row) for name, row in self._rows.items()}
        self._on_finished = on_finished
        self._webhooks = webhooks

    async def run(self, delivery: Delivery, followed_by: Follow | None = None) -> Outcome:
        """Run a job once, telling `followed_by` how far it is. Only the end of the process, or of this task, keeps it from an outcome."""
        began = time.perf_counter()
        mapping = self._mappings.get(delivery.name)
        name = delivery.name if mapping is None else mapping.operation
        inbound: Call | None = None
        code = "ok"
        outcome: Outcome
        try:
            row = self._row(name)
            inbound, data = self._open(delivery, row, mapping)
            inbound.followed_by = followed_by
            outcome = Done(encode_json(await call(self._entrance, row, inbound, self._reader(row, data))))
        except PhalanxError as error:
            code = error.code
            outcome = _failed(error)
        except asyncio.CancelledError:
            code = "cancelled"
            raise
        except Exception as bug:
            self._log.error("bug", job=delivery.id, queue=delivery.place, operation=name, exc_info=bug)
            code, outcome = Internal.row.code, _failed(Internal())
        finally:
            self._finish(delivery, name, code, inbound, (time.perf_counter() - began) * 1e3)
        return outcome

    async def announce(self, delivery: Delivery, outcome: Outcome) -> None:
        """Have whoever queued a job told that it ends so, if they want to hear. Raises `Unavailable`."""
        if self._webhooks is None or b'"_caller"' not in delivery.data:
            return
        try:
            sent = decode_json(self._outer, delivery.data).get(CALLER)
        except PhalanxError:
            return
        if sent is None:
            return
        mapping = self._mappings.get(delivery.name)
        name, queue = mapping.operation if mapping else delivery.name, delivery.place.rpartition(":")[2]
        if isinstance(outcome, Done):
            ended = Ended(delivery.id, name, queue, result=outcome.result)
        else:
            error = JobError(code=outcome.error.code, detail=outcome.error.detail)
            ended = Ended(delivery.id, name, queue, error=error)
        await self._webhooks.announce(_token(sent), ended)

    def refuse(self, delivery: Delivery, error: PhalanxError) -> Failed:
        """Give up a job without running it."""
        self._finish(delivery, delivery.name, error.code, None, 0.0)
        return Failed(error)

    def _row(self, name: str) -> Operation:
        row = self._rows.get(name)
        if row is not None:
            return row
        if name in self._elsewhere:
            raise Unavailable(f"the service of {name!r} is not served by this worker")
        raise NotFound(f"there is no operation {name!r} that takes jobs")

    def _open(self, delivery: Delivery, row: Operation, mapping: JobMapping | None) -> tuple[Call, bytes]:
        """Return the call as the gate is to see it, and the request. Raises `TooLarge` and `InvalidRequest`."""
        data, token = delivery.data, ""
        if len(data) > self._limits[row.name]:
            raise too_large(len(data), self._limits[row.name])
        if mapping is not None or row.job_names or b'"_' in data or b"\\u" in data:
            fields = decode_json(self._outer, data)
            sent = fields.pop(CALLER, None)
            token = "" if sent is None else _token(sent)
            if mapping is not None:
                fields = _mapped(fields, mapping)
            data = msgspec.json.encode(renamed(fields, row.job_names))
        task = Task(delivery.id, row.name)
        if token or not delivery.key_id:
            credential = Credential("job", Secret(token), task=task)
        else:
            credential = Credential("queue", Secret(delivery.key_id), task=task)
        return Call(credential, delivery.event_id, id=delivery.event_id), data

    def _reader(self, row: Operation, data: bytes) -> Callable[[], Any]:
        async def read() -> Any:
            return await self._decoders[row.name].decode(data)

        return read

    def _finish(self, delivery: Delivery, name: str, code: str, inbound: Call | None, ms: float) -> None:
        label = name if name in self._rows or name in self._elsewhere else UNKNOWN
        self._metrics.counter("phalanx_requests", label, "queue", code).inc()
        self._metrics.histogram("phalanx_request_seconds", label).observe(ms / 1e3)
        self._on_finished(label, code, ms)
        line: dict[str, Any] = {
            "request_id": delivery.event_id, "method": "job", "route": delivery.place, "operation": label,
            "dialect": "queue", "job": delivery.id, "attempt": delivery.attempt, "code": code, "ms": round(ms, 3),
            "bytes_in": len(delivery.data),
        }  # fmt: skip
        if inbound is not None and inbound.caller is not None:
            line["organisation"], line["key_id"] = inbound.caller.organisation, inbound.caller.key_id
        meter = inbound.meter if inbound is not None else None
        if meter is not None:
            line |= {"tokens": meter.tokens, "items": meter.items, "cached": meter.cached, "model": meter.model}
        self._requests.write(line)


def _token(sent: msgspec.Raw) -> str:
    try:
        return msgspec.json.decode(sent, type=str) or NO_TOKEN
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return NO_TOKEN


def _mapped(fields: dict[str, msgspec.Raw], mapping: JobMapping) -> dict[str, msgspec.Raw]:
    renamed = {mapping.fields.get(name, name): value for name, value in fields.items() if name not in mapping.dropped}
    return {**mapping.defaults, **renamed}


def _failed(error: PhalanxError) -> Failed:
    again = error.row.retry != "no"
    after_s = error.retry_after_s or 0.0
    return Failed(error, again, error.row.http == RATE, max(after_s, LEAST_DELAY_S) if again else 0.0)


def event_id(place: str, job_id: str, made_ms: int) -> str:
    """Return the id of a job's usage event: a UUID of version 7 (RFC 9562 §5.7) that every attempt and redelivery has anew.

    Its instant, which decides the day that is billed, is `made_ms` (epoch milliseconds); its random bits are a digest.
    It is the event of the job's success; attempts that come to nothing are recorded apart.
    """
    digest = hashlib.sha256(f"{place}\x1f{job_id}\x1f{made_ms}".encode("utf-8", "surrogatepass")).digest()
    number = int.from_bytes(digest[:16], "big")
    time_bits = f"{made_ms & 0xFFFFFFFFFFFF:012x}"
    rand_a, rand_b = number >> 64 & 0xFFF, 0x8000 | number >> 48 & 0x3FFF
    return f"{time_bits[:8]}-{time_bits[8:]}-7{rand_a:03x}-{rand_b:04x}-{number & 0xFFFFFFFFFFFF:012x}"
