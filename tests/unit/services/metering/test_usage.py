"""What is billed, whose usage a report shows, and whether seeded mistakes in the books are found."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from structlog.testing import CapturingLogger

from phalanx.contract.keys import Scope
from phalanx.contract.usage import UsageEvent, UsageReportRequest, UsageTotals
from phalanx.contract.users import OrganisationRecord
from phalanx.errors import ERRORS, Forbidden, InvalidRequest, Unavailable
from phalanx.ports import SumKey
from phalanx.services.metering.tiers import tier_policies
from phalanx.services.metering.usage import (
    UsageService,
    compare_books,
    compare_counters,
    counted_organisations,
    expire_events,
    is_billed,
)
from phalanx.services.ticket import Caller, Ticket
from phalanx.settings import Settings
from phalanx.stores.days import id_bounds
from phalanx.stores.memory.usage import MemoryUsageLog

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 11, 21, 1, tzinfo=UTC).timestamp()


class Clock:
    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return 0.0


def ticket(*scopes: Scope, tier: Any = "free", organisation: str = "a") -> Ticket:
    caller = Caller(organisation, organisation, "key-1", tier, frozenset(scopes))
    return Ticket("id", caller, "usage.report", "request", 0.0, 0.0, 0.0, False, False)


def event(n: int, day: str = "2026-11-20", **changes: Any) -> UsageEvent:
    fields = {
        "id": f"{id_bounds(day)[0]}-7000-8000-{n:012x}", "at": 0.0, "organisation": "a", "key_id": "key-1",
        "operation": "text.embed", "unit": "token", "units": 5, "tokens": 5, "cached": 1, "model": "m", "status": "ok",
        "latency_ms": 1.0,
    }  # fmt: skip
    return UsageEvent(**{**fields, **changes})


@pytest.fixture
async def usage() -> MemoryUsageLog:
    log = MemoryUsageLog(now=lambda: NOW)
    events = [event(1), event(2, organisation="b"), event(3, "2026-10-31"), event(4, "2026-11-21", status="overloaded")]
    await log.record(events)
    return log


@pytest.fixture
def service(usage: MemoryUsageLog) -> UsageService:
    return UsageService(usage, Clock())


@pytest.mark.parametrize("status", ["ok", *ERRORS])
@pytest.mark.parametrize("units", [0, 7])
def test_answers_and_work_done_for_those_who_left_are_billed(status: str, units: int) -> None:
    expected = status == "ok" or (status == "cancelled" and units > 0)
    assert is_billed(status, units=units, metered=True) is expected
    assert is_billed(status, units=units, metered=False) is False


async def test_a_report_is_about_this_month_and_the_callers_organisation(service: UsageService) -> None:
    answer = await service.report(ticket("usage"), UsageReportRequest())
    assert (answer.organisation, answer.since, answer.until, answer.by) == ("a", "2026-11-01", "2026-11-21", "day")
    assert [(row.group, row.requests) for row in answer.rows] == [("2026-11-20", 1), ("2026-11-21", 1)]
    assert answer.total == UsageTotals(requests=2, billed=1, units=10, tokens=10, cached=2, errors=1)
    assert answer.complete_until == NOW


@pytest.mark.parametrize(
    ("given", "since", "until", "requests"),
    [
        ({"from": "2026-10-31"}, "2026-10-31", "2026-11-21", 3),
        ({"to": "2026-10-31"}, "2026-10-01", "2026-10-31", 1),
        ({"from": "2026-11-20", "to": "2026-11-20"}, "2026-11-20", "2026-11-20", 1),
        ({"from": "2025-10-18", "to": "2026-11-21"}, "2025-10-18", "2026-11-21", 3),
    ],
)
async def test_days_can_be_chosen(
    service: UsageService, given: dict[str, str], since: str, until: str, requests: int
) -> None:
    answer = await service.report(ticket("usage"), msgspec.convert(given, UsageReportRequest))
    assert (answer.since, answer.until, answer.total.requests) == (since, until, requests)


@pytest.mark.parametrize(
    ("given", "said", "param"),
    [
        ({"from": "2026-11-22"}, "begin on 2026-11-22, after its end on 2026-11-21", "from"),
        ({"from": "2026-12-01", "to": "2026-11-30"}, "after its end on 2026-11-30", "from"),
        ({"from": "2025-10-17", "to": "2026-11-21"}, "401 days are asked for, 400 are allowed", "from"),
        ({"to": "2026-02-30"}, "no day '2026-02-30'", "to"),
        ({"from": "0000-01-01"}, "no day '0000-01-01'", "from"),
    ],
)
async def test_days_that_make_no_sense_are_refused(
    service: UsageService, given: dict[str, str], said: str, param: str
) -> None:
    with pytest.raises(InvalidRequest, match=said) as caught:
        await service.report(ticket("usage"), msgspec.convert(given, UsageReportRequest))
    assert caught.value.param == param


@pytest.mark.parametrize("given", [{"from": "2026-11-1"}, {"to": "yesterday"}, {"by": "hour"}, {"since": "2026-11-01"}])
def test_a_request_that_is_none_does_not_decode(given: dict[str, str]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given, UsageReportRequest)


async def test_only_admins_see_other_organisations(service: UsageService) -> None:
    own = await service.report(ticket("usage"), UsageReportRequest(organisation="a"))
    assert own.organisation == "a"
    for other in ("b", "*", ""):
        with pytest.raises(Forbidden, match="only an admin"):
            await service.report(ticket("usage"), UsageReportRequest(organisation=other))
    admin = ticket("usage", "admin")
    assert (await service.report(admin, UsageReportRequest())).organisation == "a"
    assert (await service.report(admin, UsageReportRequest(organisation="b"))).total.requests == 1
    everybody = await service.report(admin, UsageReportRequest(organisation="*"))
    assert (everybody.organisation, everybody.total.requests) == ("*", 3)


async def test_the_operator_sees_everybody(service: UsageService) -> None:
    operator = ticket("usage", "admin", tier="operator", organisation="operator")
    assert (await service.report(operator, UsageReportRequest())).total.requests == 3


async def found(usage: MemoryUsageLog, *, repair: bool = False) -> list[str]:
    return [str(difference) async for difference in compare_books(usage, repair=repair)]


async def test_books_that_agree_show_no_difference(usage: MemoryUsageLog) -> None:
    assert await found(usage) == []


async def test_every_mistake_in_the_books_is_told_and_repaired(usage: MemoryUsageLog) -> None:
    key = SumKey("a", "key-1", "text.embed", "m")
    right = usage._sums["2026-11-20"][key]
    usage._sums["2026-11-20"][key] = msgspec.structs.replace(right, units=6)
    usage._sums["2026-11-20"][SumKey("c", "", "o", "")] = UsageTotals(requests=1)
    del usage._sums["2026-10-31"]
    told = await found(usage)
    assert told[:2] == [
        "2026-10-31 a key-1 text.embed m: requests is 1 by events, 0 by sums",
        "2026-10-31 a key-1 text.embed m: billed is 1 by events, 0 by sums",
    ]
    assert "2026-11-20 a key-1 text.embed m: units is 5 by events, 6 by sums" in told
    assert told[-1] == "2026-11-20 c o: requests is 0 by events, 1 by sums"
    assert await found(usage, repair=True) == told
    assert await found(usage) == []
    assert usage._sums["2026-11-20"][key] == right


async def test_a_lost_event_is_told_but_not_on_a_day_that_was_let_go(usage: MemoryUsageLog) -> None:
    assert await usage.expire(5) == 1
    assert await found(usage) == []
    usage._events.clear()
    assert len(await found(usage)) > 5


async def test_counters_are_compared_with_the_billed_requests(usage: MemoryUsageLog) -> None:
    counters = {"a": 1, "b": 3, "c": 1}

    async def used(organisation: str, period: str) -> int:
        assert period == "2026-11"
        return counters.get(organisation, 0)

    differences = await compare_counters(usage, used, "2026-11", ["c", "b", "a", "nobody"])
    assert [str(difference) for difference in differences] == [
        "2026-11 b: billed is 1 by sums, 3 by counter",
        "2026-11 c: billed is 0 by sums, 1 by counter",
    ]


async def test_a_counter_that_runs_ahead_is_given_time(usage: MemoryUsageLog) -> None:
    async def used(organisation: str, period: str) -> int:
        return 2

    async def arrive() -> None:
        await asyncio.sleep(0.05)
        await usage.record([event(50)])

    late = asyncio.create_task(arrive())
    assert await compare_counters(usage, used, "2026-11", ["a"], patience_s=0.2) == []
    await late


async def test_only_hard_quotas_are_counted() -> None:
    class Organisations:
        async def list(self, *, user_id: str | None = None) -> list[OrganisationRecord]:
            tiers: tuple[Any, ...] = ("free", "pro", "scale")
            return [OrganisationRecord(id=tier, name=tier, tier=tier, created_at=0.0) for tier in tiers]

    store: Any = Organisations()
    assert await counted_organisations(store, tier_policies(Settings())) == ["free"]
    enforced = tier_policies(Settings(enforce_paid_limits=True))
    assert await counted_organisations(store, enforced) == ["free", "pro", "scale"]


async def test_old_events_go_by_themselves_and_a_failure_is_logged_once_an_hour(usage: MemoryUsageLog) -> None:
    log = CapturingLogger()
    task = asyncio.create_task(expire_events(usage, 5, log))
    await asyncio.sleep(0.01)
    task.cancel()
    assert [(call.method_name, call.args[0]) for call in log.calls] == [("info", "usage events expired")]

    class Down(MemoryUsageLog):
        async def expire(self, days: int) -> int:
            raise Unavailable("the ledger is down")

    task = asyncio.create_task(expire_events(Down(), 5, log))
    await asyncio.sleep(0.01)
    task.cancel()
    assert [(call.method_name, call.kwargs.get("reason")) for call in log.calls[1:]] == [
        ("warning", "the ledger is down")
    ]
