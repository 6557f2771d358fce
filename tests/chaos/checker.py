"""The invariants of a run. Each is a function of the record that says, a sentence each, what broke it.

They hold whatever was killed: what was answered is in the ledger, once; what is in the ledger besides was under way when
its worker died, or its client left; nobody got in who should not have; nothing failed that was not down; sums agree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

from chaos.record import Call, Event, Group, Kill, Outage, Run, Sums

DOCUMENTED = {502: {"upstream_failed"}, 503: {"overloaded", "unavailable"}, 504: {"deadline_exceeded"}}
NOT_ADMITTED = {"unauthenticated", "rate_limited", "quota_exceeded", "concurrency_exceeded"}
RECOVERY_S = 5.0
"""How long after a server is back a call may still be told that it is not: connections are made anew with a backoff."""

UNSETTLED_S = 0.1
"""How long after its answer a call may still wait for its settling: two milliseconds, and the way to Redis."""

Invariant = Callable[[Run], Iterator[str]]


def check(run: Run) -> list[str]:
    """Return what is wrong with a run; nothing when all invariants hold."""
    return [f"{invariant.__name__}: {said}" for invariant in INVARIANTS for said in invariant(run)]


def answered_is_in_the_ledger(run: Run) -> Iterator[str]:
    """Every call that was answered with success left an event."""
    found = {event.request_id for event in run.events}
    for call in run.calls:
        if call.is_ok and call.request_id not in found:
            yield f"{_named(call)} was answered {call.status}, but is not in the ledger"


def nothing_is_twice(run: Run) -> Iterator[str]:
    """No call has two events, and no two events one id."""
    for name, count in Counter(event.request_id for event in run.events).items():
        if count > 1 and name:
            yield f"call {name} has {count} events"
    for name, count in Counter(event.id for event in run.events).items():
        if count > 1:
            yield f"event {name} is in the ledger {count} times"


def surplus_was_in_flight(run: Run) -> Iterator[str]:
    """An event belongs to a call that was answered, whose client left, or that was under way when its worker died."""
    calls, in_flight = run.by_id(), run.in_flight_at_kills()
    for event in run.events:
        call = calls.get(event.request_id)
        if call is None:
            yield f"event {event.id} of {event.organisation} names the call {event.request_id!r}, which nobody made"
        elif not call.is_answered and not call.left and call.request_id not in in_flight:
            yield f"{_named(call)} was not answered and not under way at a kill, but has the event {event.id}"


def every_call_is_answered(run: Run) -> Iterator[str]:
    """A call goes without an answer only when its client left, or when its worker was killed or is down."""
    in_flight = run.in_flight_at_kills()
    down = {worker: list(run.outages_of(worker)) for worker in {call.worker for call in run.calls}}
    for call in run.calls:
        if call.is_answered or call.left or call.request_id in in_flight:
            continue
        if not any(_overlap(outage, call.sent_at, call.ended_at) for outage in down[call.worker]):
            waited_s = call.ended_at - call.sent_at
            yield f"{_named(call)} was not answered within {waited_s:.3f} s by {call.worker}, which lived"


def events_name_their_caller(run: Run) -> Iterator[str]:
    """An event is billed to whoever made the call."""
    calls = run.by_id()
    for event in run.events:
        call = calls.get(event.request_id)
        if call is None or not call.organisation:
            continue
        if event.organisation != call.organisation:
            yield f"{_named(call)} is billed to {event.organisation!r}"
        elif event.key_id not in ("", call.credential):
            yield f"{_named(call)} is billed to the key {event.key_id}"


def the_refused_pay_nothing(run: Run) -> Iterator[str]:
    """A call that was told an error is not billed, and one that was not let in leaves no event.

    The one exception is documented: a journal in Redis that was lost before it said whether it has the event.
    """
    events = {event.request_id: event for event in run.events}
    for call in run.calls:
        event = events.get(call.request_id)
        if event is None or not call.is_answered or call.is_ok:
            continue
        if event.billed and not _may_be_kept(run, call):
            yield f"{_named(call)} was refused with {call.status} {call.code}, but is billed by {event.id}"
        elif call.credential and call.code in NOT_ADMITTED:
            yield f"{_named(call)} was not let in ({call.status} {call.code}), but has the event {event.id}"


def the_revoked_stay_out(run: Run) -> Iterator[str]:
    """A call sent later than a revocation's bound is not let in."""
    revoked = {one.credential: _bound(run, one.acknowledged_at) for one in run.revocations}
    admitted = {event.request_id for event in run.events}
    for call in run.calls:
        bound = revoked.get(call.credential)
        if bound is not None and call.sent_at > bound and (call.is_ok or call.request_id in admitted):
            late = call.sent_at - bound
            yield f"{_named(call)} was let in by {call.worker} {late:.3f} s after the bound of its revocation"


def errors_are_documented(run: Run) -> Iterator[str]:
    """A failure on this side is 502, 503 or 504 with its code, and `unavailable` only while something was down."""
    down = list(run.outages)
    for call in run.calls:
        if call.status < 500:
            continue
        if call.code not in DOCUMENTED.get(call.status, ()):
            yield f"{_named(call)} got {call.status} {call.code or 'without a code'} from {call.worker}"
        elif call.code == "unavailable" and not any(
            _overlap(outage, call.sent_at, call.ended_at, RECOVERY_S)
            for outage in down
            if outage.target in ("database", "redis", call.worker)
        ):
            yield f"{_named(call)} got {call.status} {call.code} from {call.worker} while nothing was down"


def sums_agree(run: Run) -> Iterator[str]:
    """The daily sums are those of the events."""
    expected = sums_of(run.events)
    for group in sorted(expected.keys() | run.daily.keys()):
        if expected.get(group) != run.daily.get(group):
            found = run.daily.get(group)
            yield f"{'/'.join(group)}: the events give {expected.get(group)}, the daily sums say {found}"


def quotas_hold(run: Run) -> Iterator[str]:
    """A hard quota is passed by no more than what kills left out of its counter; the counter is the ledger's, as nearly."""
    billed, slack = run.billed(), _slack(run)
    for organisation, quota in run.quotas.items():
        used = billed[organisation]
        if used > quota.limit + slack[organisation]:
            more = f", and kills may have left out {slack[organisation]}" if slack[organisation] else ""
            yield f"{organisation} was billed {used} calls, {quota.limit} are allowed{more}"
        if quota.counted is not None and abs(quota.counted - used) > slack[organisation]:
            yield f"{organisation} was billed {used} calls, the counter says {quota.counted}"


def rates_hold(run: Run) -> Iterator[str]:
    """In no span of time are more calls let in than the burst and the rate allow.

    A call was let in somewhere between its sending and its answer, so any span that holds both counts it. When Redis is
    lost or comes back, workers begin to count anew: each such moment is worth one more burst.
    """
    bursts = 1 + 2 * len(run.spans("redis", "limits"))
    admitted = {event.request_id for event in run.events}
    for organisation, rate in run.rates.items():
        spans = [
            (call.sent_at, call.ended_at)
            for call in run.calls
            if call.organisation == organisation and (call.is_ok or (call.is_answered and call.request_id in admitted))
        ]
        for since, until, count in _crowded(spans, max(1, rate.burst) * bursts, rate.per_minute / 60):
            allowed = max(1, rate.burst) * bursts + int(rate.per_minute / 60 * (until - since))
            yield f"{organisation} had {count} calls let in within {until - since:.3f} s, {allowed} are allowed"


INVARIANTS: tuple[Invariant, ...] = (
    answered_is_in_the_ledger,
    nothing_is_twice,
    surplus_was_in_flight,
    every_call_is_answered,
    events_name_their_caller,
    the_refused_pay_nothing,
    the_revoked_stay_out,
    errors_are_documented,
    sums_agree,
    quotas_hold,
    rates_hold,
)


def sums_of(events: list[Event]) -> dict[Group, Sums]:
    """Sum events as the daily sums should."""
    totals: dict[Group, list[int]] = defaultdict(lambda: [0] * len(Sums._fields))
    for event in events:
        group = Group(event.day, event.organisation, event.key_id, event.operation, event.model)
        counts = (1, event.billed, event.units, event.tokens, event.cached, event.status != "ok")
        for place, count in enumerate(counts):
            totals[group][place] += count
    return {group: Sums(*numbers) for group, numbers in totals.items()}


def _named(call: Call) -> str:
    return f"call {call.request_id} of {call.organisation or 'nobody'}"


def _slack(run: Run) -> Counter[str]:
    """Count, for each organisation, the calls that a kill may have left out of its counter.

    These are the calls under way, and those that ended so shortly before that they were not settled yet; and what a
    worker let in by its share while Redis was away, if it was killed before it could charge it. A call whose event a
    journal in Redis may have kept, unknown to its worker, is not counted either. Where clients stay with one worker, the
    others do not know of its latest calls when they begin to go by their shares.
    """
    slack: Counter[str] = Counter()
    for call in run.calls:
        left_out = any(_is_left_out(run, call, kill) for kill in run.kills)
        slack[call.organisation] += left_out or _may_be_kept(run, call) or _is_unseen(run, call)
    return slack


def _is_left_out(run: Run, call: Call, kill: Kill) -> bool:
    if kill.is_worker and kill.target != call.worker:
        return False
    if call.request_id in kill.in_flight or call.sent_at <= kill.at <= call.ended_at + UNSETTLED_S:
        return True
    return kill.is_worker and any(
        outage.since - UNSETTLED_S <= call.ended_at <= kill.at and kill.at <= outage.until + RECOVERY_S
        for outage in run.outages_of("redis", "limits")
    )


def _may_be_kept(run: Run, call: Call) -> bool:
    """Whether a call was told that it could not be recorded while its event may have been."""
    if not (run.journal_in_redis and call.status == 503 and call.code == "unavailable"):
        return False
    return any(_overlap(outage, call.sent_at, call.ended_at) for outage in run.outages_of("redis"))


def _is_unseen(run: Run, call: Call) -> bool:
    """Whether a call was let in so shortly before the sharing of limits ended that other workers may not know of it."""
    if not run.unseen_s:
        return False
    return any(since - run.unseen_s <= call.ended_at and call.sent_at < since for since, _ in run.spans("limits"))


def _bound(run: Run, acknowledged_at: float) -> float:
    """Return when a revocation counts everywhere: soon by the news, later by the feed, which waits for the database."""
    news_until = acknowledged_at + run.revocation_bound_s
    if not any(_overlap(o, acknowledged_at, news_until, RECOVERY_S) for o in run.outages_of("redis", "database")):
        return news_until
    since = acknowledged_at
    for outage in run.outages_of("database"):
        if _overlap(outage, since, since + run.feed_bound_s, RECOVERY_S):
            since = max(since, outage.until + RECOVERY_S)
    return since + run.feed_bound_s


def _crowded(spans: list[tuple[float, float]], burst: int, per_s: float) -> Iterator[tuple[float, float, int]]:
    """Find a span of time that holds more calls than `burst + per_s × time`, if there is one."""
    spans = sorted(spans)
    for first, (since, _) in enumerate(spans):
        for count, until in enumerate(sorted(ended for _, ended in spans[first:]), 1):
            if count > burst + int(per_s * (until - since)):
                yield since, until, count
                return


def _overlap(outage: Outage, since: float, until: float, recovery_s: float = 0.0) -> bool:
    return outage.since <= until and since <= outage.until + recovery_s
