"""The checker finds each kind of wrong that a run can hold, and says nothing of a run that is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from chaos.checker import INVARIANTS, check, sums_of
from chaos.record import Call, Event, Kill, Outage, Quota, Rate, Revocation, Run

START = 1_790_000_000.0
DAY = "2026-09-21"
ANN, BOB = "ann@example.org", "bob@example.org"


def make_call(number: int, organisation: str = ANN, **changes: object) -> Call:
    """Call number `n` is sent at second n and takes a tenth of one."""
    sent = START + number
    call = Call(f"call-{number}", "worker-1", f"key-{organisation}", organisation, sent, sent + 0.1, 200)
    return replace(call, **changes)  # type: ignore[arg-type]


def make_event(call: Call, **changes: object) -> Event:
    event = Event(
        f"event-of-{call.request_id}", DAY, call.organisation, call.credential, "text.embed", "m", call.request_id,
        "ok" if call.is_ok else call.code or "ok", call.is_ok or not call.is_answered, tokens=4,
    )  # fmt: skip
    return replace(event, **changes)  # type: ignore[arg-type]


def make_run() -> Run:
    """A run in which everything that may happen has happened, and nothing else."""
    good = [make_call(n) for n in range(1, 6)] + [make_call(n, BOB) for n in range(6, 9)]
    failed = make_call(10, status=400, code="invalid_request")
    refused = make_call(11, BOB, status=429, code="quota_exceeded")
    left = [make_call(12, status=0, left=True), make_call(13, status=0, left=True)]
    cut = [make_call(20, status=0), make_call(20.5, status=0)]  # type: ignore[arg-type]
    unheard = make_call(21, status=0)
    down = make_call(25, status=503, code="unavailable")
    crowded = make_call(50, status=503, code="overloaded")
    late = make_call(60, status=504, code="deadline_exceeded")
    out = make_call(41, credential="key-gone", status=401, code="unauthenticated")
    before = make_call(38, credential="key-gone")
    within = make_call(40.5, credential="key-gone")  # type: ignore[arg-type]
    calls = [*good, failed, refused, *left, *cut, unheard, down, crowded, late, out, before, within]
    noted = [make_event(call) for call in [*good, failed, left[0], cut[0], before, within]]
    run = Run(
        calls=calls,
        events=noted,
        daily=sums_of(noted),
        kills=[Kill("worker-1", START + 20.55, frozenset(call.request_id for call in cut))],
        outages=[Outage("worker-1", START + 20.55, START + 22), Outage("database", START + 24, START + 26)],
        revocations=[Revocation("key-gone", START + 40)],
        rates={BOB: Rate(60, 2)},
        quotas={BOB: Quota(3, counted=3)},
    )
    assert check(run) == []
    return run


def with_event(run: Run, event: Event) -> None:
    """Add an event as the ledger would: together with its sums."""
    run.events.append(event)
    run.daily = sums_of(run.events)


def drop_an_event(run: Run) -> str:
    run.events.pop(0)
    run.daily = sums_of(run.events)
    return "call-1 "


def double_an_event(run: Run) -> str:
    with_event(run, replace(run.events[0], id="event-again"))
    return "call-1 has 2 events"


def repeat_an_id(run: Run) -> str:
    with_event(run, make_event(make_call(12), id=run.events[0].id))
    return "event-of-call-1 "


def bill_a_call_that_nobody_made(run: Run) -> str:
    with_event(run, make_event(make_call(99)))
    return "call-99"


def bill_a_call_without_an_id(run: Run) -> str:
    with_event(run, make_event(make_call(99), request_id="", id="nameless"))
    return "nameless"


def bill_a_call_that_never_arrived(run: Run) -> str:
    with_event(run, make_event(make_call(21, status=0)))
    return "call-21"


def bill_what_only_a_server_s_death_could_excuse(run: Run) -> str:
    """The database's death cuts off no client, and a worker that is only down takes no call."""
    run.outages[0] = replace(run.outages[0], since=START + 20)
    run.kills = [replace(run.kills[0], target="database", is_worker=False)]
    return "call-20"


def leave_a_call_without_an_answer(run: Run) -> str:
    run.calls.append(make_call(70, status=0))
    return "call-70"


def bill_another_organisation(run: Run) -> str:
    run.events[0] = replace(run.events[0], organisation=BOB, key_id="")
    run.daily, run.quotas = sums_of(run.events), {}
    return "call-1 "


def bill_another_key(run: Run) -> str:
    run.events[0] = replace(run.events[0], key_id="key-other")
    run.daily = sums_of(run.events)
    return "key-other"


def bill_a_failure(run: Run) -> str:
    (event,) = (event for event in run.events if event.request_id == "call-10")
    run.events[run.events.index(event)] = replace(event, billed=True)
    run.daily = sums_of(run.events)
    return "call-10"


def note_a_call_that_was_not_let_in(run: Run) -> str:
    with_event(run, make_event(make_call(11, BOB, status=429, code="quota_exceeded")))
    return "call-11"


def let_the_revoked_in(run: Run) -> str:
    call = make_call(41.2, credential="key-gone")  # type: ignore[arg-type]
    run.calls.append(call)
    with_event(run, make_event(call))
    return "call-41.2"


def let_the_revoked_in_unanswered(run: Run) -> str:
    """What its client did not wait for was computed all the same."""
    call = make_call(42, credential="key-gone", status=0, left=True)
    run.calls.append(call)
    with_event(run, make_event(call))
    return "call-42"


def fail_for_no_reason(run: Run) -> str:
    run.calls.append(make_call(71, status=500, code="internal"))
    return "call-71"


def fail_without_a_code(run: Run) -> str:
    run.calls.append(make_call(72, status=503))
    return "call-72"


def be_unavailable_while_all_is_well(run: Run) -> str:
    run.calls.append(make_call(73, status=503, code="unavailable"))
    return "call-73"


def move_a_sum(run: Run) -> str:
    group = next(iter(run.daily))
    run.daily[group] = run.daily[group]._replace(tokens=run.daily[group].tokens + 1)
    return group.organisation


def forget_a_sum(run: Run) -> str:
    group = run.daily.popitem()[0]
    return group.organisation


def pass_a_quota(run: Run) -> str:
    run.quotas[BOB] = Quota(2)
    return "3 calls, 2 are allowed"


def count_otherwise_than_the_ledger(run: Run) -> str:
    run.quotas[BOB] = Quota(4, counted=4)
    return "the counter says 4"


def pass_a_rate(run: Run) -> str:
    run.rates[BOB] = Rate(30, 1)
    return "2 calls let in within 1.100 s, 1 are allowed"


BUGS: dict[Callable[[Run], str], str] = {
    drop_an_event: "answered_is_in_the_ledger",
    double_an_event: "nothing_is_twice",
    repeat_an_id: "nothing_is_twice",
    bill_a_call_that_nobody_made: "surplus_was_in_flight",
    bill_a_call_without_an_id: "surplus_was_in_flight",
    bill_a_call_that_never_arrived: "surplus_was_in_flight",
    bill_what_only_a_server_s_death_could_excuse: "surplus_was_in_flight",
    leave_a_call_without_an_answer: "every_call_is_answered",
    bill_another_organisation: "events_name_their_caller",
    bill_another_key: "events_name_their_caller",
    bill_a_failure: "the_refused_pay_nothing",
    note_a_call_that_was_not_let_in: "the_refused_pay_nothing",
    let_the_revoked_in: "the_revoked_stay_out",
    let_the_revoked_in_unanswered: "the_revoked_stay_out",
    fail_for_no_reason: "errors_are_documented",
    fail_without_a_code: "errors_are_documented",
    be_unavailable_while_all_is_well: "errors_are_documented",
    move_a_sum: "sums_agree",
    forget_a_sum: "sums_agree",
    pass_a_quota: "quotas_hold",
    count_otherwise_than_the_ledger: "quotas_hold",
    pass_a_rate: "rates_hold",
}


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_seeded_bug_is_found(bug: Callable[[Run], str]) -> None:
    """By its own invariant and no other, in a sentence that names what is at fault."""
    run = make_run()
    names = bug(run)
    found = check(run)
    assert {said.split(":")[0] for said in found} == {BUGS[bug]}
    assert any(names in said for said in found), found


def test_every_invariant_has_a_seeded_bug() -> None:
    """One that cannot fail would prove nothing."""
    assert {invariant.__name__ for invariant in INVARIANTS} == set(BUGS.values())


def test_an_empty_run_is_right() -> None:
    """Nothing happened, nothing is wrong."""
    assert check(Run()) == []


@pytest.mark.parametrize(
    ("down", "last", "is_late"),
    [
        ([], 1.01, True),
        ([Outage("redis", START + 39, START + 40.2)], 2.4, False),
        ([Outage("redis", START + 39, START + 40.2)], 2.6, True),
        ([Outage("database", START + 40.1, START + 43)], 10.4, False),
        ([Outage("database", START + 40.1, START + 43)], 10.6, True),
        ([Outage("redis", START + 10, START + 12)], 1.01, True),
    ],
)
def test_the_bound_of_a_revocation(down: list[Outage], last: float, is_late: bool) -> None:
    """A second by the news; by the feed when Redis was down; the feed waits for the database, and its workers to return."""
    call = make_call(0, credential="key-gone", sent_at=START + 40 + last, ended_at=START + 41 + last)
    event = make_event(call)
    run = Run(calls=[call], events=[event], daily=sums_of([event]), outages=down)
    run.revocations = [Revocation("key-gone", START + 40)]
    assert bool(check(run)) is is_late


def test_calls_under_way_at_a_kill_are_the_slack_of_a_quota() -> None:
    """Two were under way, so two may be too many; three may not."""
    run = make_run()
    run.calls = [
        replace(call, organisation=BOB) if call.request_id.startswith("call-20") else call for call in run.calls
    ]
    run.events = [event for event in run.events if not event.request_id.startswith("call-20")]
    run.daily, run.rates = sums_of(run.events), {}
    run.quotas = {BOB: Quota(1, counted=5)}
    assert check(run) == []
    run.quotas = {BOB: Quota(0, counted=6)}
    assert len(check(run)) == 2


@pytest.mark.parametrize(
    ("ended_before_s", "kill", "down", "is_slack"),
    [
        (0.05, Kill("worker-1", START, frozenset()), [], True),
        (0.5, Kill("worker-1", START, frozenset()), [], False),
        (0.05, Kill("worker-2", START, frozenset()), [], False),
        (0.05, Kill("redis", START, frozenset(), is_worker=False), [], True),
        (0.5, Kill("worker-1", START, frozenset()), [Outage("redis", START - 1, START - 0.2)], True),
        (0.5, Kill("worker-1", START, frozenset()), [Outage("redis", START - 0.3, START + 1)], False),
        (0.5, Kill("worker-1", START, frozenset()), [Outage("redis", START - 90, START - 80)], False),
    ],
)
def test_what_a_kill_may_leave_out_of_a_counter(
    ended_before_s: float, kill: Kill, down: list[Outage], is_slack: bool
) -> None:
    """What was not settled yet, and what the worker that was killed let in by its share while Redis was away."""
    call = make_call(0, BOB, ended_at=START - ended_before_s, sent_at=START - ended_before_s - 0.1)
    event = make_event(call)
    run = Run(calls=[call], events=[event], daily=sums_of([event]), kills=[kill], outages=down)
    run.quotas = {BOB: Quota(0, counted=0)}
    assert bool(check(run)) is not is_slack


def test_a_rate_may_begin_anew_when_redis_comes_and_goes() -> None:
    """Each worker counts its share from nothing, and Redis counts on from where it was."""
    calls = [make_call(0, BOB, request_id=f"call-{n}") for n in range(6)]
    events = [make_event(call) for call in calls]
    run = Run(calls=calls, events=events, daily=sums_of(events), rates={BOB: Rate(60, 2)})
    assert len(check(run)) == 1
    run.outages = [Outage("redis", START - 9, START - 1)]
    assert check(run) == []


@pytest.mark.parametrize(
    ("journal_in_redis", "down", "is_right"),
    [
        (True, [Outage("redis", START + 1, START + 3)], True),
        (False, [Outage("redis", START + 1, START + 3)], False),
        (True, [Outage("database", START + 1, START + 3)], False),
    ],
)
def test_a_journal_in_redis_may_keep_what_it_did_not_confirm(
    journal_in_redis: bool, down: list[Outage], is_right: bool
) -> None:
    """Its event is billed although the call was told that it could not be recorded; the counter knows nothing of it."""
    call = make_call(2, BOB, status=503, code="unavailable")
    event = make_event(call, billed=True, status="ok")
    run = Run(calls=[call], events=[event], daily=sums_of([event]), outages=down, quotas={BOB: Quota(1, counted=0)})
    run.journal_in_redis = journal_in_redis
    assert (check(run) == []) is is_right


@pytest.mark.parametrize(("unseen_s", "is_right"), [(0.0, False), (2.0, False), (4.0, True)])
def test_what_others_let_in_may_be_unknown_when_shares_begin(unseen_s: float, is_right: bool) -> None:
    """Only of the last seconds before, and only where clients stay with one worker."""
    call = make_call(7, BOB)
    event = make_event(call)
    run = Run(calls=[call], events=[event], daily=sums_of([event]), quotas={BOB: Quota(0)}, unseen_s=unseen_s)
    run.outages = [Outage("limits", START + 10, START + 12)]
    assert (check(run) == []) is is_right
