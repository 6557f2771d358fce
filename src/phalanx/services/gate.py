"""The gate: the one place where a call is let in, and where it is billed when it leaves.

Order: authenticate, scope, then rate, permit and quota of the caller in one step (`admit`); once the edge has read the
body, a permit of this worker and the ticket (`reserve`); at the end `settle`, on failure and cancellation too. A call
that was admitted but got no ticket is given back by `release`. Only `operations.call` uses the gate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from phalanx.contract.keys import ALL_SCOPES, KeyRecord, Scope
from phalanx.contract.usage import OK, UsageEvent
from phalanx.contract.users import Standing
from phalanx.errors import (
    ConcurrencyExceeded,
    Forbidden,
    Overloaded,
    PhalanxError,
    QuotaExceeded,
    RateLimited,
    SessionEnded,
    Unauthenticated,
)
from phalanx.ports import NO_LIMIT, Clock, Grant, Limiter, UsageLog
from phalanx.services.callers.keyring import Keyring
from phalanx.services.callers.keys import is_well_formed, key_digest
from phalanx.services.callers.tokens import TokenVerifier
from phalanx.services.callers.users import scopes_of
from phalanx.services.jobs.tokens import JobTokens
from phalanx.services.metering.addresses import limited_by
from phalanx.services.metering.periods import month_end, month_of
from phalanx.services.metering.quotas import SoftQuotas
from phalanx.services.metering.tiers import TierPolicy
from phalanx.services.metering.usage import is_billed
from phalanx.services.ticket import Call, Caller, Credential, Meter, Ticket

Admits = Scope | Literal["open"] | None
"""Whom a row lets in: who has a scope; with None anybody with a credential; with `open` anybody."""

R = TypeVar("R")

EVERY_SCOPE = frozenset(ALL_SCOPES)
OPERATOR = Caller("operator", "operator", "operator", "operator", EVERY_SCOPE)
# With AUTH=off, which settings accept on a loopback address only, whoever reaches the port is trusted like its owner,
# but is billed, so that usage can be looked at.
OPERATOR_ON_LOOPBACK = Caller("local", "local", "local", "scale", EVERY_SCOPE)
NO_DEADLINE = float("inf")
MAX_CALLERS = 100_000
WHAT_TO_SEND = "send an API key as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'"


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


class OpenCalls:
    """When each call that is still open began: before the oldest of them the ledger may be complete, after it cannot."""

    def __init__(self) -> None:
        self._opened: dict[str, float] = {}

    def open(self, call_id: str, at: float) -> None:
        """Note a call that begins at `at` (epoch seconds)."""
        self._opened[call_id] = at

    def close(self, call_id: str) -> None:
        """Forget a call, whose event is recorded."""
        del self._opened[call_id]

    def oldest(self) -> float | None:
        """Return when the oldest open call began; None when there is none. A dictionary keeps the order of insertion."""
        return next(iter(self._opened.values()), None)


class Gate:
    """Decides who may call what, how often and how much; see the module."""

    def __init__(
        self,
        *,
        keyring: Keyring,
        tokens: TokenVerifier,
        limiter: Limiter,
        soft_quotas: SoftQuotas,
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
        open_calls: OpenCalls | None = None,
        jobs: JobTokens | None = None,
    ) -> None:
        self._jobs = jobs
        self._keyring = keyring
        self._tokens = tokens
        self._limiter = limiter
        self._soft_quotas = soft_quotas
        self._usage = usage
        self._allowances = {name: (policy.unmetered, policy.metered) for name, policy in tiers.items()}
        self._soft_limits = {name: policy.soft_limit for name, policy in tiers.items()}
        self._clock = clock
        self._new_id = new_id
        self._key_prefix = key_prefix
        self._anonymous = frozenset(anonymous_scopes)
        self._open_to_all = open_to_all
        self._timeout_s = request_timeout_s
        self._callers: dict[str, tuple[object, Caller]] = {}
        self._open_calls = open_calls or OpenCalls()
        self.calls = Permits(max_concurrent)
        self.streams = Permits(max_streams)

    def refuse_when_full(self) -> None:
        """Raise `Overloaded` while there is no permit for a computed call: said before anything is spent on it."""
        self.calls.require()

    async def admit(self, call: Call, admits: Admits, *, metered: bool = True) -> None:
        """Find out who calls, whether they may, and take what the call needs of their limits. No body has been read yet.

        Raises `Unauthenticated`, `SessionEnded`, `Forbidden`, `RateLimited`, `ConcurrencyExceeded`, `QuotaExceeded`.
        """
        caller = call.caller = await self._authenticate(call.credential, is_open=admits == "open")
        if admits is not None and admits != "open" and admits not in caller.scopes:
            if caller.tier == "anonymous":
                raise Unauthenticated(WHAT_TO_SEND)
            has = ", ".join(sorted(caller.scopes)) or "none"
            raise Forbidden(f"this credential lacks the scope {admits!r}; it has {has}")
        call.id = call.id or self._new_id()
        allowance = self._allowances[caller.tier][metered]
        if allowance != NO_LIMIT:
            period = month_of(self._clock.now())
            call.grant = await self._limiter.take(caller.subject, allowance, period=period, lease=call.id)
            if call.grant.refused:
                raise self._refusal(call.grant)
        soft = self._soft_limits[caller.tier]
        if soft is not None and metered:
            used = self._soft_quotas.count(caller.organisation)
            if used > soft:
                call.warning = f"{used} requests were made this month, {soft} are in the plan"

    async def release(self, call: Call) -> None:
        """Give back what an admitted call took, when it got no ticket."""
        if call.grant is not None and not call.grant.refused:
            await self._limiter.settle(call.grant, billed=False)

    def reserve(
        self,
        call: Call,
        *,
        operation: str,
        unit: str,
        computed: bool,
        streaming: bool,
        metered: bool = True,
        times: int = 1,
    ) -> Ticket:
        """Take a permit of this worker and make the ticket. Raises `Overloaded`.

        A computed call has `times` the time of one that asks for little, and no longer than its caller waits.
        """
        assert call.caller is not None
        permits = self._permits(computed, streaming)
        if permits is not None:
            permits.take()
        now, started = self._clock.now(), self._clock.monotonic()
        self._open_calls.open(call.id, now)
        deadline = min(started + times * self._timeout_s, call.deadline) if computed and not streaming else NO_DEADLINE
        return Ticket(
            call.id, call.caller, operation, unit, deadline, now, started, streaming, metered,
            call.request_id, call.credential.address, call.credential.user_agent, call.grant, Meter(), call.on_behalf_of,
            call.followed_by, call.credential.kind in ("job", "queue"),
        )  # fmt: skip

    async def settle(self, ticket: Ticket, *, status: str, computed: bool) -> None:
        """Close a ticket: record its event, give back its permits, and the quota of a call that is not billed.

        A job's ticket names the event of its success, which whatever delivers it again brings anew. An attempt that came
        to nothing is an event apart and never billed: under that name it would keep a later success out of the ledger.
        """
        permits = self._permits(computed, ticket.streaming)
        if permits is not None:
            permits.give()
        caller, meter = ticket.caller, ticket.meter
        billed = is_billed(status, units=meter.units, metered=ticket.metered)
        event_id = ticket.id
        if ticket.is_job and status != OK:
            billed, event_id = False, self._new_id()
        try:
            if not caller.is_operator:
                event = UsageEvent(
                    id=event_id, at=ticket.opened_at, organisation=caller.organisation, key_id=caller.key_id,
                    operation=ticket.operation, unit=ticket.unit, units=meter.units, tokens=meter.tokens,
                    cached=meter.cached, model=meter.model, status=status, user_id=caller.user_id,
                    latency_ms=(self._clock.monotonic() - ticket.started) * 1e3, request_id=ticket.request_id,
                    billed=billed, simulated=meter.simulated,
                )  # fmt: skip
                await self._usage.record((event,))
        except PhalanxError:
            # What could not be recorded is not answered, and not counted.
            billed = False
            raise
        finally:
            self._open_calls.close(ticket.id)
            if ticket.grant is not None:
                await self._limiter.settle(ticket.grant, billed=billed)

    async def _authenticate(self, credential: Credential, *, is_open: bool) -> Caller:
        if credential.kind == "operator":
            return OPERATOR
        if credential.kind == "key" and not is_open:
            return await self._caller_of(credential.text)
        if credential.kind in ("job", "queue"):
            return await self._caller_of_job(credential)
        if self._open_to_all:
            return OPERATOR_ON_LOOPBACK
        if not self._anonymous and not is_open:
            raise Unauthenticated(WHAT_TO_SEND)
        subject = f"address:{limited_by(credential.address)}"
        return Caller(subject, "anonymous", "", "anonymous", self._anonymous)

    async def _caller_of(self, text: str) -> Caller:
        if text.startswith("eyJ"):
            return await self._user_of(text)
        digest = key_digest(text)
        record = self._keyring.peek_key(digest)
        if record is None:
            # Only a text that was well formed is in the ring, so the checksum is spared a key in use.
            if digest not in self._keyring and not is_well_formed(text, self._key_prefix):
                if self._open_to_all:
                    return OPERATOR_ON_LOOPBACK
                raise Unauthenticated("the API key is not well formed; check that it was copied whole")
            record = await self._keyring.find_key(digest)
            if record is None:
                raise Unauthenticated("the API key is not known here")
        return self._caller_with(digest, record)

    async def _caller_of_job(self, credential: Credential) -> Caller:
        """Return as whom a queued job runs now: keys and sessions may have ended since it was queued."""
        key_id, session_id = str(credential.text), ""
        if credential.kind == "job":
            if not credential.text or self._jobs is None:
                if self._open_to_all:
                    return OPERATOR_ON_LOOPBACK
                raise Unauthenticated("the job has no token in _caller, and its queue is bound to no key")
            key_id, session_id, _ = self._jobs.verify(credential.text, credential.task)
        if session_id:
            return await self._user_in(session_id)
        if self._open_to_all and key_id == OPERATOR_ON_LOOPBACK.key_id:
            return OPERATOR_ON_LOOPBACK
        record = await self._keyring.find_key_by_id(key_id)
        if record is None:
            raise Unauthenticated("the API key that the job was queued with is not known here")
        return self._caller_with(record.digest, record)

    def _caller_with(self, digest: str, record: KeyRecord) -> Caller:
        if record.revoked_at is not None:
            raise Unauthenticated("the API key was revoked")
        now = self._clock.now()
        if record.expires_at is not None and record.expires_at <= now:
            raise Unauthenticated("the API key has expired")
        self._keyring.used(record.id, now)
        return self._known(digest, record, _caller_by_key)

    async def _user_of(self, text: str) -> Caller:
        return await self._user_in(self._tokens.verify(text).session_id)

    async def _user_in(self, session_id: str) -> Caller:
        standing = await self._keyring.find_session(session_id)
        if standing is None or standing.ended_at is not None or standing.expires_at <= self._clock.now():
            raise SessionEnded("the session of this access token is over; log in again")
        return self._known(standing.session_id, standing, _caller_by_session)

    def _known(self, name: str, record: R, make: Callable[[R], Caller]) -> Caller:
        """Return the caller made of a record; the same record gives the same caller, made once."""
        known = self._callers.get(name)
        if known is not None and known[0] is record:
            return known[1]
        if len(self._callers) >= MAX_CALLERS:
            self._callers.clear()
        caller = make(record)
        self._callers[name] = (record, caller)
        return caller

    def _refusal(self, grant: Grant) -> PhalanxError:
        allowance = grant.allowance
        if grant.refused == "rate" and allowance.rate is not None:
            per_minute, burst = allowance.rate
            said = f"{per_minute} requests a minute are allowed, with a burst of {burst}"
            return RateLimited(said, retry_after_s=grant.retry_after_s)
        if grant.refused == "concurrency":
            said = f"{allowance.concurrent} calls may be open at once"
            return ConcurrencyExceeded(said, retry_after_s=grant.retry_after_s)
        left = max(1.0, month_end(grant.period) - self._clock.now())
        said = f"the {allowance.monthly} requests of this month are used up; the count starts anew next month"
        return QuotaExceeded(said, retry_after_s=grant.retry_after_s or left)

    def _permits(self, computed: bool, streaming: bool) -> Permits | None:
        if streaming:
            return self.streams
        return self.calls if computed else None


def _caller_by_key(record: KeyRecord) -> Caller:
    scopes = frozenset(record.scopes)
    return Caller(record.organisation, record.organisation, record.id, record.tier, scopes, record.email)


def _caller_by_session(standing: Standing) -> Caller:
    return Caller(
        standing.organisation, standing.organisation, "", standing.tier, scopes_of(standing), standing.email,
        standing.user_id, standing.session_id, standing.role,
    )  # fmt: skip
