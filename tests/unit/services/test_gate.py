"""The gate, on memory adapters and a clock set by hand."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from typing import Any

import pytest
import structlog

from phalanx.contract.keys import ALL_SCOPES, KeyRecord
from phalanx.contract.users import OrganisationRecord, SessionRecord, UserRecord
from phalanx.errors import (
    ConcurrencyExceeded,
    Forbidden,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    SessionEnded,
    Unauthenticated,
)
from phalanx.services.callers.keyring import Keyring
from phalanx.services.callers.keys import key_digest, new_key_text
from phalanx.services.callers.ring import FRESH_S
from phalanx.services.callers.signing import signing_keys
from phalanx.services.callers.tokens import TokenSigner, TokenVerifier
from phalanx.services.gate import Gate, OpenCalls
from phalanx.services.metering.quotas import SoftQuotas
from phalanx.services.metering.tiers import TierPolicy, tier_policies
from phalanx.services.ticket import Call, Credential
from phalanx.settings import Secret, Settings
from phalanx.stores.memory.directory import MemoryDirectory
from phalanx.stores.memory.keys import MemoryKeyStore
from phalanx.stores.memory.limiter import MemoryLimiter
from phalanx.stores.memory.sessions import MemorySessionStore
from phalanx.stores.memory.usage import MemoryUsageLog
from phalanx.stores.memory.users import MemoryUserStore

NOW = 1_767_225_600.0


class HandClock:
    """Time that stands still until told."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> float:
        return NOW + self.seconds

    def monotonic(self) -> float:
        return self.seconds


SIGNING = signing_keys(Settings(jwt_secret=Secret("s" * 40)))


class House:
    """A gate with its stores."""

    def __init__(
        self, *, settings: Settings | None = None, tiers: dict[str, TierPolicy] | None = None, **options: Any
    ) -> None:
        self.clock = HandClock()
        self.directory = MemoryDirectory()
        self.keys = MemoryKeyStore(self.directory)
        self.sessions = MemorySessionStore(self.directory)
        self.usage = MemoryUsageLog()
        self.limiter = MemoryLimiter(self.clock)
        self.open_calls = OpenCalls()
        ids = itertools.count(1)
        self.gate = Gate(
            keyring=Keyring(self.keys, self.sessions, self.clock, log=structlog.get_logger()),
            tokens=TokenVerifier(SIGNING, issuer="phalanx", clock=self.clock), limiter=self.limiter,
            soft_quotas=SoftQuotas(self.usage, self.clock), usage=self.usage,
            tiers={**tier_policies(settings or Settings()), **(tiers or {})}, clock=self.clock,
            new_id=lambda: f"019a6f0e-5c1b-7000-8000-{next(ids):012x}", key_prefix="fe_", open_calls=self.open_calls, **options,
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

    async def session(self, **facts: Any) -> Credential:
        """Open a session of a new user and return its access token."""
        organisation = OrganisationRecord(id="o-1", name="o", tier="free", created_at=0.0)
        user = UserRecord(id="u-1", email="u@b", password_hash="", staff=False, created_at=0.0)
        await MemoryUserStore(self.directory).add(user, organisation, "admin")
        session = SessionRecord(
            **{
                "id": str(uuid.uuid4()), "user_id": "u-1", "organisation": "o-1", "counter": 0, "secret": b"s" * 32,
                "created_at": NOW, "refreshed_at": NOW, "expires_at": NOW + 10_000, "address": "", "user_agent": "", **facts,
            }
        )  # fmt: skip
        await self.sessions.add(session)
        signer = TokenSigner(SIGNING, issuer="phalanx", clock=self.clock)
        return Credential("key", signer.sign(session, expires_at=NOW + 9_000), "192.0.2.1")

    async def enter(self, credential: Credential, scope: Any = "text", *, metered: bool = True, **how: Any) -> Any:
        """Let a call in; the ticket's `call` is kept for those who look at what it was told."""
        call = self.call = Call(credential, "request")
        await self.gate.admit(call, scope, metered=metered)
        options = {"operation": "text.embed", "unit": "token", "computed": True, "streaming": False, **how}
        try:
            return self.gate.reserve(call, metered=metered, **options)
        except Overloaded:
            await self.gate.release(call)
            raise


def test_a_ticket_names_its_holder() -> None:
    """Caller and deadline."""

    async def scenario() -> None:
        house = House(request_timeout_s=5.0)
        ticket = await house.enter(await house.key())
        assert (ticket.tenant, ticket.deadline) == ("a@b", 1005.0)
        assert house.gate.calls.taken == 1
        assert (await house.enter(await house.key(), times=8)).deadline == 1040.0

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


def test_a_revocation_counts_at_once_where_it_is_heard_and_within_the_keys_freshness_elsewhere() -> None:
    """The ring asks the store again."""

    async def scenario() -> None:
        house = House()
        credential = await house.key()
        await house.enter(credential)
        await house.keys.revoke(credential.text[-6:], at=NOW)
        await house.enter(credential)
        house.clock.seconds += FRESH_S + 0.01
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
        assert house.open_calls.oldest() is None
        assert (await house.usage.totals()).requests == 1

    asyncio.run(scenario())


def test_a_new_month_is_a_new_count() -> None:
    """The quota is per period."""

    async def scenario() -> None:
        house = House(settings=Settings(free_tier_limit=1, rate_limit_enabled=False))
        credential = await house.key(tier="free")
        await house.gate.settle(await house.enter(credential), status="ok", computed=True)
        house.clock.seconds += 31 * 86400
        grant = (await house.enter(credential)).grant
        assert grant is not None
        assert grant.period == "2026-02"

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


def test_a_full_worker_refuses_before_it_looks_at_the_key() -> None:
    """A refusal costs nothing."""
    house = House(max_concurrent=1)
    house.gate.calls.take()
    with pytest.raises(Overloaded):
        house.gate.refuse_when_full()


def test_a_session_is_a_caller_like_a_key() -> None:
    """With its organisation's tier, its role's scopes, and no key; ended, expired or unknown it is over."""

    async def scenario() -> None:
        house = House()
        credential = await house.session()
        ticket = await house.enter(credential, scope="keys")
        caller = ticket.caller
        assert (caller.organisation, caller.user_id, caller.key_id, caller.tier) == ("o-1", "u-1", "", "free")
        await house.gate.settle(ticket, status="ok", computed=True)
        with pytest.raises(Forbidden):
            await house.enter(credential, scope="admin")
        await house.sessions.end(caller.session_id, at=NOW)
        house.gate._keyring.forget([f"session:{caller.session_id}"])
        with pytest.raises(SessionEnded):
            await house.enter(credential)

    asyncio.run(scenario())


def test_the_calls_open_at_once_are_limited_by_tier() -> None:
    """What leaves makes room; what is refused takes nothing of the rate."""

    async def scenario() -> None:
        house = House(tiers={"free": TierPolicy(None, 2, None)})
        credential = await house.key(tier="free")
        first, _ = [await house.enter(credential) for _ in range(2)]
        with pytest.raises(ConcurrencyExceeded, match="2 calls may be open"):
            await house.enter(credential)
        await house.gate.settle(first, status="ok", computed=True)
        await house.enter(credential)

    asyncio.run(scenario())


def test_calls_about_keys_take_no_quota_and_are_not_billed() -> None:
    """Whoever used up the month can still look why."""

    async def scenario() -> None:
        house = House(settings=Settings(free_tier_limit=1, rate_limit_enabled=False))
        credential = await house.key(tier="free")
        await house.gate.settle(await house.enter(credential), status="ok", computed=True)
        await house.gate.settle(await house.enter(credential, metered=False), status="ok", computed=True)
        totals = await house.usage.totals()
        assert (totals.requests, totals.billed) == (2, 1)

    asyncio.run(scenario())


def test_an_admitted_call_without_a_ticket_gives_back_what_it_took() -> None:
    """A body that cannot be read costs no quota."""

    async def scenario() -> None:
        house = House(settings=Settings(free_tier_limit=1, rate_limit_enabled=False))
        credential = await house.key(tier="free")
        for _ in range(3):
            call = Call(credential, "request")
            await house.gate.admit(call, "text")
            await house.gate.release(call)
        await house.enter(credential)

    asyncio.run(scenario())


def test_a_passed_soft_quota_is_said() -> None:
    """Paid callers go on, and are told."""

    async def scenario() -> None:
        house = House(settings=Settings(pro_tier_limit=1))
        credential = await house.key(tier="pro")
        await house.enter(credential)
        assert house.call.warning == ""
        await house.enter(credential)
        assert "2 requests were made this month, 1 are in the plan" in house.call.warning
        assert house.call.grant is None

    asyncio.run(scenario())


def test_open_rows_need_no_credential_and_are_limited_by_network() -> None:
    """All addresses of one IPv6 network share a rate, even when a key is sent along."""

    async def scenario() -> None:
        house = House(settings=Settings(rate_limit_burst=1))
        key = (await house.key()).text
        await house.enter(Credential("none", address="2001:db8::1"), scope="open", metered=False)
        with pytest.raises(RateLimited):
            await house.enter(Credential("key", key, address="2001:db8::2"), scope="open", metered=False)
        await house.enter(Credential("none", address="2001:db8:0:1::1"), scope="open", metered=False)

    asyncio.run(scenario())


def test_the_oldest_open_call_is_known() -> None:
    """The ledger is complete up to there."""

    async def scenario() -> None:
        house = House()
        credential = await house.key()
        first = await house.enter(credential)
        house.clock.seconds += 5
        second = await house.enter(credential)
        assert house.open_calls.oldest() == NOW + 1000
        await house.gate.settle(first, status="ok", computed=True)
        assert house.open_calls.oldest() == NOW + 1005
        await house.gate.settle(second, status="ok", computed=True)
        assert house.open_calls.oldest() is None

    asyncio.run(scenario())
