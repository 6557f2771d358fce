"""The next batch: fair over callers, of like length, within its bounds, and nothing lost."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.engines.batcher import LIKE_LENGTH, Batcher, Entry, padded

BUDGET = 1024


def batcher(*, max_items: int = 64, max_waiting_tokens: int = 1 << 30, token_budget: int = BUDGET) -> Batcher[Entry]:
    return Batcher(token_budget=token_budget, max_items=max_items, max_waiting_tokens=max_waiting_tokens)


def entry(tenant: str = "one", length: int = 10, deadline: float = math.inf) -> Entry:
    return Entry(tenant=tenant, length=length, deadline=deadline)


def queued(queue: Batcher[Entry], *entries: Entry) -> tuple[Entry, ...]:
    for one in entries:
        queue.add(one)
    return entries


@pytest.mark.parametrize(("length", "cost"), [(1, 16), (16, 16), (17, 32), (256, 256)])
def test_an_item_costs_its_length_padded_to_a_multiple_of_sixteen(length: int, cost: int) -> None:
    assert padded(length) == entry(length=length).cost == cost


def test_an_empty_queue_gives_an_empty_batch() -> None:
    assert batcher().take(0.0) == ([], [])


def test_a_lone_item_does_not_wait_for_company() -> None:
    queue = batcher()
    (one,) = queued(queue, entry())
    assert queue.take(0.0).batch == [one]


def test_items_of_one_padded_length_join_the_head_in_order() -> None:
    queue = batcher()
    entries = queued(queue, *(entry(length=length) for length in (20, 25, 32, 17)))
    assert queue.take(0.0).batch == list(entries)


def test_items_that_are_much_shorter_or_at_all_longer_wait_for_their_own_batch() -> None:
    queue = batcher()
    head, longer, shorter, near = queued(queue, *(entry(length=n) for n in (160, 161, 128, 144)))
    assert [queue.take(0.0).batch for _ in range(3)] == [[head, near], [longer], [shorter]]


def test_the_oldest_item_of_a_caller_is_the_head_whatever_its_length() -> None:
    queue = batcher()
    queued(queue, *(entry(length=16) for _ in range(64)))
    (rare,) = queued(queue, entry(length=256))
    queued(queue, *(entry(length=16) for _ in range(64)))
    assert len(queue.take(0.0).batch) == 64
    assert queue.take(0.0).batch == [rare]


def test_a_large_request_is_split_into_batches_of_the_budget() -> None:
    queue = batcher()
    queued(queue, *(entry(length=256) for _ in range(10)))
    assert [len(queue.take(0.0).batch) for _ in range(4)] == [4, 4, 2, 0]


def test_an_item_larger_than_the_budget_goes_alone() -> None:
    queue = batcher()
    large, _ = queued(queue, entry(length=5000), entry(length=5000))
    assert queue.take(0.0).batch == [large]


def test_a_batch_has_at_most_so_many_items() -> None:
    queue = batcher(max_items=5)
    queued(queue, *(entry() for _ in range(7)))
    assert [len(queue.take(0.0).batch) for _ in range(2)] == [5, 2]


def test_a_batch_is_shared_out_item_by_item_among_the_callers_of_one_length() -> None:
    queue = batcher(max_items=6)
    for tenant in ("a", "b", "c"):
        queued(queue, *(entry(tenant) for _ in range(10)))
    assert Counter(one.tenant for one in queue.take(0.0).batch) == {"a": 2, "b": 2, "c": 2}


def test_a_discarded_item_is_never_taken_and_costs_its_caller_nothing() -> None:
    queue = batcher()
    kept, dropped = queued(queue, entry(), entry())
    queue.discard(dropped)
    assert (queue.waiting_items, queue.waiting_tokens) == (1, 16)
    assert queue.take(0.0).batch == [kept]
    assert queue.take(0.0).batch == []


def test_discarding_what_does_not_wait_is_an_error() -> None:
    queue = batcher()
    one, _ = queued(queue, entry(), entry(length=100))
    queue.take(0.0)
    with pytest.raises(KeyError):
        queue.discard(one)


def test_an_item_whose_deadline_has_passed_is_returned_apart_and_not_charged() -> None:
    queue = batcher()
    late, kept, also_late = queued(queue, entry(deadline=5.0), entry(deadline=5.1), entry(length=200, deadline=4.0))
    assert queue.take(5.0) == ([kept], [late])
    assert queue.take(5.0) == ([], [also_late])
    assert (queue.waiting_items, queue.waiting_tokens) == (0, 0)


def test_clear_gives_back_everything_oldest_first() -> None:
    queue = batcher()
    entries = queued(queue, entry("a", 200), entry("b", 3), entry("a", 3), entry("c", 90))
    assert queue.clear() == list(entries)
    assert queue.take(0.0).batch == []
    assert (queue.waiting_items, queue.waiting_tokens) == (0, 0)


@pytest.mark.parametrize("wrong", ["token_budget", "max_items", "max_waiting_tokens"])
def test_a_bound_below_one_is_refused_by_name(wrong: str) -> None:
    bounds = {"token_budget": 1024, "max_items": 64, "max_waiting_tokens": 4096, wrong: 0}
    with pytest.raises(ValueError, match=f"{wrong} is 0; it must be at least 1"):
        Batcher(**bounds)


def test_a_caller_with_one_text_is_next_but_one_beside_a_bulk_caller() -> None:
    queue = batcher()
    queued(queue, *(entry("bulk", 40) for _ in range(10_000)))
    for _ in range(5):
        queue.take(0.0)
        (single,) = queued(queue, entry("single", 200))
        batches = [queue.take(0.0).batch for _ in range(2)]
        assert any(single in batch for batch in batches)


def test_coming_back_is_no_way_out_of_debt() -> None:
    """Two overlapping requests of one caller, each a whole batch, leave every second batch to another
    caller."""
    queue = batcher()
    queued(queue, *(entry("patient", 128) for _ in range(1000)))
    owners = []
    for _ in range(40):
        queued(queue, *(entry("eager", 16) for _ in range(64)))
        owners.append({one.tenant for one in queue.take(0.0).batch})
    assert 18 <= owners.count({"patient"}) <= 22


def test_debts_end_when_nobody_waits() -> None:
    queue = batcher()
    queued(queue, *(entry("yesterday's bulk", 16) for _ in range(64)))
    queue.take(0.0)
    first, second = queued(queue, entry("yesterday's bulk", 16), entry("another", 256))
    assert [queue.take(0.0).batch for _ in range(2)] == [[first], [second]]


def test_a_caller_that_was_away_has_saved_up_no_turns() -> None:
    """While a caller with giant items pays them off, another one comes back and gets its part, not more."""
    queue = batcher()
    queued(queue, *(entry("giant", 8192) for _ in range(20)), *(entry("back", 128) for _ in range(8)))
    while queue.waiting_items > 15:
        queue.take(0.0)
    queued(queue, *(entry("back", 128) for _ in range(1000)))
    tokens = Counter(one.tenant for _ in range(60) for one in queue.take(0.0).batch)
    assert abs(tokens["giant"] * 8192 - tokens["back"] * 128) < 4 * 8192


def test_joining_the_batches_of_others_is_paid_for() -> None:
    """A bulk caller whose items fit into the batches of others gets no more than one whose do not."""
    queue = batcher()
    queued(queue, *(entry("common", 16) for _ in range(5000)))
    queued(queue, *(entry("rare", 256) for _ in range(500)))
    computed: Counter[str] = Counter()
    for turn in range(60):
        queued(queue, entry(f"passer-by {turn}", 16))
        for one in queue.take(0.0).batch:
            computed[one.tenant] += one.cost
    assert abs(computed["common"] - computed["rare"]) < 4 * BUDGET
    assert computed["rare"] > 10_000


@pytest.mark.parametrize("tenants", [1, 50, 20_000])
def test_a_hundred_thousand_waiting_items_are_no_burden(tenants: int) -> None:
    queue = batcher(max_waiting_tokens=1 << 40)
    entries = [entry(f"caller {i % tenants}", 1 + i * 37 % 256) for i in range(100_000)]
    started = time.process_time()
    queued(queue, *entries)
    for one in entries[::10]:
        queue.discard(one)
    taken = sum(len(queue.take(0.0).batch) for _ in range(2000))
    # Measured 0.3 s; anything that grows with what waits would take minutes.
    assert time.process_time() - started < 10.0
    assert taken >= 2000


# Admission


def test_a_caller_alone_may_hold_four_fifths_of_the_bound() -> None:
    queue = batcher(max_waiting_tokens=1600)
    queued(queue, *(entry(length=16) for _ in range(79)))
    assert queue.admits("one", 16)
    queued(queue, entry(length=16))
    assert not queue.admits("one", 16)


def test_what_a_bulk_caller_leaves_free_is_there_for_one_that_needs_little() -> None:
    queue = batcher(max_waiting_tokens=1600)
    queued(queue, *(entry("bulk", 16) for _ in range(80)))
    assert queue.admits("single", 256)
    assert not queue.admits("second bulk", 1280)


def test_each_of_many_bulk_callers_holds_less_and_the_bound_is_never_passed() -> None:
    queue = batcher(max_waiting_tokens=16_000)
    for _ in range(1000):
        for tenant in "abcdefgh":
            if queue.admits(tenant, 16):
                queue.add(entry(tenant, 16))
    assert queue.waiting_tokens <= 16_000
    assert queue.admits("newcomer", 256)


def test_a_request_of_any_size_is_admitted_from_a_caller_with_nothing_waiting_on_an_empty_queue() -> None:
    queue = batcher(max_waiting_tokens=1600)
    assert queue.admits("giant", 1_000_000)
    queued(queue, *(entry("giant", 256) for _ in range(100)))
    assert not queue.admits("giant", 16)
    assert not queue.admits("second giant", 1_000_000)
    assert queue.admits("single", 256)


def test_room_comes_back_as_items_are_taken_and_discarded() -> None:
    queue = batcher(max_waiting_tokens=160)
    first, *_ = queued(queue, *(entry(length=16) for _ in range(8)))
    assert not queue.admits("one", 16)
    queue.discard(first)
    assert queue.admits("one", 16)
    queue.take(0.0)
    assert queue.admits("one", 128)


# Properties

TENANTS = st.sampled_from("abc")
LENGTHS = st.one_of(st.integers(1, 40), st.integers(1, 300), st.just(1500))
DEADLINES = st.one_of(st.just(math.inf), st.integers(0, 30).map(float))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), TENANTS, LENGTHS, DEADLINES),
        st.tuples(st.just("discard"), st.integers(0, 10_000)),
        st.tuples(st.just("take")),
    ),
    max_size=150,
)


def check_batch(batch: list[Entry], *, max_items: int) -> None:
    if len(batch) > 1:
        longest = max(one.cost for one in batch)
        assert len(batch) * longest <= BUDGET
        assert all(longest - one.cost <= longest / LIKE_LENGTH for one in batch)
    assert len(batch) <= max_items


@settings(max_examples=200, deadline=None)
@given(steps=STEPS, max_items=st.integers(1, 64))
def test_whatever_happens_nothing_is_lost_doubled_late_reordered_or_over_the_bounds(
    steps: list[tuple[object, ...]], max_items: int
) -> None:
    queue = batcher(max_items=max_items)
    waiting: dict[Entry, None] = {}
    taken: list[Entry] = []
    now = 0.0

    def take() -> None:
        batch, expired = queue.take(now)
        check_batch(batch, max_items=max_items)
        for one in [*batch, *expired]:
            del waiting[one]
        assert all(one.deadline > now for one in batch)
        assert all(one.deadline <= now for one in expired)
        assert batch or not waiting
        taken.extend(batch)

    for step in steps:
        now += 0.2
        match step:
            case ("add", str(tenant), int(length), float(deadline)):
                one = entry(tenant, length, deadline)
                queue.add(one)
                waiting[one] = None
            case ("discard", int(index)) if waiting:
                one = list(waiting)[index % len(waiting)]
                queue.discard(one)
                del waiting[one]
            case ("take",):
                take()
        assert queue.waiting_items == len(waiting)
        assert queue.waiting_tokens == sum(one.cost for one in waiting)
    while waiting:
        take()
    assert queue.take(now) == ([], [])
    lines = defaultdict(list)
    for one in taken:
        lines[one.tenant, one.cost].append(one.order)
    assert all(earlier < later for line in lines.values() for earlier, later in pairwise(line))


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(1, 300), min_size=1, max_size=6), min_size=2, max_size=5),
    passers_by=st.lists(st.integers(0, 300), min_size=60, max_size=60),
)
def test_callers_that_always_wait_get_the_same_to_within_four_batches(
    lengths: list[list[int]], passers_by: list[int]
) -> None:
    queue = batcher()
    computed = Counter({str(number): 0 for number in range(len(lengths))})
    waiting: Counter[str] = Counter()
    for turn, passer_by in enumerate(passers_by):
        for number, own in enumerate(lengths):
            while waiting[str(number)] < 200:
                queue.add(entry(str(number), own[waiting[str(number)] % len(own)]))
                waiting[str(number)] += 1
        if passer_by:
            queue.add(entry(f"passer-by {turn}", passer_by))
        for one in queue.take(0.0).batch:
            waiting[one.tenant] -= 1
            if one.tenant in computed:
                computed[one.tenant] += one.cost
        assert max(computed.values()) - min(computed.values()) < 4 * BUDGET


@settings(max_examples=100, deadline=None)
@given(
    bulk=st.lists(st.lists(st.integers(1, 256), min_size=1, max_size=4), min_size=1, max_size=8),
    before=st.integers(0, 20),
    length=st.integers(1, 256),
)
def test_a_newcomer_waits_for_at_most_two_batches_a_bulk_caller(
    bulk: list[list[int]], before: int, length: int
) -> None:
    queue = batcher()
    for number, lengths in enumerate(bulk):
        queued(queue, *(entry(str(number), lengths[i % len(lengths)]) for i in range(1500)))
    for _ in range(before):
        queue.take(0.0)
    (newcomer,) = queued(queue, entry("newcomer", length))
    tokens = 0
    while newcomer not in (batch := queue.take(0.0).batch):
        tokens += sum(one.cost for one in batch)
        assert tokens <= 2 * BUDGET * len(bulk)


def test_until_a_caller_has_its_own_the_others_have_as_much_each_at_most() -> None:
    queue = batcher()
    assert queue.until("one", 32) == 32
    queued(queue, entry("one", 100), entry("two", 16), entry("three", 256))
    assert queue.until("one", 32) == 112 + 32 + 16 + 144
    assert queue.until("four", 16) == 16 + 16 + 16 + 16
