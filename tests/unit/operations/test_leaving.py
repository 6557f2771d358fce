"""A client that leaves at any moment of its call takes nothing along: no permit, lease or quota, and no stored answer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import pytest
import structlog

from phalanx.contract.keys import ALL_SCOPES, KeyRecord
from phalanx.contract.usage import UsageEvent
from phalanx.errors import Unavailable
from phalanx.operations.calling import Entrance, call
from phalanx.operations.row import Operation
from phalanx.ports import RatePolicy
from phalanx.services.callers.audit_trail import AuditTrail
from phalanx.services.callers.keyring import Keyring
from phalanx.services.callers.keys import key_digest, new_key_text
from phalanx.services.callers.signing import signing_keys
from phalanx.services.callers.tokens import TokenVerifier
from phalanx.services.gate import Gate, OpenCalls
from phalanx.services.metering.periods import month_of
from phalanx.services.metering.quotas import SoftQuotas
from phalanx.services.metering.tiers import TierPolicy, tier_policies
from phalanx.services.ticket import Call, Credential, Ticket
from phalanx.settings import Secret, Settings
from phalanx.stores.memory.audit import MemoryAuditLog
from phalanx.stores.memory.clock import SystemClock
from phalanx.stores.memory.directory import MemoryDirectory
from phalanx.stores.memory.idempotency import MemoryIdempotencyStore
from phalanx.stores.memory.keys import MemoryKeyStore
from phalanx.stores.memory.limiter import MemoryLimiter
from phalanx.stores.memory.sessions import MemorySessionStore
from phalanx.stores.memory.usage import MemoryUsageLog

ORGANISATION = "ann@example.org"
STEPS = 40
"""More than any call here takes."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked."""

    text: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What is answered."""

    number: int


async def turns(count: int) -> None:
    """Let the loop turn, as one does that waits for a server."""
    for _ in range(count):
        await asyncio.sleep(0)


class Slow:
    """An adapter whose answers take a while, before and after it does what is asked."""

    def __init__(self, adapter: Any, *methods: str) -> None:
        self._adapter = adapter
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._adapter, name)
        if name not in self._methods:
            return method

        async def slow(*arguments: Any, **named: Any) -> Any:
            await turns(2)
            result = await method(*arguments, **named)
            await turns(2)
            return result

        return slow


class SlowUsage(MemoryUsageLog):
    """A journal behind a wire: what is on its way arrives, and whoever leaves waits for that."""

    async def record(self, events: Sequence[UsageEvent]) -> int:
        """Record after a while."""
        task = asyncio.create_task(self._record(events))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise

    async def _record(self, events: Sequence[UsageEvent]) -> int:
        await turns(3)
        return await super().record(events)


class Stage:
    """An entrance on slow adapters, with one key of a tier that has every kind of limit."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        directory = MemoryDirectory()
        self.keys, self.usage = MemoryKeyStore(directory), SlowUsage()
        self.limiter, self.open_calls = MemoryLimiter(self.clock), OpenCalls()
        self.store, self.audit = MemoryIdempotencyStore(self.clock), MemoryAuditLog()
        numbers, self.runs = itertools.count(1), itertools.count(1)
        log = structlog.get_logger()

        def new_id() -> str:
            return f"019a6f0e-5c1b-7000-8000-{next(numbers):012x}"

        sessions: Any = Slow(MemorySessionStore(directory), "standing")
        slow_keys: Any = Slow(self.keys, "find")
        tier = TierPolicy(rate=RatePolicy(6000, 100), concurrency=2, monthly_requests=1000, hard=True)
        self.gate = Gate(
            keyring=Keyring(slow_keys, sessions, self.clock, log=log),
            tokens=TokenVerifier(signing_keys(Settings(jwt_secret=Secret("s" * 40))), issuer="phalanx", clock=self.clock),
            limiter=self.limiter, soft_quotas=SoftQuotas(self.usage, self.clock), usage=self.usage,
            tiers={**tier_policies(Settings()), "free": tier}, clock=self.clock, new_id=new_id, key_prefix="fe_",
            open_calls=self.open_calls,
        )  # fmt: skip
        slow_store: Any = Slow(self.store, "finish")
        slow_audit: Any = Slow(self.audit, "append")
        trail = AuditTrail(slow_audit, clock=self.clock, new_id=new_id, log=log)
        services: Any = None
        self.entrance = Entrance(self.gate, services, slow_store, trail)

    async def open(self) -> None:
        """Make the key."""
        text = new_key_text("fe_")
        self.credential = Credential("key", Secret(text), "192.0.2.1")
        await self.keys.add(
            KeyRecord(
                id="key-1", digest=key_digest(text), hint=text[:9], email=ORGANISATION, organisation=ORGANISATION,
                name="n", tier="free", scopes=ALL_SCOPES, created_at=0.0,
            )
        )  # fmt: skip

    def operation(self, *, audit: bool = False) -> Operation:
        """Return a row that takes a while."""

        async def run(_: Any, ticket: Ticket, __: Question) -> Answer:
            await turns(3)
            ticket.meter.units += 1
            return Answer(number=next(self.runs))

        return Operation(
            name="test.ask", request=Question, response=Answer, scope="text", http="POST /ask", run=run, summary="",
            computed=True, audit=audit,
        )  # fmt: skip

    async def ask(self, operation: Operation, key: str | None = None) -> Any:
        """Call it."""

        async def read() -> Question:
            await turns(2)
            return Question()

        inbound = Call(self.credential, "request", idempotency_key=key, fingerprint=b"f" * 32)
        return await call(self.entrance, operation, inbound, read)

    async def leave_at(self, step: int, asking: Awaitable[Any]) -> bool:
        """Ask and leave after so many turns of the loop; whether the call was over by then."""
        task = asyncio.ensure_future(asking)
        await turns(step)
        was_over = task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # What goes on without its caller.
        await turns(STEPS)
        return was_over

    async def require_nothing_held(self) -> None:
        """Nothing is taken for a call that is over, and the counter says what was billed."""
        assert self.gate.calls.taken == 0
        assert self.open_calls.oldest() is None
        assert (self.limiter._leases, self.limiter._open, self.limiter._reserved) == ({}, {}, {})
        used = await self.limiter.used(ORGANISATION, month_of(self.clock.now()))
        assert used == (await self.usage.totals()).billed


def at_each_step(scenario: Callable[[Stage, int], Awaitable[bool]]) -> None:
    """Run a scenario that leaves one turn later each time, until the call is over by then."""

    async def run() -> None:
        for step in range(STEPS):
            stage = Stage()
            await stage.open()
            if await scenario(stage, step):
                assert step > 10, "the call was not slow"
                return
        raise AssertionError("the call never ended")

    asyncio.run(run())


def test_a_call_that_is_left_holds_nothing() -> None:
    """Wherever it was: looked up, let in, read, computed, recorded."""

    async def scenario(stage: Stage, step: int) -> bool:
        was_over = await stage.leave_at(step, stage.ask(stage.operation()))
        await stage.require_nothing_held()
        return was_over

    at_each_step(scenario)


def test_a_repetition_after_leaving_is_answered_and_billed_once() -> None:
    """What was billed is stored; what was not leaves its key free. No repetition meets a claim that nobody holds."""

    async def scenario(stage: Stage, step: int) -> bool:
        operation = stage.operation()
        was_over = await stage.leave_at(step, stage.ask(operation, "k-1"))
        billed = (await stage.usage.totals()).billed
        answer = await stage.ask(operation, "k-1")
        assert (await stage.usage.totals()).billed == 1
        assert billed == 0 or answer.number == 1
        assert stage.store._claims == {}
        await stage.require_nothing_held()
        return was_over

    at_each_step(scenario)


def test_an_act_is_in_the_audit_log_once_it_is_done() -> None:
    """Also when its caller left."""

    async def scenario(stage: Stage, step: int) -> bool:
        was_over = await stage.leave_at(step, stage.ask(stage.operation(audit=True)))
        entries = await stage.audit.list(organisation=None, action=None, before=None, limit=10)
        done = (await stage.usage.totals()).billed
        assert [entry.status for entry in entries].count("ok") == done
        await stage.require_nothing_held()
        return was_over

    at_each_step(scenario)


def test_an_answer_that_could_not_be_recorded_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key is free: the repetition is another call, and is billed."""

    async def scenario() -> None:
        stage = Stage()
        await stage.open()
        operation = stage.operation()

        async def fail(_: Sequence[UsageEvent]) -> int:
            raise Unavailable("the journal is full")

        with monkeypatch.context() as failing:
            failing.setattr(stage.usage, "record", fail)
            with pytest.raises(Unavailable, match="the journal is full"):
                await stage.ask(operation, "k-1")
        await stage.require_nothing_held()
        assert (await stage.ask(operation, "k-1")).number == 2
        await stage.require_nothing_held()

    asyncio.run(scenario())
