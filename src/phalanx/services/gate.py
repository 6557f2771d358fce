"""The gate: the one place where a call is let in, and where it is billed when it leaves.

Order: authenticate, scope, rate (`admit`); then, once the edge has read the body, quota and a permit (`reserve`);
at the end `settle`, on failure and cancellation too. Only `operations.call` uses the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from phalanx.contract.keys import ALL_SCOPES, Scope
from phalanx.contract.usage import UsageEvent
from phalanx.errors import Forbidden, Overloaded, QuotaExceeded, RateLimited, Unauthenticated
from phalanx.ports import Clock, QuotaStore, RateLimiter, UsageLog
from phalanx.services.keyring import Keyring
from phalanx.services.keys import is_well_formed, key_digest
from phalanx.services.periods import month_end, month_of
from phalanx.services.ticket import Call, Caller, Credential, Meter, Ticket
from phalanx.services.tiers import TierPolicy

EVERY_SCOPE = frozenset(ALL_SCOPES)
OPERATOR = Caller("operator", "operator", "operator", "operator", EVERY_SCOPE)
NO_DEADLINE = float("inf")


class Permits:
    """Room for calls under way at once in this worker."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    def take(self) -> None:
        """Take one; raises `Overloaded` when none is left."""
        self.require()
        self.taken += 1

    def require(self) -> None:
        """Raise `Overloaded` when none is left."""
        if self.taken >= self.limit:
            raise Overloaded(f"{self.taken} calls are under way, as many as this worker takes", retry_after_s=1.0)

    def give(self) -> None:
        """Give one back."""
        self.taken -= 1


class Gate:
    """Decides who may call what, how often and how much; see the module."""

    def __init__(
        self,
        *,
        keyring: Keyring,
        limiter: RateLimiter,
        quotas: QuotaStore,
        usage: UsageLog,
        tiers: Mapping[str, TierPolicy],
        clock: Clock,
        new_id: Callable[[], str],
        key_prefix: str,
        anonymous_scopes: tuple[Scope, ...] = (),
        open_to_all: bool = False,
        request_timeout_s: float = 5.0,
        max_concurrent: int = 100,
        max_streams: int = 256,
    ) -> None:
        self._keyring = keyring
        self._limiter = limiter
        self._quotas = quotas
        self._usage = usage
        self._tiers = tiers
        self._clock = clock
        self._new_id = new_id
        self._key_prefix = key_prefix
        self._anonymous = frozenset(anonymous_scopes)
        self._open_to_all = open_to_all
        self._timeout_s = request_timeout_s
        self.calls = Permits(max_concurrent)
        self.streams = Permits(max_streams)

    def refuse_when_full(self) -> None:
        """Raise `Overloaded` while there is no permit for a computed call: said before anything is spent on it."""
        self.calls.require()

    async def admit(self, call: Call, scope: Scope | None) -> Caller:
        """Find out who calls, whether they may, and take one request of their rate. No body has been read yet.

        `scope` None means any caller with a credential. Raises `Unauthenticated`, `Forbidden` or `RateLimited`.
        """
        caller = await self._authenticate(call.credential)
        call.caller = caller
        if scope is not None and scope not in caller.scopes:
            if not caller.key_id:
                raise Unauthenticated("send an API key as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'")
            raise Forbidden(f"this key lacks the scope {scope!r}; it has {', '.join(sorted(caller.scopes)) or 'none'}")
        policy = self._tiers[caller.tier].rate
        if policy is not None:
            call.policy = policy
            call.rate = await self._limiter.take(caller.subject, policy)
            if not call.rate.allowed:
                raise RateLimited(
                    f"{policy.per_minute} requests a minute are allowed, with a burst of {policy.burst}",
                    retry_after_s=call.rate.retry_after_s,
                )
        return caller

    async def reserve(self, caller: Caller, *, operation: str, unit: str, computed: bool, streaming: bool) -> Ticket:
        """Take a permit and one request of the month's quota. Raises `Overloaded` or `QuotaExceeded`."""
        permits = self._permits(computed, streaming)
        if permits is not None:
            permits.take()
        try:
            now = self._clock.now()
            period = month_of(now)
            await self._reserve_quota(caller, period)
        except BaseException:
            if permits is not None:
                permits.give()
            raise
        started = self._clock.monotonic()
        deadline = started + self._timeout_s if computed and not streaming else NO_DEADLINE
        return Ticket(self._new_id(), caller, operation, unit, deadline, now, started, period, streaming, Meter())

    async def settle(self, ticket: Ticket, *, status: str, computed: bool) -> None:
        """Close a ticket: record its event, give back the permit, and the quota of a call that is not billed."""
        permits = self._permits(computed, ticket.streaming)
        if permits is not None:
            permits.give()
        caller, meter = ticket.caller, ticket.meter
        if status != "ok" and self._tiers[caller.tier].hard:
            await self._quotas.settle(caller.subject, ticket.period, reserved=1, actual=0)
        if caller.is_operator:
            return
        event = UsageEvent(
            id=ticket.id, at=ticket.opened_at, organisation=caller.organisation, key_id=caller.key_id,
            operation=ticket.operation, unit=ticket.unit, units=meter.units, tokens=meter.tokens, cached=meter.cached,
            model=meter.model, status=status, latency_ms=(self._clock.monotonic() - ticket.started) * 1e3,
        )  # fmt: skip
        await self._usage.record((event,))

    async def _authenticate(self, credential: Credential) -> Caller:
        if credential.kind == "operator":
            return OPERATOR
        if credential.kind == "key":
            return await self._caller_of(credential.text)
        if self._open_to_all:
            return OPERATOR_ON_LOOPBACK
        if not self._anonymous:
            raise Unauthenticated("send an API key as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'")
        subject = f"address:{credential.address}"
        return Caller(subject, "anonymous", "", "anonymous", self._anonymous)

    async def _caller_of(self, text: str) -> Caller:
        digest = key_digest(text)
        # Only a text that was well formed is in the ring, so the checksum is spared a key in use.
        if digest not in self._keyring and not is_well_formed(text, self._key_prefix):
            if self._open_to_all:
                return OPERATOR_ON_LOOPBACK
            raise Unauthenticated("the API key is not well formed; check that it was copied whole")
        record = await self._keyring.find(digest)
        if record is None:
            raise Unauthenticated("the API key is not known here")
        if record.revoked_at is not None:
            raise Unauthenticated("the API key was revoked")
        if record.expires_at is not None and record.expires_at <= self._clock.now():
            raise Unauthenticated("the API key has expired")
        scopes = frozenset(record.scopes)
        return Caller(record.organisation, record.organisation, record.id, record.tier, scopes, record.email)

    async def _reserve_quota(self, caller: Caller, period: str) -> None:
        policy = self._tiers[caller.tier]
        if policy.monthly_requests is None or not policy.hard:
            return
        decision = await self._quotas.reserve(caller.subject, period, 1, limit=policy.monthly_requests)
        if not decision.allowed:
            raise QuotaExceeded(
                f"the {policy.monthly_requests} requests of this month are used up; the count starts anew next month",
                retry_after_s=max(1.0, month_end(period) - self._clock.now()),
            )

    def _permits(self, computed: bool, streaming: bool) -> Permits | None:
        if streaming:
            return self.streams
        return self.calls if computed else None


# With AUTH=off, which settings accept on a loopback address only, whoever reaches the port is trusted like its owner,
# but is billed, so that usage can be looked at.
OPERATOR_ON_LOOPBACK = Caller("local", "local", "local", "scale", EVERY_SCOPE)
