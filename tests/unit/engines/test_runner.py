"""The runner: batches without waiting, sharing, leaving, deadlines, failures, overload, stopping."""

from __future__ import annotations

import asyncio
import functools
import gc
import math
import threading
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import pytest

from phalanx.engines import runner as runner_module
from phalanx.engines.runner import BatchFacts, Runner
from phalanx.errors import DeadlineExceeded, Internal, Overloaded, PhalanxError, TextTooLong, Unavailable
from phalanx.ports import Engine, Finished, Submission


class Item(NamedTuple):
    """What the test engine computes: its word in capitals."""

    word: str
    length: int = 10


class Capitals:
    """An engine that keeps what it was given and, while held, computes nothing until it is let go."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[str]] = []
        self._entered = threading.Semaphore(0)
        self._gate = threading.Event()
        if not held:
            self._gate.set()

    def run(self, batch: Sequence[Item]) -> Sequence[str]:
        self.batches.append([item.word for item in batch])
        self._entered.release()
        assert self._gate.wait(10), "the test never let the engine go"
        return [self.compute(item) for item in batch]

    def compute(self, item: Item) -> str:
        return item.word.upper()

    def hold(self) -> None:
        """Compute nothing from the next batch on, and forget those that were entered."""
        self._gate.clear()
        self._entered = threading.Semaphore(0)

    def let_go(self) -> None:
        self._gate.set()

    async def entered(self) -> None:
        """Return when the next batch is in the engine."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=10)

    @property
    def words(self) -> list[str]:
        return [word for batch in self.batches for word in batch]


class Picky(Capitals):
    """Fails on the word `poison` with a secret, and with an error of the table on `long`."""

    def compute(self, item: Item) -> str:
        if item.word == "poison":
            raise RuntimeError("secret path")
        if item.word == "long":
            raise TextTooLong("300 tokens, 256 are allowed")
        return super().compute(item)


class Stepped(Picky):
    """Runs each batch when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self._steps = threading.Semaphore(0)

    def run(self, batch: Sequence[Item]) -> Sequence[str]:
        results = [item.word for item in batch]
        self.batches.append(results)
        self._entered.release()
        assert self._steps.acquire(timeout=10), "the test never let the engine go"
        return [self.compute(item) for item in batch]

    def step(self) -> None:
        self._steps.release()


class ManualClock:
    """Monotonic seconds that pass when the test, or the engine, says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Log:
    """Keeps what was logged."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def error(self, event: str, **values: Any) -> None:
        self.events.append((event, values))

    warning = error


Made = Runner[Item, str]


def on_a_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on an event loop of its own, for ten seconds at most."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 10))

    return run


def started(engine: Engine[Item, str], **options: Any) -> Made:
    runner = Runner(engine, name="tiny", log=options.pop("log", Log()), **options)
    runner.start()
    return runner


def submit(
    runner: Made,
    *words: str,
    tenant: str = "one",
    length: int = 10,
    within: float = math.inf,
    shared: bool = False,
) -> asyncio.Task[list[Finished[str] | PhalanxError]]:
    """Submit words from a task of their own; `shared` makes equal words identical."""
    items = [Submission(Item(word, length), word if shared else None) for word in words]
    return asyncio.create_task(runner.submit(items, tenant=tenant, deadline=time.monotonic() + within))


async def queued(*tasks: asyncio.Task[Any]) -> None:
    """Let submitted tasks run up to where they wait."""
    for _ in tasks:
        await asyncio.sleep(0)


def values(results: list[Finished[str] | PhalanxError]) -> list[str]:
    return [result.code if isinstance(result, PhalanxError) else result.value for result in results]


# Batches


@on_a_loop
async def test_results_come_back_in_the_order_of_the_items_with_their_times() -> None:
    runner = started(Capitals())
    results = await submit(runner, "a", "b", "c")
    assert values(results) == ["A", "B", "C"]
    assert all(isinstance(one, Finished) and one.queue_s >= 0 and one.engine_s >= 0 for one in results)
    await runner.stop(1)


@on_a_loop
async def test_no_items_are_no_work() -> None:
    engine = Capitals()
    runner = started(engine)
    assert await submit(runner) == []
    await runner.stop(1)
    assert engine.batches == []


@on_a_loop
async def test_an_idle_engine_takes_the_first_item_alone_and_then_all_that_queued_meanwhile() -> None:
    engine = Capitals(held=True)
    runner = started(engine)
    first = submit(runner, "a")
    await engine.entered()
    others = [submit(runner, word, tenant=word) for word in "bcdef"]
    await queued(*others)
    engine.let_go()
    await asyncio.gather(first, *others)
    assert engine.batches == [["a"], list("bcdef")]
    await runner.stop(1)


@on_a_loop
async def test_a_large_request_is_split_and_comes_back_whole() -> None:
    engine = Capitals()
    runner = started(engine, token_budget=64)
    words = [f"w{number}" for number in range(100)]
    assert values(await submit(runner, *words, length=16)) == [word.upper() for word in words]
    assert max(len(batch) for batch in engine.batches) == 4
    assert sorted(engine.words) == sorted(words)
    await runner.stop(1)


@on_a_loop
async def test_a_single_text_passes_ten_thousand_of_another_caller() -> None:
    engine = Capitals(held=True)
    runner = started(engine, max_waiting_tokens=1 << 20)
    bulk = submit(runner, *(["bulk"] * 10_000), tenant="bulk", length=40)
    await engine.entered()
    single = submit(runner, "single", tenant="single", length=100)
    await queued(single)
    engine.let_go()
    await asyncio.gather(bulk, single)
    assert "single" in [word for batch in engine.batches[:3] for word in batch]
    assert len(engine.batches) > 400
    await runner.stop(1)


@on_a_loop
async def test_a_request_wakes_its_event_loop_once_however_many_batches_it_takes() -> None:
    loop = asyncio.get_running_loop()
    wakes = []
    original = loop.call_soon_threadsafe

    def counting(callback: Callable[..., Any], *args: Any, **kwargs: Any) -> asyncio.Handle:
        wakes.append(threading.current_thread().name)
        return original(callback, *args, **kwargs)

    engine = Capitals()
    runner = started(engine, token_budget=32)
    loop.call_soon_threadsafe = counting  # type: ignore[method-assign,assignment]
    await submit(runner, *("w" * 500))
    loop.call_soon_threadsafe = original  # type: ignore[method-assign]
    assert len(engine.batches) == 250
    assert wakes == ["engine-tiny"]
    await runner.stop(1)


@on_a_loop
async def test_an_answered_request_leaves_no_timer_behind() -> None:
    loop = asyncio.get_running_loop()
    timers = []
    original = loop.call_later

    def keeping(delay: float, callback: Callable[..., Any], *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        timers.append(original(delay, callback, *args, **kwargs))
        return timers[-1]

    runner = started(Capitals(), max_waiting_tokens=160)
    loop.call_later = keeping  # type: ignore[method-assign,assignment]
    await submit(runner, "a", within=30)
    await submit(runner, "a", within=math.inf)
    loop.call_later = original  # type: ignore[method-assign]
    assert [timer.cancelled() for timer in timers] == [True]
    await runner.stop(1)


@on_a_loop
async def test_two_thousand_requests_at_once_are_each_answered_or_refused_and_none_is_lost() -> None:
    engine = Capitals(held=True)
    runner = started(engine, max_waiting_tokens=16_000)
    tasks = [submit(runner, f"w{number}", tenant=f"t{number % 50}") for number in range(2000)]
    await queued(*tasks)
    refused = sum(task.done() for task in tasks)
    engine.let_go()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    counts = Counter(type(answer) for answer in answers)
    assert counts == {list: 2000 - refused, Overloaded: refused}
    assert 900 <= counts[list] <= 1064
    assert sorted(engine.words) == sorted(
        f"w{number}" for number, answer in enumerate(answers) if isinstance(answer, list)
    )
    assert runner.stats()[:3] == (0, 0, 0)
    await runner.stop(1)


# Sharing


@on_a_loop
async def test_identical_items_of_one_tenant_are_computed_once() -> None:
    engine = Capitals(held=True)
    runner = started(engine)
    running = submit(runner, "x")
    await engine.entered()
    first = submit(runner, "a", "b", "a", shared=True)
    second = submit(runner, "b", "c", shared=True)
    await queued(first, second)
    assert runner.stats().waiting_items == 3
    engine.let_go()
    assert values(await first) == ["A", "B", "A"]
    assert values(await second) == ["B", "C"]
    await running
    assert sorted(engine.words) == ["a", "b", "c", "x"]
    await runner.stop(1)


@on_a_loop
async def test_items_of_two_tenants_and_items_without_identity_are_never_shared() -> None:
    engine = Capitals(held=True)
    runner = started(engine)
    tasks = [
        submit(runner, "a", shared=True),
        submit(runner, "a", shared=True, tenant="two"),
        submit(runner, "a", "a"),
    ]
    await queued(*tasks)
    engine.let_go()
    await asyncio.gather(*tasks)
    assert engine.words == ["a"] * 4
    await runner.stop(1)


@on_a_loop
async def test_an_item_under_way_is_joined_without_queueing() -> None:
    engine = Capitals(held=True)
    runner = started(engine)
    leader = submit(runner, "a", shared=True)
    await engine.entered()
    follower = submit(runner, "a", shared=True)
    await queued(follower)
    assert runner.stats().waiting_items == 0
    engine.let_go()
    (joined,) = await follower
    (led,) = await leader
    assert isinstance(joined, Finished)
    assert isinstance(led, Finished)
    assert joined.queue_s == 0.0
    assert joined.engine_s < led.engine_s
    assert engine.words == ["a"]
    await runner.stop(1)


@on_a_loop
async def test_what_is_finished_is_computed_anew() -> None:
    engine = Capitals()
    runner = started(engine)
    await submit(runner, "a", shared=True)
    await submit(runner, "a", shared=True)
    assert engine.words == ["a", "a"]
    await runner.stop(1)


@pytest.mark.parametrize("is_running", [False, True], ids=["queued", "running"])
@on_a_loop
async def test_the_leaders_leaving_does_not_hurt_its_followers(is_running: bool) -> None:
    engine = Capitals(held=True)
    runner = started(engine)
    blocker = submit(runner, "x") if not is_running else None
    if blocker:
        await engine.entered()
    leader = submit(runner, "a", shared=True)
    await queued(leader)
    if is_running:
        await engine.entered()
    follower = submit(runner, "a", shared=True)
    await queued(follower)
    leader.cancel()
    await asyncio.wait([leader])
    engine.let_go()
    assert values(await follower) == ["A"]
    assert engine.words.count("a") == 1
    await runner.stop(1)


@on_a_loop
async def test_the_leaders_deadline_is_its_own() -> None:
    engine = Capitals(held=True)
    runner = started(engine)
    blocker = submit(runner, "x")
    await engine.entered()
    leader = submit(runner, "a", shared=True, within=0.02)
    follower = submit(runner, "a", shared=True)
    with pytest.raises(DeadlineExceeded):
        await leader
    engine.let_go()
    assert values(await follower) == ["A"]
    await blocker
    await runner.stop(1)


# Leaving and lateness


@on_a_loop
async def test_a_cancelled_request_is_dropped_before_it_costs_anything() -> None:
    engine = Capitals(held=True)
    runner = started(engine)
    blocker = submit(runner, "x")
    await engine.entered()
    leaving = submit(runner, *("a" * 1000), *("b" * 10), tenant="leaving", shared=True)
    plain = submit(runner, "c", "d", tenant="leaving")
    staying = submit(runner, "e")
    await queued(leaving, plain, staying)
    leaving.cancel()
    plain.cancel()
    await asyncio.wait([leaving, plain])
    assert runner.stats()[:3] == (1, 16, 1)
    engine.let_go()
    await asyncio.gather(blocker, staying)
    assert engine.words == ["x", "e"]
    await runner.stop(1)


@on_a_loop
async def test_a_deadline_ends_the_wait_though_the_engine_is_stuck_and_drops_what_is_queued() -> None:
    engine = Capitals(held=True)
    runner = started(engine)
    stuck = submit(runner, "stuck", within=0.02)
    await engine.entered()
    waiting = submit(runner, "late", within=0.02)
    for task in (stuck, waiting):
        with pytest.raises(DeadlineExceeded, match="before its deadline"):
            await task
    assert runner.stats()[:3] == (0, 0, 1)
    engine.let_go()
    await submit(runner, "next")
    assert engine.words == ["stuck", "next"]
    await runner.stop(1)


@on_a_loop
async def test_a_deadline_in_the_past_is_refused_before_anything_is_queued() -> None:
    engine = Capitals()
    runner = started(engine)
    with pytest.raises(DeadlineExceeded, match="had passed by"):
        await submit(runner, "a", within=-0.5)
    await runner.stop(1)
    assert engine.batches == []


@on_a_loop
async def test_the_engine_thread_drops_what_is_late_even_when_the_timer_of_the_loop_is_later() -> None:
    clock = ManualClock()
    engine = Capitals(held=True)
    runner = started(engine, now=clock)
    blocker = asyncio.create_task(runner.submit([Submission(Item("x"))], tenant="one", deadline=clock() + 3600))
    await engine.entered()
    late = asyncio.create_task(runner.submit([Submission(Item("a"))], tenant="one", deadline=clock() + 1800))
    await queued(late)
    clock.seconds += 1800
    engine.let_go()
    assert values(await blocker) == ["X"]
    with pytest.raises(DeadlineExceeded):
        await late
    assert engine.words == ["x"]
    await runner.stop(1)


# Failures


@on_a_loop
async def test_one_bad_item_does_not_hurt_its_batch_mates_and_its_reason_is_logged_not_shown() -> None:
    engine, log = Picky(held=True), Log()
    runner = started(engine, log=log)
    blocker = submit(runner, "x")
    await engine.entered()
    mates = submit(runner, "a", "poison", "b")
    long = submit(runner, "long")
    await queued(mates, long)
    engine.let_go()
    results = await mates
    assert values(results) == ["A", "internal", "B"]
    assert isinstance(results[1], Internal)
    assert "secret" not in str(results[1])
    (shown,) = await long
    assert isinstance(shown, TextTooLong)
    assert shown.detail == "300 tokens, 256 are allowed"
    assert engine.batches[1:] == [["a", "poison", "b", "long"], ["a"], ["poison"], ["b"], ["long"]]
    assert [event for event, _ in log.events] == ["engine.batch_failed", *["engine.item_failed"] * 2]
    assert log.events[0][1]["exc_info"] is True
    assert "secret path" in log.events[1][1]["error"]
    await blocker
    await runner.stop(1)


@on_a_loop
async def test_a_lone_item_that_fails_is_not_tried_again() -> None:
    engine = Picky()
    runner = started(engine)
    assert values(await submit(runner, "poison")) == ["internal"]
    assert values(await submit(runner, "long")) == ["text_too_long"]
    assert values(await submit(runner, "fine")) == ["FINE"]
    assert engine.batches == [["poison"], ["long"], ["fine"]]
    await runner.stop(1)


@on_a_loop
async def test_followers_of_an_item_that_fails_get_its_error() -> None:
    engine = Picky(held=True)
    runner = started(engine)
    leader = submit(runner, "long", shared=True)
    await engine.entered()
    follower = submit(runner, "long", shared=True)
    await queued(follower)
    engine.let_go()
    assert values(await leader) == values(await follower) == ["text_too_long"]
    await runner.stop(1)


@on_a_loop
async def test_an_item_that_nobody_waits_for_any_more_is_not_tried_alone() -> None:
    engine = Stepped()
    runner = started(engine)
    blocker = submit(runner, "x")
    await engine.entered()
    leaving = submit(runner, "a", tenant="leaving", shared=True)
    staying = submit(runner, "poison", "b")
    await queued(leaving, staying)
    engine.step()
    await engine.entered()
    leaving.cancel()
    await asyncio.wait([leaving])
    for _ in ("together", "poison", "b"):
        engine.step()
    assert values(await staying) == ["internal", "B"]
    assert engine.batches == [["x"], ["a", "poison", "b"], ["poison"], ["b"]]
    await blocker
    await runner.stop(1)


@on_a_loop
async def test_who_comes_for_an_item_that_was_given_up_starts_it_anew_and_shares_it_again() -> None:
    engine = Stepped()
    runner = started(engine)
    blocker = submit(runner, "x")
    await engine.entered()
    leaving = submit(runner, "a", shared=True, tenant="two")
    staying = submit(runner, "poison")
    await queued(leaving, staying)
    engine.step()
    await engine.entered()
    leaving.cancel()
    await asyncio.wait([leaving])
    engine.step()
    await engine.entered()
    anew = submit(runner, "a", shared=True, tenant="two")
    await queued(anew)
    engine.step()
    await engine.entered()
    again = submit(runner, "a", shared=True, tenant="two")
    await queued(again)
    engine.step()
    assert values(await anew) == values(await again) == ["A"]
    assert engine.batches == [["x"], ["a", "poison"], ["poison"], ["a"]]
    await asyncio.gather(blocker, staying)
    await runner.stop(1)


@on_a_loop
async def test_nothing_of_a_finished_request_is_kept() -> None:
    class Weighty:
        length = 10
        word = "a"

    runner = started(Capitals())
    item = Weighty()
    kept = weakref.ref(item)
    gc.disable()
    try:
        await runner.submit([Submission(item)], tenant="one", deadline=math.inf)  # type: ignore[arg-type]
        await runner.stop(1)
        del item
        assert kept() is None
    finally:
        gc.enable()


@on_a_loop
async def test_an_engine_that_returns_too_few_results_fails_the_batch_and_not_the_thread() -> None:
    class Forgetful(Capitals):
        def run(self, batch: Sequence[Item]) -> Sequence[str]:
            return super().run(batch)[1:]

    log = Log()
    runner = started(Forgetful(), log=log)
    assert values(await submit(runner, "a")) == ["internal"]
    assert log.events[0][0] == "engine.batch_failed"
    assert runner.is_alive(time.monotonic())
    await runner.stop(1)


@on_a_loop
async def test_when_the_thread_itself_fails_everyone_is_told_and_the_runner_is_dead() -> None:
    class NoLog(Log):
        def error(self, event: str, **values: Any) -> None:
            super().error(event, **values)
            if event == "engine.batch_failed":
                raise OSError("the disk is full")

    engine, log = Picky(held=True), NoLog()
    runner = started(engine, log=log)
    running = submit(runner, "poison")
    await engine.entered()
    waiting = submit(runner, "a")
    await queued(waiting)
    engine.let_go()
    for task in (running, waiting):
        with pytest.raises(Unavailable, match="'tiny' stopped"):
            await task
    assert log.events[-1][0] == "engine.thread_failed"
    await runner.stop(1)
    assert not runner.is_alive(time.monotonic())
    with pytest.raises(Unavailable, match="has stopped"):
        await submit(runner, "b")


# Overload


class Paced(Capitals):
    """Computes a thousand padded tokens a second of the manual clock."""

    def __init__(self, clock: ManualClock, *, held: bool = False) -> None:
        super().__init__(held=held)
        self._clock = clock

    def compute(self, item: Item) -> str:
        self._clock.seconds += -(-item.length // 16) * 16 / 1000
        return super().compute(item)


@on_a_loop
async def test_what_would_come_too_late_is_refused_at_once() -> None:
    """By what is computed before it: of another caller no more than of this one, and nothing when nobody waits."""
    clock = ManualClock()
    engine = Paced(clock)
    runner = started(engine, now=clock)
    await submit(runner, *("w" * 100))
    engine.hold()

    def ask(word: str, tenant: str, within: float, length: int = 10) -> asyncio.Task[Any]:
        items = [Submission(Item(word, length), None)]
        return asyncio.create_task(runner.submit(items, tenant=tenant, deadline=clock() + within))

    running = ask("running", "one", math.inf)
    await engine.entered()
    alone = ask("alone", "one", 100, length=100_000)
    await queued(alone)
    alone.cancel()
    await asyncio.wait([alone])
    bulk = ask("bulk", "one", math.inf, length=30_000)
    await queued(bulk)
    with pytest.raises(Overloaded, match="16 more of this caller would be computed too late; try again in 30 s"):
        await ask("late", "one", 40)
    asked = [ask("soon enough", "one", 50), ask("somebody else", "two", 40)]
    await queued(*asked)
    assert alone.cancelled()
    assert not any(task.done() for task in asked)
    for task in asked:
        task.cancel()
    engine.let_go()
    await asyncio.gather(running, bulk)
    await runner.stop(1)


@pytest.mark.parametrize(
    ("waiting", "retry_after_s"),
    [(96, 1), (992, 1), (1008, 2), (2512, 3), (59_504, 60), (1_000_000, 60)],
)
@on_a_loop
async def test_retry_after_is_what_waits_over_the_measured_rate(waiting: int, retry_after_s: int) -> None:
    clock = ManualClock()
    engine = Paced(clock)
    runner = started(engine, now=clock, max_waiting_tokens=waiting)
    await submit(runner, *("w" * 100))
    assert runner.stats().tokens_per_s == pytest.approx(1000)
    engine.hold()
    running = submit(runner, "running")
    await engine.entered()
    bulk = submit(runner, "a", length=waiting)
    await queued(bulk)
    with pytest.raises(Overloaded) as refused:
        await submit(runner, "b")
    assert refused.value.retry_after_s == retry_after_s
    assert f"no room for 16 more of this caller; try again in {retry_after_s} s" in refused.value.detail
    engine.let_go()
    await asyncio.gather(running, bulk)
    await runner.stop(1)


@on_a_loop
async def test_a_request_is_admitted_whole_or_not_at_all_and_a_refused_one_leaves_nothing() -> None:
    engine = Capitals(held=True)
    runner = started(engine, max_waiting_tokens=160)
    running = submit(runner, "x")
    await engine.entered()
    fits = submit(runner, *("a" * 5))
    await queued(fits)
    with pytest.raises(Overloaded) as refused:
        await submit(runner, "b", *(f"b{number}" for number in range(9)), shared=True)
    assert refused.value.retry_after_s == 1
    assert runner.stats()[:2] == (5, 80)
    engine.let_go()
    await asyncio.gather(running, fits)
    assert "b" not in engine.words
    assert values(await submit(runner, "b", shared=True)) == ["B"]
    await runner.stop(1)


@on_a_loop
async def test_a_full_queue_still_lets_followers_and_small_callers_in() -> None:
    engine = Capitals(held=True)
    runner = started(engine, max_waiting_tokens=1600)
    running = submit(runner, "x")
    await engine.entered()
    bulk = submit(runner, *(f"w{number}" for number in range(120)), tenant="bulk", shared=True)
    await queued(bulk)
    with pytest.raises(Overloaded):
        await submit(runner, "one more", tenant="bulk")
    tasks = [submit(runner, "w7", tenant="bulk", shared=True), submit(runner, "small", tenant="small")]
    await queued(*tasks)
    engine.let_go()
    assert [values(answer) for answer in await asyncio.gather(*tasks)] == [["W7"], ["SMALL"]]
    await asyncio.gather(running, bulk)
    await runner.stop(1)


@on_a_loop
async def test_a_request_larger_than_the_queue_is_split_when_its_caller_has_nothing_waiting() -> None:
    engine = Capitals()
    runner = started(engine, max_waiting_tokens=160)
    assert len(await submit(runner, *("w" * 1000))) == 1000
    await runner.stop(1)


# Lifecycle


@on_a_loop
async def test_stop_refuses_what_is_new_and_finishes_what_waits() -> None:
    engine = Capitals(held=True)
    runner = started(engine)
    running = submit(runner, "x")
    await engine.entered()
    waiting = submit(runner, "a", "b")
    await queued(waiting)
    stopping = asyncio.create_task(runner.stop(10))
    await queued(stopping)
    with pytest.raises(Unavailable, match="'tiny' is stopping"):
        await submit(runner, "c")
    engine.let_go()
    await stopping
    assert values(await running) == ["X"]
    assert values(await waiting) == ["A", "B"]
    assert not runner.is_alive(time.monotonic())


@on_a_loop
async def test_what_is_not_done_in_the_drain_time_is_told_so_and_a_stuck_engine_is_left_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runner_module, "JOIN_S", 0.01)
    engine, log = Capitals(held=True), Log()
    runner = started(engine, log=log)
    running = submit(runner, "x")
    await engine.entered()
    waiting = submit(runner, "a")
    await queued(waiting)
    await runner.stop(0.01)
    for task in (running, waiting):
        with pytest.raises(Unavailable, match="stopped before the call was computed"):
            await task
    assert [event for event, _ in log.events] == ["engine.left_behind"]
    engine.let_go()
    await runner.stop(5)
    assert engine.words == ["x"]
    assert runner.stats()[:3] == (0, 0, 0)


@on_a_loop
async def test_stopping_twice_or_at_once_from_two_sides_is_stopping_once() -> None:
    runner = started(Capitals())
    await asyncio.gather(runner.stop(1), runner.stop(1))
    await runner.stop(1)
    assert not runner.is_alive(time.monotonic())


@on_a_loop
async def test_before_start_and_after_stop_calls_are_refused_with_the_reason() -> None:
    runner: Made = Runner(Capitals(), name="tiny")
    assert not runner.is_alive(time.monotonic())
    with pytest.raises(Unavailable, match="the engine of 'tiny' has not started"):
        await submit(runner, "a")
    await runner.stop(1)
    with pytest.raises(Unavailable, match="has stopped"):
        await submit(runner, "a")
    with pytest.raises(RuntimeError, match="make a new one"):
        runner.start()


@on_a_loop
async def test_starting_twice_is_starting_once() -> None:
    runner = started(Capitals())
    runner.start()
    assert values(await submit(runner, "a")) == ["A"]
    await runner.stop(1)


@on_a_loop
async def test_a_busy_engine_is_alive_until_it_is_stuck() -> None:
    clock = ManualClock()
    engine = Capitals(held=True)
    runner = started(engine, now=clock, stuck_after_s=5.0)
    assert runner.is_alive(clock() + 100)
    running = asyncio.create_task(runner.submit([Submission(Item("a"))], tenant="one", deadline=math.inf))
    await engine.entered()
    assert runner.stats().busy_since == clock()
    assert runner.is_alive(clock() + 5.0)
    assert not runner.is_alive(clock() + 5.1)
    engine.let_go()
    await running
    assert runner.is_alive(clock() + 100)
    await runner.stop(1)


# What it tells about itself


@on_a_loop
async def test_counts_and_padding_are_those_of_what_was_computed() -> None:
    clock = ManualClock()
    facts: list[BatchFacts] = []
    runner = started(Paced(clock), now=clock, on_batch=facts.append)
    assert runner.stats().padding_ratio == 0.0
    await submit(runner, "a", "b", length=20)
    at = clock()
    stats = runner.stats()
    assert (stats.batches, stats.items, stats.tokens, stats.padded_tokens) == (1, 2, 40, 64)
    assert stats.padding_ratio == pytest.approx(24 / 64)
    assert (stats.last_batch_at, stats.busy_since) == (at, None)
    await runner.stop(1)
    (fact,) = facts
    assert fact[:4] == (2, 0, 40, 64)
    assert fact.queue_s == (0.0, 0.0)
    assert fact.engine_s == pytest.approx(0.064)


@on_a_loop
async def test_failed_items_are_counted_in_the_facts() -> None:
    facts: list[BatchFacts] = []
    runner = started(Picky(), on_batch=facts.append)
    await submit(runner, "a", "poison", "b")
    await runner.stop(1)
    assert [(fact.items, fact.failed) for fact in facts] == [(3, 1)]


@on_a_loop
async def test_a_report_that_fails_is_logged_and_hurts_nobody() -> None:
    def report(facts: BatchFacts) -> None:
        raise KeyError(facts.items)

    log = Log()
    runner = started(Capitals(), on_batch=report, log=log)
    assert values(await submit(runner, "a")) == ["A"]
    assert values(await submit(runner, "b")) == ["B"]
    await runner.stop(1)
    assert [event for event, _ in log.events] == ["engine.report_failed"] * 2
