"""The gate, on memory adapters and a clock set by hand."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from phalanx.contract.keys import ALL_SCOPES, KeyRecord
from phalanx.errors import Forbidden, Overloaded, QuotaExceeded, RateLimited, Unauthenticated
from phalanx.services.gate import Gate
from phalanx.services.keyring import FRESH_S, REFRESH_S, Keyring
from phalanx.services.keys import key_digest, new_key_text
from phalanx.services.ticket import Call, Credential
from phalanx.services.tiers import tier_policies
from phalanx.settings import Secret, Settings
from phalanx.stores.memory.keys import MemoryKeyStore
from phalanx.stores.memory.limiter import MemoryRateLimiter
from phalanx.stores.memory.quota import MemoryQuotaStore
from phalanx.stores.memory.usage import MemoryUsageLog

NOW = 1_767_225_600.0


class HandClock:
    """Time that stands still until told."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return NOW + self.seconds

    def monotonic(self) -> float:
        return self.seconds


class House:
    """A gate with its stores."""

    def __init__(self, *, settings: Settings | None = None, **options: Any) -> None:
        self.clock = HandClock()
        self.keys = MemoryKeyStore()
        self.usage = MemoryUsageLog()
        self.quotas = MemoryQuotaStore(self.clock)
        ids = itertools.count()
        self.gate = Gate(
            keyring=Keyring(self.keys, self.clock), limiter=MemoryRateLimiter(self.clock), quotas=self.quotas,
            usage=self.usage, tiers=tier_policies(settings or Settings()), clock=self.clock,
            new_id=lambda: f"id-{next(ids)}", key_prefix="fe_", **options,
        )  # fmt: skip

    async def key(self, **facts: Any) -> Credential:
        text = new_key_text("fe_")
        record = KeyRecord(
            **{
                "id": text[-6:], "digest": key_digest(text), "hint": text[:9], "email": "a@b", "organisation": "a@b",
                "name": "n", "tier": "scale", "scopes": ALL_SCOPES, "created_at": 0.0, **facts,
            }
        )  # fmt: skip
        await self.keys.add(record)
        return Credential("key", Secret(text), "192.0.2.1")

    async def enter(self, credential: Credential, scope: Any = "text", **how: Any) -> Any:
        call = Call(credential, "request")
        caller = await self.gate.admit(call, scope)
        options = {"operation": "text.embed", "unit": "token", "computed": True, "streaming": False, **how}
        return await self.gate.reserve(caller, **options)


def test_a_ticket_names_its_holder() -> None:
    """Caller, deadline, month."""

    async def scenario() -> None:
        house = House(request_timeout_s=5.0)
        ticket = await house.enter(await house.key())
        assert (ticket.tenant, ticket.deadline, ticket.period) == ("a@b", 1005.0, "2026-01")
        assert house.gate.calls.taken == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("facts", "message"), [({"revoked_at": 1.0}, "revoked"), ({"expires_at": NOW + 999}, "expired")]
)
def test_a_dead_key_is_refused(facts: dict[str, float], message: str) -> None:
    """Revoked or expired."""

    async def scenario() -> None:
        house = House()
        with pytest.raises(Unauthenticated, match=message):
            await house.enter(await house.key(**facts))

    asyncio.run(scenario())


def test_a_revocation_counts_within_the_keys_freshness() -> None:
    """The ring asks the store again."""

    async def scenario() -> None:
        house = House()
        credential = await house.key()
        await house.enter(credential)
        await house.keys.revoke(credential.text[-6:], at=NOW)
        house.clock.seconds += FRESH_S - 0.01
        await house.enter(credential)
        house.clock.seconds += 0.02
        with pytest.raises(Unauthenticated, match="revoked"):
            await house.enter(credential)

    asyncio.run(scenario())


def test_a_missing_scope_is_forbidden() -> None:
    """And named."""

    async def scenario() -> None:
        house = House()
        with pytest.raises(Forbidden, match="'faces'"):
            await house.enter(await house.key(scopes=("text",)), scope="faces")

    asyncio.run(scenario())


def test_a_refused_call_leaves_no_permit_behind() -> None:
    """Over the quota: the permit taken before is given back, and nothing is billed."""

    async def scenario() -> None:
        house = House(settings=Settings(free_tier_limit=1, rate_limit_enabled=False))
        credential = await house.key(tier="free")
        ticket = await house.enter(credential)
        await house.gate.settle(ticket, status="ok", computed=True)
        with pytest.raises(QuotaExceeded) as caught:
            await house.enter(credential)
        assert caught.value.retry_after_s == pytest.approx(31 * 86400 - 1000)
        assert house.gate.calls.taken == 0
        assert (await house.usage.totals()).requests == 1

    asyncio.run(scenario())


def test_a_new_month_is_a_new_count() -> None:
    """The quota is per period."""

    async def scenario() -> None:
        house = House(settings=Settings(free_tier_limit=1, rate_limit_enabled=False))
        credential = await house.key(tier="free")
        await house.gate.settle(await house.enter(credential), status="ok", computed=True)
        house.clock.seconds += 31 * 86400
        assert (await house.enter(credential)).period == "2026-02"

    asyncio.run(scenario())


def test_parallel_calls_never_pass_a_hard_quota() -> None:
    """A hundred at once, ten allowed."""

    async def scenario() -> None:
        house = House(settings=Settings(free_tier_limit=10, rate_limit_enabled=False), max_concurrent=1000)
        credential = await house.key(tier="free")
        results = await asyncio.gather(*(house.enter(credential) for _ in range(100)), return_exceptions=True)
        assert sum(not isinstance(result, BaseException) for result in results) == 10

    asyncio.run(scenario())


def test_paid_limits_warn_unless_enforced() -> None:
    """ENFORCE_PAID_LIMITS decides."""

    async def scenario(enforced: bool) -> bool:
        house = House(settings=Settings(pro_tier_limit=0, enforce_paid_limits=enforced))
        try:
            await house.enter(await house.key(tier="pro"))
        except QuotaExceeded:
            return False
        return True

    assert asyncio.run(scenario(False)) is True
    assert asyncio.run(scenario(True)) is False


def test_a_rate_refusal_tells_when() -> None:
    """And spends neither quota nor permit."""

    async def scenario() -> None:
        house = House(settings=Settings(rate_limit_burst=2))
        credential = await house.key(tier="free")
        await house.enter(credential)
        await house.enter(credential)
        with pytest.raises(RateLimited) as caught:
            await house.enter(credential)
        assert caught.value.retry_after_s == pytest.approx(1.0, abs=0.05)
        assert house.gate.calls.taken == 2

    asyncio.run(scenario())


def test_streams_have_permits_of_their_own() -> None:
    """Full of streams, the worker still computes."""

    async def scenario() -> None:
        house = House(max_streams=1, max_concurrent=1)
        credential = await house.key()
        stream = await house.enter(credential, streaming=True, computed=False)
        assert stream.deadline == float("inf")
        with pytest.raises(Overloaded):
            await house.enter(credential, streaming=True, computed=False)
        await house.enter(credential)
        await house.gate.settle(stream, status="ok", computed=False)
        assert (house.gate.streams.taken, house.gate.calls.taken) == (0, 1)

    asyncio.run(scenario())


def test_the_operator_is_not_billed() -> None:
    """Whoever runs the command line is no customer."""

    async def scenario() -> None:
        house = House()
        await house.gate.settle(await house.enter(Credential("operator")), status="ok", computed=True)
        assert (await house.usage.totals()).requests == 0

    asyncio.run(scenario())


def test_strangers_need_a_scope_of_their_own() -> None:
    """ANONYMOUS_SCOPES opens some rows, by address; a row without a scope is open to whoever is let in at all."""

    async def scenario() -> None:
        house = House(anonymous_scopes=("faces",))
        stranger = Credential("none", address="192.0.2.9")
        ticket = await house.enter(stranger, scope="faces")
        assert (ticket.caller.subject, ticket.caller.tier) == ("address:192.0.2.9", "anonymous")
        with pytest.raises(Unauthenticated):
            await house.enter(stranger, scope="text")
        closed = House()
        with pytest.raises(Unauthenticated):
            await closed.enter(stranger, scope=None)

    asyncio.run(scenario())


def test_calls_that_wait_for_one_key_share_a_look_up() -> None:
    """A thousand calls of a key that was idle ask the store once, and one that leaves does not hurt the others."""

    class Counted(MemoryKeyStore):
        asked = 0

        async def find(self, digest: str) -> KeyRecord | None:
            self.asked += 1
            await asyncio.sleep(0.01)
            return await super().find(digest)

    async def scenario() -> None:
        house = House(max_concurrent=2000)
        house.keys = Counted()
        house.gate._keyring = Keyring(house.keys, house.clock)
        credential = await house.key()
        calls = [asyncio.create_task(house.enter(credential)) for _ in range(1000)]
        await asyncio.sleep(0)
        calls[0].cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(not isinstance(result, BaseException) for result in results) == 999
        assert house.keys.asked == 1

    asyncio.run(scenario())


def test_a_key_in_use_is_asked_for_before_it_is_too_old() -> None:
    """The hot path does not wait for the store, and a revocation still counts within a second."""

    async def scenario() -> None:
        house = House()
        credential = await house.key()
        ring = house.gate._keyring
        digest = key_digest(credential.text)
        await house.enter(credential)
        watching = asyncio.create_task(ring.watch())
        await house.keys.revoke(credential.text[-6:], at=NOW)
        await asyncio.sleep(REFRESH_S * 1.5)
        found = await ring.find(digest)
        assert found is not None
        assert found.revoked_at == NOW
        watching.cancel()

    asyncio.run(scenario())


def test_a_full_worker_refuses_before_it_looks_at_the_key() -> None:
    """A refusal costs nothing."""
    house = House(max_concurrent=1)
    house.gate.calls.take()
    with pytest.raises(Overloaded):
        house.gate.refuse_when_full()
