"""`call()`: the only way in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

import msgspec

from phalanx.contract.usage import OK
from phalanx.contract.vector import pack_array, unpack_array
from phalanx.errors import Cancelled, Internal, PhalanxError
from phalanx.operations.patience import times
from phalanx.operations.row import Kind, Operation, Services
from phalanx.ports import IdempotencyStore
from phalanx.services.callers.audit_trail import AuditTrail
from phalanx.services.gate import Gate
from phalanx.services.ticket import Call, Ticket


class Entrance(NamedTuple):
    """What `call` needs of the running worker."""

    gate: Gate
    services: Services
    idempotency: IdempotencyStore
    audit: AuditTrail


Read = Callable[[], Awaitable[Any]]
"""Reads and decodes the caller's request, bounded; for a client stream it returns an async iterator of requests."""


async def call(entrance: Entrance, operation: Operation, inbound: Call, read: Read) -> Any:
    """Let one call in, run it, bill it. Returns the response, or a `Stream` of responses.

    The body is read only once the caller is known and within its limits. The ticket of a stream stays open until the
    stream ends or is closed; whoever gets one must do one or the other.
    """
    gate = entrance.gate
    if operation.computed:
        gate.refuse_when_full()
    await gate.admit(inbound, operation.scope, metered=operation.metered)
    try:
        inbound.request = await read()
        if operation.kind is not Kind.UNARY:
            _reserve(entrance, operation, inbound)
            return Stream(entrance, operation, inbound)
        if inbound.idempotency_key is None:
            _reserve(entrance, operation, inbound)
            return await _unary(entrance, operation, inbound)
        return await _once(entrance, operation, inbound, inbound.idempotency_key)
    finally:
        if inbound.ticket is None:
            await gate.release(inbound)


async def _once(entrance: Entrance, operation: Operation, inbound: Call, idempotency_key: str) -> Any:
    """Run a call unless the same caller ran the same one under its key; then return what that one answered.

    Others of the organisation have keys of their own: an answer may hold what they may not see, or end who asked.
    """
    caller = inbound.caller
    assert caller is not None
    key = "\x1f".join((caller.subject, caller.user_id or caller.key_id, operation.name, idempotency_key))
    stored = await entrance.idempotency.begin(key, inbound.fingerprint)
    if stored is not None:
        inbound.replayed = True
        answer_then = msgspec.msgpack.decode(stored, type=operation.response, ext_hook=unpack_array)
        inbound.simulated = getattr(answer_then, "simulated", False)
        return answer_then
    try:
        _reserve(entrance, operation, inbound)
    except PhalanxError:
        await _to_its_end(entrance.idempotency.finish(key, None))
        raise
    return await _unary(entrance, operation, inbound, key)


def _reserve(entrance: Entrance, operation: Operation, inbound: Call) -> None:
    inbound.ticket = entrance.gate.reserve(
        inbound, operation=operation.name, unit=operation.unit, computed=operation.computed,
        streaming=operation.kind is not Kind.UNARY, metered=operation.metered, times=times(inbound.request),
    )  # fmt: skip


async def _unary(entrance: Entrance, operation: Operation, inbound: Call, key: str | None = None) -> Any:
    """Run a call that has its ticket. `key` is what its answer is stored under."""
    assert inbound.ticket is not None
    status, response = Internal.row.code, None
    try:
        response = _marked(inbound.ticket, await operation.run(entrance.services, inbound.ticket, inbound.request))
        status = OK
    except BaseException as error:
        status = _status_of(error)
        raise
    finally:
        ending = _end(entrance, operation, inbound, status, key, response)
        # What is done is noted, though the client leaves meanwhile.
        await (_to_its_end(ending) if key is not None or operation.audit else ending)
    return response


async def _end(
    entrance: Entrance, operation: Operation, inbound: Call, status: str, key: str | None, response: Any
) -> None:
    """Bill a call, note the act, and store the answer; one that could not be recorded is not given, nor stored."""
    assert inbound.ticket is not None
    answer = None
    try:
        try:
            await entrance.gate.settle(inbound.ticket, status=status, computed=operation.computed)
        finally:
            # The act is done, also when its usage could not be recorded.
            if operation.audit:
                await entrance.audit.record(inbound, operation.name, status)
        if key is not None and status == OK:
            answer = msgspec.msgpack.encode(response, enc_hook=pack_array)
    finally:
        if key is not None:
            await entrance.idempotency.finish(key, answer)


_ending: set[asyncio.Task[None]] = set()
"""What goes on after those who waited for it have left; the loop itself keeps no task alive."""


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for some work, which is done also if whoever waits is cancelled."""
    task = asyncio.create_task(work)
    _ending.add(task)
    task.add_done_callback(_look_at_end)
    await asyncio.shield(task)


def _look_at_end(task: asyncio.Task[None]) -> None:
    """Take note of a failure that nobody waited for, lest the loop complain."""
    _ending.discard(task)
    if not task.cancelled():
        task.exception()


class Stream:
    """The answers of a stream. An async generator would not do: closed before its first step, it runs no `finally`."""

    def __init__(self, entrance: Entrance, operation: Operation, inbound: Call) -> None:
        assert inbound.ticket is not None
        self._entrance = entrance
        self._operation = operation
        self._ticket: Ticket | None = inbound.ticket
        self._answers = operation.run(entrance.services, inbound.ticket, inbound.request)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        try:
            answer = await anext(self._answers)
            return _marked(self._ticket, answer) if self._ticket else answer
        except StopAsyncIteration:
            await self._settle(OK)
            raise
        except BaseException as error:
            await self._settle(_status_of(error))
            raise

    async def aclose(self) -> None:
        """End the stream; one that has not come to its end counts as cancelled."""
        try:
            await self._answers.aclose()
        finally:
            await self._settle(Cancelled.row.code)

    async def _settle(self, status: str) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            await self._entrance.gate.settle(ticket, status=status, computed=self._operation.computed)


def _marked(ticket: Ticket, response: Any) -> Any:
    """Return a response that says so if a stand-in has answered: here, so that no service can forget it."""
    if ticket.meter.simulated and "simulated" in getattr(response, "__struct_fields__", ()):
        return msgspec.structs.replace(response, simulated=True)
    return response


def _status_of(error: BaseException) -> str:
    if isinstance(error, PhalanxError):
        return error.code
    return Cancelled.row.code if isinstance(error, asyncio.CancelledError) else Internal.row.code
