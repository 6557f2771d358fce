"""Usage: what is billed, reports, and whether the books agree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import NamedTuple

from phalanx.contract.usage import OK, UsageReportRequest, UsageReportResponse, UsageRow, UsageTotals
from phalanx.errors import Cancelled, Forbidden, InvalidRequest, PhalanxError
from phalanx.ports import Clock, OrganisationStore, UsageLedger, UsageLog, UsageQuery
from phalanx.services.metering.periods import month_start
from phalanx.services.metering.tiers import TierPolicy
from phalanx.services.ticket import Ticket
from phalanx.telemetry import Log

EVERYBODY = "*"
MAX_DAYS = 400
EXPIRE_EVERY_S = 3600.0
SUMS = UsageTotals.__struct_fields__


def is_billed(status: str, *, units: int, metered: bool) -> bool:
    """Whether a call counts as a request of the month's quota: when it was answered, or its client left after work was done.

    Calls about keys, users and the like are not `metered` and never billed. `status` is `ok` or the error's code.
    """
    return metered and (status == OK or (status == Cancelled.row.code and units > 0))


class UsageService:
    """Reports of usage. A caller sees its own organisation; an admin of the installation any, or all as `*`."""

    def __init__(self, usage: UsageLog, clock: Clock) -> None:
        self._usage = usage
        self._clock = clock

    async def report(self, ticket: Ticket, request: UsageReportRequest) -> UsageReportResponse:
        """Sum up days, by default those of this month, the caller's own calls up to this one included.

        Raises `Forbidden` for another organisation, `InvalidRequest` for days that are none, are in the wrong order, or
        are more than 400, and `Unavailable`.
        """
        organisation = _organisation(ticket, request.organisation)
        since, until = self._range(request)
        wanted = None if organisation == EVERYBODY else organisation
        rows = await self._usage.report(UsageQuery(since, until, wanted, request.by))
        complete_until = await self._usage.complete_until()
        return UsageReportResponse(
            organisation=organisation, since=since, until=until, by=request.by, rows=rows, total=_total(rows),
            complete_until=complete_until,
        )  # fmt: skip

    def _range(self, request: UsageReportRequest) -> tuple[str, str]:
        until = _day(request.until, "to") if request.until else datetime.fromtimestamp(self._clock.now(), UTC).date()
        since = _day(request.since, "from") if request.since else until.replace(day=1)
        if since > until:
            raise InvalidRequest(f"the report would begin on {since}, after its end on {until}", param="from")
        days = (until - since).days + 1
        if days > MAX_DAYS:
            raise InvalidRequest(f"{days} days are asked for, {MAX_DAYS} are allowed at once", param="from")
        return since.isoformat(), until.isoformat()


def _organisation(ticket: Ticket, asked: str | None) -> str:
    caller = ticket.caller
    if asked is None:
        return EVERYBODY if caller.is_operator else caller.organisation
    if asked != caller.organisation and "admin" not in caller.scopes:
        raise Forbidden("only an admin may see the usage of another organisation", param="organisation")
    return asked


def _day(text: str, param: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"there is no day {text!r}", param=param) from None


def _total(rows: Sequence[UsageRow]) -> UsageTotals:
    return UsageTotals(**{name: sum(getattr(row, name) for row in rows) for name in SUMS})


class Difference(NamedTuple):
    """Two books that should say the same: `what` is a sum's name, `left` and `right` are what each of them says."""

    where: str
    what: str
    left_name: str
    left: int
    right_name: str
    right: int

    def __str__(self) -> str:
        return f"{self.where}: {self.what} is {self.left} by {self.left_name}, {self.right} by {self.right_name}"


async def compare_books(ledger: UsageLedger, *, repair: bool = False) -> AsyncIterator[Difference]:
    """Yield where the daily sums differ from the events of a day, over every day whose events are kept.

    With `repair` the sums of such a day are made anew from its events. Raises `Unavailable`.
    """
    for day in await ledger.days():
        books = await ledger.books(day)
        found = False
        for key in sorted(books.events.keys() | books.sums.keys()):
            events, sums = books.events.get(key, UsageTotals()), books.sums.get(key, UsageTotals())
            for name in SUMS:
                left, right = getattr(events, name), getattr(sums, name)
                if left != right:
                    found = True
                    yield Difference(f"{day} {' '.join(filter(None, key))}", name, "events", left, "sums", right)
        if found and repair:
            await ledger.repair(day)


async def compare_counters(
    ledger: UsageLedger,
    used: Callable[[str, str], Awaitable[int]],
    period: str,
    organisations: Collection[str],
    *,
    patience_s: float = 0.0,
) -> list[Difference]:
    """Return where a month's quota counters differ from the daily sums, of the organisations that are counted.

    `used` is the limiter's. A counter runs ahead of the ledger while calls are open and while usage waits in a worker's
    journal, so one that differs is looked at again until `patience_s` seconds are over. Raises `Unavailable`.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + patience_s
    while True:
        billed = await ledger.requests_by_organisation(since=month_start(period))
        differences = []
        for name in sorted(organisations):
            counted, booked = await used(name, period), billed.get(name, 0)
            if counted != booked:
                differences.append(Difference(f"{period} {name}", "billed", "sums", booked, "counter", counted))
        if not differences or loop.time() >= ends:
            return differences
        await asyncio.sleep(min(1.0, patience_s))


async def counted_organisations(organisations: OrganisationStore, tiers: Mapping[str, TierPolicy]) -> list[str]:
    """Return the organisations whose tier has a hard quota: only of these does the limiter count a month's requests."""
    found = await organisations.list()
    return [one.id for one in found if tiers[one.tier].hard and tiers[one.tier].monthly_requests is not None]


async def expire_events(ledger: UsageLedger, days: int, log: Log) -> None:
    """Let events go that are older than `days` days, now and once an hour, until cancelled. Failures are logged."""
    while True:
        try:
            gone = await ledger.expire(days)
            if gone:
                log.info("usage events expired", days=gone, kept_days=days)
        except PhalanxError as error:
            log.warning("usage events not expired", reason=error.detail)
        await asyncio.sleep(EXPIRE_EVERY_S)
